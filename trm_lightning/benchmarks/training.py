"""What a training step costs, ours and plain."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.optim import AdamW

from trm_lightning.benchmarks.flops import (
    Blocks,
    causal_flops,
    plain_trm_flops,
    training_flops,
)
from trm_lightning.benchmarks.references import FusedGpt, PlainBaseline, PlainNet
from trm_lightning.benchmarks.subjects import (
    Loss,
    ar,
    loss_of,
    n_answers,
    plain,
    random_tokens,
    shipped,
    sources_trm,
    training_step,
    trm,
)
from trm_lightning.benchmarks.timing import Variant, measure, peak
from trm_lightning.training import TrainingModule

GPT = "plain GPT, fused attention"
GPT_DRY = f"{GPT}, no dropout"
SOURCES_AR = "plain baseline of the sources"
SOURCES_AR_LAST = f"{SOURCES_AR}, last logits only"
SOURCES_TRM = "plain TRM of the sources"
SHAPE = "sources' shape"
AR, TRM = "AR", "TRM"
TRM_LEAST = f"{TRM}, chunks of 1, supervised at the end"


def training_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure optimizer steps."""
    variants = [peak(device), *_references(cfg, device), *_ours(cfg, device)]
    if device.type == "cuda":
        variants += _on_cuda(cfg, device)
    return measure("training", variants, device, cfg.repetitions, cfg.seconds_per_measurement)


def variant_of(
    name: str,
    module: TrainingModule,
    tokens: Tensor,
    references: tuple[str, ...] = (),
    **facts: Any,
) -> Variant:
    """Return an optimizer step of one of our modules on ids (B, T) as something to measure."""
    net, loss = module.model.to(tokens.device).train(), loss_of(module)
    batch, window = tokens.shape
    supervised = module.supervised_tokens
    step = training_step(net, loss, module.make_optimizer(net), tokens)
    flops = training_flops(net, batch, window, supervised, n_answers(module))
    return Variant(
        name, step, batch * supervised, flops, references, lambda: loss(tokens).backward(), facts
    )


def _ours(cfg: DictConfig, device: torch.device) -> list[Variant]:
    tokens = random_tokens(cfg, cfg.batch, cfg.window, device)
    short = random_tokens(cfg, cfg.sources.batch, cfg.sources.window, device)
    window, (last, chunk) = cfg.window, (cfg.sources.window, cfg.sources.supervised)
    query: dict[str, Any] = {"chunk_start": "query", "factorization": "parallel"}
    joint: dict[str, Any] = {
        "norm": "pre", "attention": "joint", "factorization": "parallel", "chunk_size": chunk,
        "chunk_start": "target",
    }  # fmt: skip
    dry = ar(cfg, window, norm="pre", dropout=0.0)
    least = shipped(cfg, "trm", window, {"chunk_size": 1}, intermediate_loss_weight=0.0)
    nets: list[tuple[str, TrainingModule, Tensor, tuple[str, ...]]] = [
        (AR, shipped(cfg, "ar", window), tokens, (GPT, SOURCES_AR, SOURCES_AR_LAST)),
        (TRM, shipped(cfg, "trm", window), tokens, (AR, SOURCES_TRM)),
        (TRM_LEAST, least, tokens, (AR, SOURCES_TRM)),
        ("AR, AdamW", ar(cfg, window), tokens, (GPT,)),
        ("AR, AdamW, norm=pre", ar(cfg, window, norm="pre"), tokens, (GPT,)),
        ("AR, AdamW, norm=pre, no dropout", dry, tokens, (GPT_DRY,)),
        (f"AR, AdamW, {SHAPE}", ar(cfg, last, chunk, norm="pre"), short, (SOURCES_AR_LAST,)),
        ("TRM cached, query, parallel", trm(cfg, window, **query), tokens, (SOURCES_TRM,)),
        ("TRM cached, draft, left_to_right", trm(cfg, window), tokens, (SOURCES_TRM,)),
        (f"TRM joint, {SHAPE}", trm(cfg, last, chunk, **joint), short, (SOURCES_TRM,)),
    ]
    return [variant_of(*net) for net in nets]


def _references(cfg: DictConfig, device: torch.device) -> list[Variant]:
    tokens = random_tokens(cfg, cfg.batch, cfg.window, device)
    short = random_tokens(cfg, cfg.sources.batch, cfg.sources.window, device)
    blocks, vocab_size = Blocks(cfg.net.width, cfg.net.n_layers), cfg.net.vocab_size
    sizes = {"window": cfg.sources.window, "supervised": cfg.sources.supervised}
    ours = causal_flops(blocks, vocab_size, cfg.batch, cfg.window, cfg.window)
    shape = (cfg.sources.batch, cfg.sources.window)
    theirs = causal_flops(blocks, vocab_size, *shape, cfg.sources.window)
    less = causal_flops(blocks, vocab_size, *shape, cfg.sources.supervised)
    recursive = plain_trm_flops(
        blocks, vocab_size, cfg.sources.batch, cfg.sources.window, cfg.sources.supervised,
        cfg.recursion.n_refinements, cfg.recursion.n_recursions,
    )  # fmt: skip
    gpt = plain(cfg, FusedGpt, window=cfg.window)
    dry = plain(cfg, FusedGpt, window=cfg.window, dropout=0.0)
    return [
        _plain_variant(GPT, gpt, tokens, ours, fused=True),
        _plain_variant(GPT_DRY, dry, tokens, ours, fused=True),
        _plain_variant(SOURCES_AR, plain(cfg, PlainBaseline, **sizes), short, theirs),
        _plain_variant(
            SOURCES_AR_LAST, plain(cfg, PlainBaseline, last_logits_only=True, **sizes), short, less
        ),
        _plain_variant(SOURCES_TRM, sources_trm(cfg, given=True), short, recursive),
    ]


def _plain_variant(
    name: str, net: PlainNet, tokens: Tensor, flops: float, fused: bool = False
) -> Variant:
    net.to(tokens.device)
    step = training_step(net, net.loss, AdamW(net.parameters(), fused=fused), tokens)
    n_tokens = len(tokens) * net.supervised
    return Variant(name, step, n_tokens, flops, count=lambda: net.loss(tokens).backward())


def _on_cuda(cfg: DictConfig, device: torch.device) -> list[Variant]:
    """Return CUDA graphs and bf16, each alone and both together."""
    tokens = random_tokens(cfg, cfg.batch, cfg.window, device)
    least: dict[str, Any] = {"net": {"chunk_size": 1}, "intermediate_loss_weight": 0.0}
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        (AR, "ar", {}), (TRM, "trm", {}), (TRM_LEAST, "trm", least),
    ]  # fmt: skip
    variants = []
    for plain_name, model, settings in kinds:
        for chosen in (("graph",), ("bf16",), ("bf16", "graph")):
            module = shipped(cfg, model, cfg.window, **settings)
            module.model.to(device).train()
            loss = _in_bf16(loss_of(module)) if "bf16" in chosen else loss_of(module)
            optimizer = module.make_optimizer(module.model)
            step = training_step(module.model, loss, optimizer, tokens, graph="graph" in chosen)
            flops = training_flops(
                module.model, cfg.batch, cfg.window, cfg.window, n_answers(module)
            )
            name = f"{plain_name}, {', '.join(chosen)}"
            variants.append(Variant(name, step, tokens.numel(), flops, (plain_name,)))
    return variants


def _in_bf16(loss: Loss) -> Loss:
    def rounded(tokens: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return loss(tokens)

    return rounded
