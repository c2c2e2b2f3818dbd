"""The optimizers that ``conf/optimizer`` names, and torch's own."""

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import LBFGS, AdamW, Optimizer

from trm_lightning.errors import UserError
from trm_lightning.models import LanguageModel
from trm_lightning.optim.muon import Muon, hidden_matrices


def make_optimizer(make: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """Make an optimizer of a model.

    Args:
        make: a function of the model, or a class of ``torch.optim`` with its settings bound.
        model: the model to train.

    Raises:
        UserError: for an optimizer that evaluates the loss itself.
    """
    kind = getattr(make, "func", make)
    if not (inspect.isclass(kind) and issubclass(kind, Optimizer)):
        return make(model)
    if issubclass(kind, LBFGS):
        raise UserError(
            "torch.optim.LBFGS evaluates the loss several times per step, which the training loop "
            "does not offer.",
            "Use another optimizer.",
        )
    return make([p for p in model.parameters() if p.requires_grad])


def adamw(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    decay_matrices_only: bool,
) -> AdamW:
    """Return AdamW over the trained parameters of ``model``.

    Args:
        model: the model to train.
        lr: peak learning rate.
        weight_decay: decoupled weight decay.
        betas: decay rates of the moments.
        decay_matrices_only: leave biases and norms undecayed; False decays all, as the notes do.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.dim() >= 2 or not decay_matrices_only]
    kept = [p for p in trained if p.dim() < 2 and decay_matrices_only]
    groups = [{"params": decayed, "weight_decay": weight_decay}]
    if kept:
        groups.append({"params": kept, "weight_decay": 0.0})
    return AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)


def muon(
    model: LanguageModel,
    lr: float,
    matrix_lr: float,
    weight_decay: float,
    momentum: float,
    betas: tuple[float, float],
) -> Muon:
    """Return Muon over the matrices of linear layers of ``model``, and AdamW over all else.

    Args:
        model: the model to train.
        lr: peak learning rate of AdamW: embeddings, norms, biases.
        matrix_lr: peak learning rate of the matrices of a model whose blocks run once; divided by
            the square root of ``model.n_passes``.
        weight_decay: decoupled; per step ``lr`` times this much of matrices and embeddings alike.
        momentum: of the matrices' gradients.
        betas: decay rates of AdamW's moments.
    """
    matrices = hidden_matrices(model)
    matrix_lr /= math.sqrt(model.n_passes)
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    for group in groups:
        group["orthogonal"] = False
    groups.append(
        {
            "params": matrices,
            "orthogonal": True,
            "lr": matrix_lr,
            "momentum": momentum,
            "weight_decay": weight_decay * lr / matrix_lr,
        }
    )
    groups = [group for group in groups if group["params"]]
    return Muon(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
