"""Is there a break in a curve? Two straight lines against one, through the runs of each series."""

import math
from typing import Any

import numpy as np

from trm_lightning.evaluation.rounding import NONE, fixed
from trm_lightning.studies.intervals import estimate

Values = dict[str, Any]
Array = np.ndarray[Any, np.dtype[np.float64]]
N_RESAMPLES = 1000
N_PLACES = 60  # tried for the break, between the second point and the last but one
LEAST_PLACES = 5  # distinct values of ``at`` that two lines need


def breaks(points: list[Values], axis: str, expected: float = 1.0) -> Values:
    """Return for each series of points where two lines meet best and whether they are needed.

    Nats per token over the logarithm of ``at``. The corrected Akaike criterion (AICc) weighs two
    joined lines (four numbers) against one (two); below −2 the break is worth its numbers. The
    interval is of residuals drawn anew around the two lines.

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
    nothing: Values = dict.fromkeys(("at", "low", "high", "aicc_change", "slopes", "line"))
    pairs = [(p["at"], nats) for p in points for nats in p["by_seed"].values()]
    if len({at for at, _ in pairs}) < LEAST_PLACES:
        return {"series": series, "n": len(pairs), **nothing}
    x = np.log([at for at, _ in pairs])
    y = np.array([nats for _, nats in pairs])
    line = np.polyfit(x, y, 1)
    place, fitted, slopes = _two_lines(x, y)
    change = _aicc(y - fitted, 4) - _aicc(y - np.polyval(line, x), 2)
    random = np.random.default_rng(0)
    residuals = y - fitted
    places = [
        _two_lines(x, fitted + random.choice(residuals, len(y)))[0] for _ in range(N_RESAMPLES)
    ]
    low, high = np.exp(np.quantile(places, [0.025, 0.975]))
    return {
        "series": series,
        "n": len(pairs),
        "at": math.exp(place),
        "low": float(low),
        "high": float(high),
        "aicc_change": float(change),
        "slopes": slopes,
        "line": [float(value) for value in line],
    }


def _two_lines(x: Array, y: Array) -> tuple[float, Array, list[float]]:
    """Return where two joined lines meet that fit best, what they say, and their slopes."""
    inner = np.unique(x)[1:-1]
    best: tuple[float, float, Array, list[float]] | None = None
    for place in np.linspace(inner[0], inner[-1], N_PLACES):
        design = np.stack([np.ones_like(x), x, np.maximum(x - place, 0)], axis=1)
        weights, *_ = np.linalg.lstsq(design, y, rcond=None)
        fitted = design @ weights
        error = float(((y - fitted) ** 2).sum())
        if best is None or error < best[0]:
            best = (
                error,
                float(place),
                fitted,
                [float(weights[1]), float(weights[1] + weights[2])],
            )
    assert best is not None
    return best[1:]


def _aicc(residuals: Array, n_numbers: int) -> float:
    """Return the corrected Akaike criterion of a least-squares fit; the spread counts as one."""
    n, k = len(residuals), n_numbers + 1
    if n - k - 1 <= 0:
        return math.inf
    spread = max(float((residuals**2).mean()), 1e-12)
    return n * math.log(spread) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def _sentence(found: Values, axis: str, expected: float) -> str:
    name = found["series"]
    if found["at"] is None:
        return (
            f"{name}: fewer than {LEAST_PLACES} places on the axis, so no break can be looked for."
        )
    if not found["aicc_change"] < -2:
        return (
            f"{name}: no break; one straight line does as well as two "
            f"(AICc {_signed(found['aicc_change'])} for the second)."
        )
    near = found["low"] <= expected <= found["high"]
    return (
        f"{name}: the curve bends at {found['at']:.2g} {axis} (95 % interval {found['low']:.2g} to "
        f"{found['high']:.2g}, AICc {_signed(found['aicc_change'])}), which "
        f"{'includes' if near else 'excludes'} {expected:g}; nats per token go by "
        f"{found['slopes'][0]:+.2f} per e-fold before it and {found['slopes'][1]:+.2f} after."
    )


def _signed(value: float) -> str:
    return NONE if math.isinf(value) else fixed(value, 1) if value < 0 else f"+{fixed(value, 1)}"
