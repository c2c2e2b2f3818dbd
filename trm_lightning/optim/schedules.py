"""Learning-rate schedules, counted in optimizer steps: ours, and torch's own."""

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from trm_lightning.errors import UserError

TimeShare = Callable[[], float]  # how much of a budget in seconds is used up, 0 to 1
UNLIMITED = 10**9  # optimizer steps of a run that ends by the clock
# What torch's schedules call their length, in steps.
_LENGTHS = ("total_steps", "T_max", "total_iters")


def make_schedule(
    make: Callable[..., LRScheduler],
    optimizer: Optimizer,
    total_steps: int,
    time_share: TimeShare,
) -> LRScheduler:
    """Make a schedule of an optimizer.

    Args:
        make: a function with the arguments of :func:`constant`, or a class of
            ``torch.optim.lr_scheduler`` with its settings bound. Its length is that of the run
            where the settings give none.
        optimizer: whose rates to set.
        total_steps: optimizer steps of the run.
        time_share: of a budget in seconds.

    Raises:
        UserError: for a schedule that needs a validation score, or a length where there is none.
    """
    kind: Any = getattr(make, "func", make)
    if not inspect.isclass(kind) or not issubclass(kind, LRScheduler):
        return make(optimizer, total_steps=total_steps, time_share=time_share)
    if issubclass(kind, ReduceLROnPlateau):
        raise UserError(
            "ReduceLROnPlateau follows a validation score; schedules here follow steps.",
            "Use another schedule.",
        )
    given = getattr(make, "keywords", {})
    lengths = {n: total_steps for n in _LENGTHS if n in inspect.signature(kind).parameters}
    missing = {
        name: n for name, n in lengths.items() if name not in given and "epochs" not in given
    }
    if missing and total_steps >= UNLIMITED:
        raise UserError(
            f"{kind.__name__} counts steps, and a budget in seconds has no number of them.",
            f"Give schedule.{next(iter(missing))}, or use schedule=cosine.",
        )
    return make(optimizer, **missing)


def constant(
    optimizer: Optimizer, total_steps: int, time_share: TimeShare, warmup_steps: int
) -> LambdaLR:
    """Rise linearly for ``warmup_steps``, then stay at the peak."""
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, warmup_steps)))


def exponential(
    optimizer: Optimizer,
    total_steps: int,
    time_share: TimeShare,
    first_ratio: float,
    last_ratio: float,
) -> LambdaLR:
    """Go by equal factors from ``first_ratio`` to ``last_ratio`` of the optimizer's rate."""

    def factor(step: int) -> float:
        progress = min(1.0, max(step / max(1, total_steps - 1), time_share()))
        return first_ratio * (last_ratio / first_ratio) ** progress

    return LambdaLR(optimizer, factor)


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
