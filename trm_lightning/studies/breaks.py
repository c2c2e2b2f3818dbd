"""Is there a break in a curve? Two straight lines against one, through the runs of each series."""

import math
from typing import Any

import numpy as np

from trm_lightning.studies.intervals import estimate

Values = dict[str, Any]
Array = np.ndarray[Any, np.dtype[np.float64]]
N_RESAMPLES = 1000
CERTAIN = 0.05  # p below which a break is told
N_PLACES = 60  # tried for the break, between the second point and the last but one
LEAST_PLACES = 5  # distinct values of ``at`` that two lines need


def breaks(points: list[Values], axis: str, expected: float = 1.0) -> Values:
    """Return for each series of points where two lines meet best and whether they are needed.

    Nats per token over the logarithm of ``at``. Two joined lines always fit better than one; ``p``
    is how often they do so by as much where the truth is one line with the same residuals. The
    interval of the break is of residuals drawn anew around the two lines.

    Args:
        points: with ``series``, ``at`` and nats ``by_seed``.
        axis: what ``at`` counts.
        expected: where a break is claimed to be.
    """
    series = list(dict.fromkeys(point["series"] for point in points))
    found = [_break(name, [p for p in points if p["series"] == name]) for name in series]
    verdict = [_sentence(result, axis, expected) for result in found]
    return {"axis": axis, "breaks": found, "notes": [], "verdict": verdict}


def curve_point(name: str, series: str, at: float, nats: dict[int, float]) -> Values:
    """Return a point of a curve: nats per token by seed, and their mean."""
    found = estimate(list(nats.values()))
    assert found is not None
    return {"name": name, "series": series, "at": at, "nats": found.as_dict(), "by_seed": nats}


def _break(series: str, points: list[Values]) -> Values:
    """Fit a series; all Nones where it has too few places."""
    nothing: Values = dict.fromkeys(("at", "low", "high", "p", "slopes"))
    pairs = [(p["at"], nats) for p in points for nats in p["by_seed"].values()]
    if len({at for at, _ in pairs}) < LEAST_PLACES:
        return {"series": series, "n": len(pairs), **nothing}
    lines = _Lines(np.log([at for at, _ in pairs]))
    y = np.array([nats for _, nats in pairs])
    place, fitted, slopes = lines.two(y)
    around = [lines.one(y[None])[0], fitted]
    from_one, from_two = (_drawn_around(fit, y, n) for fit, n in zip(around, (2, 4), strict=True))
    low, high = np.exp(np.quantile(lines.places[lines.errors(from_two).argmin(0)], [0.025, 0.975]))
    gain = lines.gain(y[None])[0]
    return {
        "series": series,
        "n": len(pairs),
        "at": math.exp(place),
        "low": float(low),
        "high": float(high),
        "p": float((lines.gain(from_one) >= gain).mean()),
        "slopes": slopes,
    }


def _drawn_around(fit: Array, y: Array, n_numbers: int) -> Array:
    """Return samples (R, N): the fit with its residuals drawn anew, scaled to be unbiased."""
    left = (y - fit) * math.sqrt(len(y) / (len(y) - n_numbers))
    return fit + np.random.default_rng(0).choice(left, (N_RESAMPLES, len(y)))


class _Lines:
    """Least squares of one line, and of two that meet at any of some places, for many samples.

    Args:
        x: (N,).
    """

    def __init__(self, x: Array) -> None:
        inner = np.unique(x)[1:-1]
        self.places = np.linspace(inner[0], inner[-1], N_PLACES)
        ones = np.ones_like(x)
        self.designs = [
            np.stack([ones, x, np.maximum(x - place, 0)], axis=1) for place in self.places
        ]
        # Each projects samples onto what its lines can say.
        self.projections = [design @ np.linalg.pinv(design) for design in self.designs]
        line = np.stack([ones, x], axis=1)
        self.line = line @ np.linalg.pinv(line)

    def one(self, samples: Array) -> Array:
        """Return what one line says of samples (R, N)."""
        fitted: Array = samples @ self.line
        return fitted

    def errors(self, samples: Array) -> Array:
        """Return the squared errors of two lines by place and sample, (P, R)."""
        return np.stack([((samples - samples @ p) ** 2).sum(1) for p in self.projections])

    def gain(self, samples: Array) -> Array:
        """Return the factor by which two lines lessen the squared error of one, (R,)."""
        one = ((samples - self.one(samples)) ** 2).sum(1)
        factor: Array = one / np.maximum(self.errors(samples).min(0), 1e-12)
        return factor

    def two(self, y: Array) -> tuple[float, Array, list[float]]:
        """Return where two lines meet best, what they say, and their slopes."""
        best = int(self.errors(y[None])[:, 0].argmin())
        weights = np.linalg.pinv(self.designs[best]) @ y
        slopes = [float(weights[1]), float(weights[1] + weights[2])]
        return float(self.places[best]), self.designs[best] @ weights, slopes


def _sentence(found: Values, axis: str, expected: float) -> str:
    name = found["series"]
    if found["at"] is None:
        return (
            f"{name}: fewer than {LEAST_PLACES} places on the axis, so no break can be looked for."
        )
    chance = "p under 0.001" if found["p"] < 1e-3 else f"p = {found['p']:.3f}"
    if found["p"] >= CERTAIN:
        return f"{name}: no break can be told from one straight line ({chance})."
    near = found["low"] <= expected <= found["high"]
    return (
        f"{name}: the curve bends at {found['at']:.2g} {axis} (95 % interval {found['low']:.2g} to "
        f"{found['high']:.2g}, {chance}), which {'includes' if near else 'excludes'} {expected:g}; "
        f"nats per token go by {found['slopes'][0]:+.2f} per e-fold before it and "
        f"{found['slopes'][1]:+.2f} after."
    )
