"""The frontier: what a baseline model of equal perplexity costs, as a multiple.

Each seed has its own curve of the baseline's series, and ratios are averaged as logarithms.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from trm_lightning.studies.intervals import estimate

# For parameters, the ratio is baseline / entry: how many times the entry's parameters the equal
# baseline needs. For FLOPs and seconds it is entry / baseline: what the entry pays for that.
COSTS = ("parameters", "flops", "seconds")
Values = dict[str, Any]


@dataclass(frozen=True)
class Envelope:
    """The lowest perplexity of a series at or below each cost; it never rises with cost.

    Attributes:
        costs: ascending.
        perplexities: never ascending; interpolated linearly on logarithmic axes.
    """

    costs: list[float]
    perplexities: list[float]

    @classmethod
    def of(cls, points: list[tuple[float, float]]) -> "Envelope":
        """Make the envelope of at least one point, each a cost and a perplexity."""
        points = sorted(points)
        lowest = np.minimum.accumulate([perplexity for _, perplexity in points])
        return cls([cost for cost, _ in points], lowest.tolist())

    def cost_of(self, perplexity: float) -> tuple[float, int]:
        """Return the lowest cost that reaches a perplexity, and a side; never extrapolated.

        Returns:
            Cost and 0 inside the curve; the last cost and 1 where more would be needed; the first
            cost and -1 where less would do.
        """
        below = [i for i, reached in enumerate(self.perplexities) if reached <= perplexity]
        if not below:
            return self.costs[-1], 1
        if below[0] == 0:
            return self.costs[0], 0 if perplexity == self.perplexities[0] else -1
        ends = slice(below[0] - 1, below[0] + 1)
        # From the worse end to the better one; np.interp wants its x ascending.
        x, y = -np.log(self.perplexities[ends]), np.log(self.costs[ends])
        return float(np.exp(np.interp(-math.log(perplexity), x, y))), 0


def frontier(entries: list[Values], series: str) -> Values:
    """Return the points of all series, and their costs relative to the equal baseline.

    Args:
        entries: from ``summarise_entries``, of comparable perplexities.
        series: the baseline's.
    """
    curves = {cost: _curves(entries, series, cost) for cost in COSTS}
    points = []
    for entry in entries:
        runs = completed_runs(entry)
        points.append(
            {
                "name": entry["name"],
                "series": entry["series"],
                **{cost: _mean([_cost(entry, run, cost) for run in runs]) for cost in COSTS},
                "perplexity": _mean([score_of(run) for run in runs]),
                "ratios": None
                if entry["series"] == series
                else {cost: _ratio(entry, curves[cost], cost) for cost in COSTS},
            }
        )
    return {"points": points, "notes": _notes(points)}


def completed_runs(entry: Values) -> list[Values]:
    """Return an entry's runs that have ended."""
    return [run for run in entry["runs"] if run["status"] == "completed"]


def score_of(run: Values) -> float:
    """Return a run's best perplexity, or its final one where no best is known."""
    return float(run["final"] if run["best"] is None else run["best"])


def _mean(values: list[float]) -> Values | None:
    found = estimate(values)
    return None if found is None else found.as_dict()


def _cost(entry: Values, run: Values, cost: str) -> float:
    if cost == "parameters":
        return float(entry["parameters"])
    if cost == "flops":
        return float(entry["flops_per_token"] * run["tokens"])
    return float(run["seconds"])


def _curves(entries: list[Values], series: str, cost: str) -> dict[int, Envelope]:
    """Return the envelope of a series over a cost for each seed."""
    points: dict[int, list[tuple[float, float]]] = {}
    for entry in entries:
        for run in completed_runs(entry) if entry["series"] == series else []:
            points.setdefault(run["seed"], []).append((_cost(entry, run, cost), score_of(run)))
    return {seed: Envelope.of(found) for seed, found in points.items()}


def _ratio(entry: Values, curves: dict[int, Envelope], cost: str) -> Values | None:
    """Return the ratio of an entry's cost and its equal's, a geometric mean over seeds.

    A seed beyond the baseline's curve counts with the curve's end: the mean is then a bound and
    has no interval. Where seeds lie beyond both ends, there is no bound either.

    Returns:
        ``relation`` (equal, more than or less than), ``ratio``, its interval ``low`` to ``high``,
        ``n`` seeds, and ``n_beyond`` of them; None where the baseline lacks
        the seeds, or seeds lie beyond both ends.
    """
    direction = 1 if cost == "parameters" else -1
    logarithms, sides = [], []
    for run in completed_runs(entry):
        if run["seed"] in curves:
            equal, side = curves[run["seed"]].cost_of(score_of(run))
            logarithms.append(direction * math.log(equal / _cost(entry, run, cost)))
            sides.append(direction * side)
    found = estimate(logarithms)
    if found is None or {1, -1} <= set(sides):
        return None
    half = None if any(sides) else found.half_width
    return {
        "relation": {0: "equal", 1: "more than", -1: "less than"}[max(sides, key=abs)],
        "ratio": math.exp(found.mean),
        "low": None if half is None else math.exp(found.mean - half),
        "high": None if half is None else math.exp(found.mean + half),
        "n": found.n,
        "n_beyond": sum(map(abs, sides)),
    }


def _notes(points: list[Values]) -> list[str]:
    beyond = [
        f"{point['name']} ({', '.join(costs)})"
        for point in points
        if point["ratios"]
        and (costs := [c for c in COSTS if (r := point["ratios"][c]) and r["n_beyond"]])
    ]
    if not beyond:
        return []
    return [
        "Beyond the ends of the baseline's curve with some seed, so bounds and no interval: "
        f"{'; '.join(beyond)}."
    ]
