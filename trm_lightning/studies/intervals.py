"""Means with Student's t interval, over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval.

    Attributes:
        mean: over ``n`` seeds.
        half_width: the interval is ``mean`` plus or minus this; None for a single seed.
        n: seeds.
    """

    mean: float
    half_width: float | None
    n: int

    def as_dict(self) -> dict[str, float | int | None]:
        """Return mean, interval and number of seeds."""
        low = None if self.half_width is None else self.mean - self.half_width
        high = None if self.half_width is None else self.mean + self.half_width
        return {
            "mean": self.mean,
            "low": low,
            "high": high,
            "half_width": self.half_width,
            "n": self.n,
        }


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return the mean of ``values`` with its 95 % interval; None where there are no values."""
    if not values:
        return None
    n = len(values)
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean, None, 1)
    standard_error = float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(mean, t_quantile(0.975, n - 1) * standard_error, n)


def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t with ``freedom`` degrees, for probabilities over 1/2."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # bisection in the angle, to the precision of a float
        middle = (low + high) / 2
        if _probability_within(middle, freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def _probability_within(angle: float, freedom: int) -> float:
    """Return P(|t| <= sqrt(freedom) * tan(angle)): Abramowitz & Stegun 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    if odd:
        return 2 / math.pi * (angle + sine * total)
    return sine * total
