"""Nets and training steps that are measured."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from trm_lightning.benchmarks import references
from trm_lightning.models import AR, Recursive
from trm_lightning.optim.optimizers import adamw, constant
from trm_lightning.training import TrainingModule
from trm_lightning.training.cuda_graph import GraphedStep

Loss = Callable[[Tensor], Tensor]
_ADAMW = partial(adamw, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.99), decay_matrices_only=True)


def shipped(
    cfg: DictConfig, model: str, window: int, net: dict[str, Any] | None = None, **settings: Any
) -> TrainingModule:
    """Return a model of ``cfg.models`` in the shape of ``cfg.net``, with ``cfg.optimizer``.

    Args:
        cfg: the benchmark's config.
        model: ``ar`` or ``trm``.
        window: tokens of a window, all supervised.
        net: settings of the net that differ from the YAML's.
        settings: of the module that differ.
    """
    shape = _shape(cfg, window) | (net or {})
    module: TrainingModule = instantiate(
        cfg.models[model], net=shape, supervised_tokens=window, **settings
    )
    return module


def ar(
    cfg: DictConfig, window: int, supervised: int | None = None, **changes: Any
) -> TrainingModule:
    """Return an autoregressive module in the shape of ``cfg.net``, with the references' AdamW."""
    net = AR(**_shape(cfg, window) | changes)
    return TrainingModule(net, _ADAMW, _SCHEDULE, supervised or window)


def trm(
    cfg: DictConfig, window: int, supervised: int | None = None, **changes: Any
) -> TrainingModule:
    """Return a TRM module in the shape of ``cfg.net`` and ``cfg.recursion``, with AdamW."""
    net = Recursive(**_shape(cfg, window) | dict(cfg.recursion) | changes)
    return TrainingModule(net, _ADAMW, _SCHEDULE, supervised or window)


def plain(
    cfg: DictConfig, kind: type[references.PlainNet], **arguments: Any
) -> references.PlainNet:
    """Return a reference net in the shape of ``cfg.net``."""
    names = ("vocab_size", "width", "n_layers", "n_heads", "dropout")
    return kind(**{name: cfg.net[name] for name in names} | arguments)


def sources_trm(cfg: DictConfig, given: bool) -> references.PlainNet:
    """Return the sources' TRM; ``given`` starts it at the answer, as they do."""
    return plain(
        cfg, references.PlainTrm, window=cfg.sources.window, supervised=cfg.sources.supervised,
        n_refinements=cfg.recursion.n_refinements, n_recursions=cfg.recursion.n_recursions,
        given=given,
    )  # fmt: skip


def random_tokens(cfg: DictConfig, batch: int, window: int, device: torch.device) -> Tensor:
    """Return random ids (batch, window)."""
    return torch.randint(cfg.net.vocab_size, (batch, window)).to(device)


def loss_of(module: TrainingModule) -> Loss:
    """Return the loss of a module's first supervision step."""
    return lambda tokens: module.supervision_step(tokens, None).loss


def n_answers(module: TrainingModule) -> int:
    """Return after how many refinements the answer is supervised."""
    if isinstance(module, TrainingModule) and module.intermediate_loss_weight > 0:
        return min(module.model.backprop_depth, module.model.n_refinements)
    return 1


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
        graphed = GraphedStep(compute, optimizer)  # optimizer.step is all of it from now on
        graphed.tokens = tokens
        for _ in range(graphed.WARM_UP + 1):  # and the recording
            optimizer.step()

    def step() -> None:
        if not graph:
            compute(tokens)
        optimizer.step()

    return step


def _shape(cfg: DictConfig, window: int) -> dict[str, Any]:
    return {**cfg.net, "window_size": window, "start_token": references.START}


_SCHEDULE = partial(constant, warmup_steps=0)
