"""The recurrence exponent phi: a block run r times is worth r^phi distinct blocks.

After "How Much Is One Recurrence Worth? Iso-Depth Scaling Laws for Looped Language Models" (2026).
phi is 0 where loops bring nothing, and 1 where each is as good as a block with its own weights.
"""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from trm_lightning.studies.frontier import completed_runs, score_of
from trm_lightning.studies.intervals import estimate, t_quantile
from trm_lightning.studies.power_law import LIMITS, Curve, Runs, fit_all
from trm_lightning.studies.run_records import Group

Values = dict[str, Any]
Pairs = list[tuple[Group, Values]]
N_RESAMPLES = 1000
LEAST_SIZES, LEAST_LOOPS = 3, 2


def recurrence(pairs: Pairs, series: str) -> Values:
    """Return the points of all series, and the exponent of each but the baseline's.

    Args:
        pairs: entries of comparable perplexities, each with its runs.
        series: the baseline's, of blocks that are run once.
    """
    points = [_point(group, entry) for group, entry in pairs]
    others = list(dict.fromkeys(p["series"] for p in points if p["series"] != series))
    exponents = [
        _exponent([p for p in points if p["series"] in (series, other)], series, other)
        for other in others
    ]
    notes = [
        f"No exponent for {e['series']}: {e['objection']}." for e in exponents if e["objection"]
    ]
    notes += [
        f"The exponent of {found['series']} has no interval: that needs two seeds that every "
        "entry has. It cannot be told from chance."
        for found in exponents
        if found["phi"] is not None and found["low"] is None
    ]
    if len({tuple(sorted(point["by_seed"])) for point in points}) > 1:
        notes.append(
            "Entries have different seeds: exponents are of all runs, their intervals of the seeds "
            "that every entry has."
        )
    return {"points": points, "exponents": exponents, "notes": notes}


def _point(group: Group, entry: Values) -> Values:
    """Return an entry's blocks, loops and nats per token; ``by_seed`` holds those of its runs."""
    results = group.completed[0].results
    assert results is not None
    nats = {run["seed"]: math.log(score_of(run)) for run in completed_runs(entry)}
    found = estimate(list(nats.values()))
    assert found is not None
    return {
        "name": entry["name"],
        "series": entry["series"],
        "width": results["width"],
        "blocks": results["n_layers"],
        "loops": results["n_passes"],
        "nats": found.as_dict(),
        "by_seed": nats,
    }


def _exponent(points: list[Values], baseline: str, series: str) -> Values:
    """Fit one series together with the baseline's; all Nones but ``objection`` where that fails."""
    names = ("phi", "low", "high", "alpha", "floor", "amplitude", "residual")
    nothing = {"series": series, **dict.fromkeys(names), "n_runs": 0, "objection": None}
    objection = _objection_to_points(points, baseline, series)
    if objection:
        return nothing | {"objection": objection}
    runs = Runs.of(points)
    curve = fit_all(runs, np.ones((1, len(runs.nats))))[0]
    sizes = [point["blocks"] for point in points if point["series"] == baseline]
    objection = _objection_to_fit(curve, curve.residual(runs), sizes)
    if objection:
        return nothing | {"objection": objection}
    half = _half_width(runs, points)
    return nothing | asdict(curve) | {
        "low": None if half is None else curve.phi - half,
        "high": None if half is None else curve.phi + half,
        "residual": curve.residual(runs),
        "n_runs": len(runs.nats),
    }  # fmt: skip


def _objection_to_points(points: list[Values], baseline: str, series: str) -> str | None:
    """Return why an exponent cannot be identified from these points; None where it can."""
    unknown = [point["name"] for point in points if not point["blocks"]]
    widths = sorted({point["width"] for point in points}, key=str)
    looped = [p["name"] for p in points if p["series"] == baseline and p["loops"] != 1]
    n_sizes = len({point["blocks"] for point in points if point["series"] == baseline})
    n_loops = len({point["loops"] for point in points if point["series"] == series})
    if unknown:
        return f"the models of {', '.join(unknown)} do not declare their blocks (`layers`)"
    if len(widths) > 1:
        return f"what a block is worth depends on its width, and there are {widths}"
    if looped:
        return f"blocks of the baseline's series are run once, and not those of {looped}"
    if n_sizes < LEAST_SIZES:
        return f"it needs {LEAST_SIZES} numbers of blocks in {baseline}, and {n_sizes} have ended"
    if n_loops < LEAST_LOOPS:
        return f"it needs {LEAST_LOOPS} numbers of loops in {series}, and {n_loops} have ended"
    return None


def _objection_to_fit(curve: Curve, residual: float, sizes: list[int]) -> str | None:
    """Return why a fitted exponent means nothing; None where it does."""
    few, many = min(sizes), max(sizes)
    fall = float(curve.at(few, 1) - curve.at(many, 1))
    if fall <= residual:
        return (
            f"from {few} to {many} distinct blocks the fitted loss falls by {fall:.4f} nats, no "
            f"more than the fit's residual of {residual:.4f}: without a gain from blocks, loops "
            "cannot be measured in blocks"
        )
    for name, value in (("phi", curve.phi), ("alpha", curve.alpha)):
        if min(abs(value - limit) for limit in LIMITS[name]) < 1e-3:
            return f"the fit has no minimum with {name} within {LIMITS[name]}"
    return None


def _half_width(runs: Runs, points: list[Values]) -> float | None:
    """Return half of phi's 95 % interval, by resampling seeds; None for fewer than two.

    Resamples of n seeds vary too little, by a factor of sqrt((n - 1) / n): with 3 seeds their
    quantiles cover the true value in 70 % of cases. The corrected standard error times Student's t
    covers it in 94 %. Only seeds that every entry has are resampled.
    """
    seeds = sorted(set.intersection(*(set(point["by_seed"]) for point in points)))
    n = len(seeds)
    if n < 2:
        return None
    drawn = np.random.default_rng(0).integers(n, size=(N_RESAMPLES, n))
    counts = (drawn[:, :, None] == np.arange(n)).sum(axis=1)
    # Few seeds have few distinct resamples; each is fitted once.
    distinct, of_draw = np.unique(counts, axis=0, return_inverse=True)
    weights = distinct @ (runs.seeds == np.array(seeds)[:, None])
    phi = np.array([curve.phi for curve in fit_all(runs, weights)])[of_draw.ravel()]
    return t_quantile(0.975, n - 1) * float(np.std(phi)) * math.sqrt(n / (n - 1))
