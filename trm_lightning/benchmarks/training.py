"""Speed of a training step, beside the plain references."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import AdamW

from trm_lightning.benchmarks.references import FusedGpt, PlainBaseline, PlainNet
from trm_lightning.benchmarks.subjects import (
    ar,
    flops_of,
    loss_of,
    plain,
    plain_trm,
    random_tokens,
    shipped,
    source_trm,
    training_step,
)
from trm_lightning.benchmarks.timing import Variant, measure, peak
from trm_lightning.training import TrainingModule

GPT = "plain GPT, fused attention"
GPT_DRY = f"{GPT}, no dropout"
NOTES_AR = "plain baseline of the notes"
NOTES_TRM = "plain TRM of the notes"
SHAPE = "notes' shape"


def training_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure optimizer steps."""
    ours = _ours(cfg, device)  # first: these constructors validate the shape that all share
    variants = [peak(device), *_references(cfg, device), *ours]
    return measure(
        "training", variants, device, cfg.repetitions, cfg.seconds_per_measurement, cfg.clock
    )


def variant_of(
    name: str,
    module: TrainingModule,
    tokens: Tensor,
    references: tuple[str, ...] = (),
    **facts: Any,
) -> Variant:
    """Return a variant that takes an optimizer step of a module on ids (B, T)."""
    net, loss = module.model.to(tokens.device).train(), loss_of(module)
    step = training_step(net, loss, module.make_optimizer(net), tokens)
    n_tokens = len(tokens) * module.supervised_tokens
    return Variant(name, step, n_tokens, flops_of(loss, tokens), references, facts)


def _ours(cfg: DictConfig, device: torch.device) -> list[Variant]:
    tokens = random_tokens(cfg, cfg.batch, cfg.window, device)
    short = random_tokens(cfg, cfg.notes.batch, cfg.notes.window, device)
    window, (last, chunk) = cfg.window, (cfg.notes.window, cfg.notes.supervised)
    dry = ar(cfg, window, norm="pre", dropout=0.0)
    nets: list[tuple[str, TrainingModule, Tensor, tuple[str, ...]]] = [
        ("AR", shipped(cfg, "ar", window), tokens, (GPT, NOTES_AR)),
        ("Looped", shipped(cfg, "looped", window), tokens, ("AR", NOTES_TRM)),
        ("TRM", shipped(cfg, "trm", window), tokens, ("AR", NOTES_TRM)),
        ("AR, AdamW", ar(cfg, window), tokens, (GPT,)),
        ("AR, AdamW, norm=pre", ar(cfg, window, norm="pre"), tokens, (GPT,)),
        ("AR, AdamW, norm=pre, no dropout", dry, tokens, (GPT_DRY,)),
        (f"AR, AdamW, {SHAPE}", ar(cfg, last, chunk, norm="pre"), short, (NOTES_AR,)),
        (f"SourceTRM, AdamW, {SHAPE}", source_trm(cfg, "target"), short, (NOTES_TRM,)),
    ]
    return [variant_of(*net) for net in nets]


def _references(cfg: DictConfig, device: torch.device) -> list[Variant]:
    tokens = random_tokens(cfg, cfg.batch, cfg.window, device)
    short = random_tokens(cfg, cfg.notes.batch, cfg.notes.window, device)
    gpt = plain(cfg, FusedGpt, window=cfg.window)
    dry = plain(cfg, FusedGpt, window=cfg.window, dropout=0.0)
    baseline = plain(
        cfg, PlainBaseline, window=cfg.notes.window, supervised=cfg.notes.supervised
    )  # fmt: skip
    return [
        plain_variant(GPT, gpt, tokens, fused=True),
        plain_variant(GPT_DRY, dry, tokens, fused=True),
        plain_variant(NOTES_AR, baseline, short),
        plain_variant(NOTES_TRM, plain_trm(cfg, given=True), short),
    ]


def plain_variant(
    name: str, net: PlainNet, tokens: Tensor, fused: bool = False, **facts: Any
) -> Variant:
    """Return a variant that takes an AdamW step of a reference on ids (B, T)."""
    net.to(tokens.device)
    step = training_step(net, net.loss, AdamW(net.parameters(), fused=fused), tokens)
    n_tokens = len(tokens) * net.supervised
    return Variant(name, step, n_tokens, flops_of(net.loss, tokens), facts=facts)
