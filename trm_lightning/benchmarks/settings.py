"""Speed of a training step by precision, compilation and CUDA graph: what to set on a machine."""

import itertools
from typing import Any

import torch
from omegaconf import DictConfig

from trm_lightning.benchmarks.subjects import (
    Loss,
    flops_of,
    loss_of,
    random_tokens,
    shipped,
    training_step,
)
from trm_lightning.benchmarks.timing import Variant, measure, peak

NAMES = {"ar": "AR", "looped": "Looped", "trm": "TRM"}  # of cfg.models


def settings_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure optimizer steps of the shipped models under every combination of settings.

    Each is compared with float32, neither compiled nor replayed. A CUDA graph needs a GPU, and a
    model that is compiled is not recorded as well.
    """
    chosen = [
        (bf16, mode)
        for bf16, mode in itertools.product((False, True), ("", "compile", "graph"))
        if (mode != "graph" or device.type == "cuda")
        and (mode != "compile" or cfg.settings.compile)
    ]
    variants = [_variant(cfg, device, model, *of) for model in NAMES for of in chosen]
    return measure(
        "settings", [peak(device), *variants], device, cfg.repetitions,
        cfg.seconds_per_measurement, cfg.clock,
    )  # fmt: skip


def _variant(cfg: DictConfig, device: torch.device, model: str, bf16: bool, mode: str) -> Variant:
    """Return a step of one model; ``mode`` is compile, graph or nothing."""
    tokens = random_tokens(cfg, cfg.batch, cfg.window, device)
    module = shipped(cfg, model, cfg.window)
    net = module.model.to(device).train()
    flops = flops_of(loss_of(module), tokens)  # of the plain model: a compiled one hides them
    if mode == "compile":
        net.compile()
    loss = _in_bf16(loss_of(module), device) if bf16 else loss_of(module)
    step = training_step(net, loss, module.make_optimizer(net), tokens, graph=mode == "graph")
    plain = NAMES[model]
    words = [plain, *(["bf16"] if bf16 else []), *([mode] if mode else [])]
    references = (plain,) if len(words) > 1 else ()
    return Variant(", ".join(words), step, tokens.numel(), flops, references)


def _in_bf16(loss: Loss, device: torch.device) -> Loss:
    def rounded(tokens: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return loss(tokens)

    return rounded
