"""Nets and training steps that are measured."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from trm_lightning.benchmarking import references
from trm_lightning.cli.compose import conf_dir
from trm_lightning.modules import ARModule, LanguageModule, TRMModule
from trm_lightning.modules.optim import adamw, constant
from trm_lightning.nets import AutoregressiveNet, RecursiveNet

Loss = Callable[[Tensor], Tensor]
OURS = partial(adamw, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.99), decay_matrices_only=True)
_RECURSION = (
    "chunk_size", "n_refinements", "n_recursions", "n_supervision", "grad_refinements",
    "chunk_start", "attention", "factorization",
)  # fmt: skip


def ar(cfg: DictConfig, window: int, supervised: int | None = None, **changes: Any) -> ARModule:
    """Return an autoregressive module in the shape of ``cfg.net``."""
    net = AutoregressiveNet(**_shape(cfg, window) | changes)
    return ARModule(net, OURS, _SCHEDULE, supervised or window)


def trm(cfg: DictConfig, window: int, supervised: int | None = None, **changes: Any) -> TRMModule:
    """Return a TRM module in the shape of ``cfg.net`` and ``cfg.recursion``."""
    net = RecursiveNet(**_shape(cfg, window) | dict(cfg.recursion) | changes)
    return TRMModule(net, OURS, _SCHEDULE, supervised or window)


def shipped() -> dict[str, Any]:
    """Return how the TRM of ``conf/model/trm_cached.yaml`` recurs."""
    net = OmegaConf.load(conf_dir() / "model" / "trm_cached.yaml").net
    return {name: net[name] for name in _RECURSION}


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


def loss_of(module: LanguageModule) -> Loss:
    """Return the loss of a module's first supervision step."""
    return lambda tokens: module.supervision_step(tokens, None).loss


def training_step(
    net: nn.Module, loss: Loss, optimizer: Optimizer, tokens: Tensor
) -> Callable[[], None]:
    """Return a whole optimizer step on one batch of ids (B, T)."""

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(tokens).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return step


def _shape(cfg: DictConfig, window: int) -> dict[str, Any]:
    return {**cfg.net, "window_size": window, "start_token": references.START}


_SCHEDULE = partial(constant, warmup_steps=0)
