"""The models and training steps to measure."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from trm_lightning.benchmarks import references
from trm_lightning.models import AR, LanguageModel, SourceTRM
from trm_lightning.optim.optimizers import adamw
from trm_lightning.optim.schedules import constant
from trm_lightning.training import TrainingModule
from trm_lightning.training.cuda_graph import GraphedStep
from trm_lightning.training.flops import count_flops

Loss = Callable[[Tensor], Tensor]
plain_adamw = partial(adamw, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.99), decay_matrices_only=True)
_SCHEDULE = partial(constant, warmup_steps=0)


def shipped(cfg: DictConfig, model: str, window: int, **changes: Any) -> TrainingModule:
    """Return a model of ``cfg.models`` in the shape of ``cfg.net``, with ``cfg.optimizer``.

    Args:
        cfg: the benchmark's config.
        model: a key of ``cfg.models``.
        window: tokens of a window, all supervised.
        changes: arguments of the model that differ from its YAML's.
    """
    net: LanguageModel = instantiate(cfg.models[model], **_shape(cfg, window) | changes)
    return TrainingModule(net, instantiate(cfg.optimizer), instantiate(cfg.schedule), window)


def ar(
    cfg: DictConfig, window: int, supervised: int | None = None, **changes: Any
) -> TrainingModule:
    """Return an autoregressive module in the shape of ``cfg.net``, with the references' AdamW."""
    net = AR(**_shape(cfg, window) | changes)
    return TrainingModule(net, plain_adamw, _SCHEDULE, supervised or window)


def source_trm(cfg: DictConfig, start: Literal["target", "query"]) -> TrainingModule:
    """Return the notes' model in the shape of ``cfg.net`` and ``cfg.notes``, with AdamW."""
    shape = _shape(cfg, cfg.notes.window) | {"norm": "pre"}
    net = SourceTRM(
        chunk_size=cfg.notes.supervised, n_refinements=cfg.notes.n_refinements,
        n_recursions=cfg.notes.n_recursions, start=start, **shape,
    )  # fmt: skip
    return TrainingModule(net, plain_adamw, _SCHEDULE, cfg.notes.supervised)


def plain(
    cfg: DictConfig, kind: type[references.PlainNet], **arguments: Any
) -> references.PlainNet:
    """Return a reference model in the shape of ``cfg.net``."""
    names = ("vocab_size", "width", "n_layers", "n_heads", "dropout")
    return kind(**{name: cfg.net[name] for name in names} | arguments)


def plain_trm(cfg: DictConfig, given: bool) -> references.PlainNet:
    """Return the plain reference of the notes' TRM; ``given`` starts it at the answer."""
    return plain(
        cfg, references.PlainTrm, window=cfg.notes.window, supervised=cfg.notes.supervised,
        n_refinements=cfg.notes.n_refinements, n_recursions=cfg.notes.n_recursions, given=given,
    )  # fmt: skip


def random_tokens(cfg: DictConfig, batch: int, window: int, device: torch.device) -> Tensor:
    """Return random ids (batch, window)."""
    return torch.randint(cfg.net.vocab_size, (batch, window)).to(device)


def loss_of(module: TrainingModule) -> Loss:
    """Return the loss of a module's first supervision step on ids (B, T)."""

    def loss(tokens: Tensor) -> Tensor:
        first = tokens.shape[1] - module.supervised_tokens
        return module.model.supervision_step(tokens, first).loss

    return loss


def flops_of(loss: Loss, tokens: Tensor) -> float:
    """Return the counted FLOPs of a training step on ids (B, T); leaves gradients behind."""
    return float(count_flops(lambda: loss(tokens).backward()))


def training_step(
    net: nn.Module, loss: Loss, optimizer: Optimizer, tokens: Tensor, graph: bool = False
) -> Callable[[], None]:
    """Return a whole optimizer step on one batch of ids (B, T), replayed with a CUDA ``graph``."""

    def compute(ids: Tensor) -> tuple[Tensor]:
        optimizer.zero_grad(set_to_none=True)
        total = loss(ids)
        total.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        return (total,)

    if graph:
        graphed = GraphedStep(compute, optimizer)  # optimizer.step now replays the whole step
        graphed.tokens = tokens
        for _ in range(graphed.WARM_UP + 1):  # warm-up, then the recording
            optimizer.step()

    def step() -> None:
        if not graph:
            compute(tokens)
        optimizer.step()

    return step


def _shape(cfg: DictConfig, window: int) -> dict[str, Any]:
    return {**cfg.net, "window_size": window, "start_token": references.START}
