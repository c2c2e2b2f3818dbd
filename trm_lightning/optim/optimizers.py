"""Optimizer and learning-rate schedules, both counted in optimizer steps."""

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trm_lightning.models import LanguageNet
from trm_lightning.optim.muon import Muon, hidden_matrices


def adamw(
    net: nn.Module,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    decay_matrices_only: bool,
) -> AdamW:
    """Return AdamW over the trained parameters of ``net``.

    Args:
        net: the net to train.
        lr: peak learning rate.
        weight_decay: decoupled weight decay.
        betas: decay rates of the moments.
        decay_matrices_only: leave biases and norms undecayed; False decays all, as the sources do.
    """
    trained = [p for p in net.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.dim() >= 2 or not decay_matrices_only]
    kept = [p for p in trained if p.dim() < 2 and decay_matrices_only]
    groups = [{"params": decayed, "weight_decay": weight_decay}]
    if kept:
        groups.append({"params": kept, "weight_decay": 0.0})
    return AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)


def muon(
    net: LanguageNet,
    lr: float,
    matrix_lr: float,
    weight_decay: float,
    momentum: float,
    betas: tuple[float, float],
) -> Muon:
    """Return Muon over the matrices of linear layers of ``net``, and AdamW over all else.

    Args:
        net: the net to train.
        lr: peak learning rate of AdamW: embeddings, norms, biases.
        matrix_lr: peak learning rate of the matrices of a net whose blocks run once; it falls with
            the square root of ``net.n_passes``.
        weight_decay: decoupled; per step ``lr`` times this much of matrices and embeddings alike.
        momentum: of the matrices' gradients.
        betas: decay rates of AdamW's moments.
    """
    matrices = hidden_matrices(net)
    matrix_lr /= math.sqrt(net.n_passes)
    inside = {id(p) for p in matrices}
    others = [p for p in net.parameters() if p.requires_grad and id(p) not in inside]
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


TimeShare = Callable[[], float]  # how much of a budget in seconds is used up, 0 to 1


def constant(
    optimizer: Optimizer, total_steps: int, time_share: TimeShare, warmup_steps: int
) -> LambdaLR:
    """Rise linearly for ``warmup_steps``, then stay at the peak."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


def cosine(
    optimizer: Optimizer,
    total_steps: int,
    time_share: TimeShare,
    warmup_steps: int,
    final_ratio: float,
) -> LambdaLR:
    """Rise linearly for ``warmup_steps``, then fall on half a cosine to ``final_ratio``.

    The cosine ends with the steps or with the time, whichever is over first. A warm-up longer
    than a tenth of the run, in steps or in time, is cut to that, so that short runs learn as well.
    """
    warmup_steps = min(warmup_steps, total_steps // 10)

    def factor(step: int) -> float:
        risen = max((step + 1) / max(1, warmup_steps), 10 * time_share())
        if risen < 1:
            return risen
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        progress = min(1.0, max(progress, time_share()))
        return final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
