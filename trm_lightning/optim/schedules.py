"""Learning-rate schedules, counted in optimizer steps."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

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
