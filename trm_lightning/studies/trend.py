"""A score over a number that the entries differ in, such as a chunk size: its trend by series."""

import math
from typing import Any

import numpy as np

from trm_lightning.evaluation.rounding import number
from trm_lightning.studies.frontier import completed_runs, score_of
from trm_lightning.studies.intervals import estimate

Values = dict[str, Any]


def trend(entries: list[Values], axis: str, relative: bool = False) -> Values:
    """Return the points of all series, and how much each score changes per doubling of ``at``.

    Args:
        entries: from ``summarise_entries``, with their ``at``.
        axis: what ``at`` counts.
        relative: follow how much better each entry is than its own baseline, in percent, instead
            of its perplexity: for entries on different texts or vocabularies.
    """
    shown = [e for e in entries if not (relative and e["is_baseline"])]
    points = [_point(entry, relative) for entry in shown if completed_runs(entry)]
    points = [point for point in points if point["value"] is not None]
    series = list(dict.fromkeys(point["series"] for point in points))
    slopes = [_slope(name, [p for p in points if p["series"] == name], relative) for name in series]
    found = {"axis": axis, "relative": relative, "points": points, "slopes": slopes, "notes": []}
    return {**found, "verdict": [_sentence(slope, found) for slope in slopes]}


def _point(entry: Values, relative: bool) -> Values:
    kind = "best" if entry["figures"].get("best") else "final"
    key = f"{kind}_perplexity_improvement_percent"
    by_seed: dict[int, float] = {
        run["seed"]: run[key] if relative else score_of(run)
        for run in completed_runs(entry)
        if not relative or run.get(key) is not None
    }
    found = estimate(list(by_seed.values()))
    seconds = estimate([run["seconds"] for run in completed_runs(entry)])
    return {
        "name": entry["name"],
        "series": entry["series"],
        "at": entry["at"],
        "value": None if found is None else found.as_dict(),
        "seconds": None if seconds is None else seconds.as_dict(),
        "by_seed": by_seed,
    }


def _slope(series: str, points: list[Values], relative: bool) -> Values:
    """Return the change per doubling, estimated for each seed that every point has.

    Of a perplexity the change is in percent, of a gain in percentage points.
    """
    points = sorted(points, key=lambda point: float(point["at"]))
    seeds = set.intersection(*(set(point["by_seed"]) for point in points))
    at = [point["at"] for point in points]
    slopes = []
    for seed in sorted(seeds) if len(set(at)) > 1 and min(at) > 0 else ():
        values = [point["by_seed"][seed] for point in points]
        rise = float(np.polyfit(np.log2(at), values if relative else np.log(values), 1)[0])
        slopes.append(rise if relative else 100 * math.expm1(rise))
    found = estimate(slopes)
    best = (max if relative else min)(points, key=lambda point: float(point["value"]["mean"]))
    return {
        "series": series,
        "first": points[0],
        "last": points[-1],
        "best": best,
        "per_doubling": None if found is None else found.as_dict(),
    }


def _sentence(slope: Values, study: Values) -> str:
    """Say how a series' score goes from its first point to its last, and whether that is sure."""
    first, last, best = slope["first"], slope["last"], slope["best"]
    relative = study["relative"]
    what = "gain over its own baseline" if relative else "perplexity"
    unit = " %" if relative else ""
    ends = [f"{_value(point, relative)}{unit} at {point['at']:g}" for point in (first, last)]
    told = f"{slope['series']}: {what} over {study['axis']}: {', '.join(ends)}"
    change = slope["per_doubling"]
    if change is None:
        return told + "."
    unit = "percentage points" if relative else "%"
    text = f"{number(change['mean'], change['half_width'], digits=2, signed=True)} {unit}"
    if change["half_width"] is None:
        sure = "one seed, no interval: this may be chance"
    elif abs(change["mean"]) <= change["half_width"]:
        sure = "the 95 % interval includes zero: no trend can be told"
    else:
        sure = f"the 95 % interval over {change['n']} seeds excludes zero"
    return f"{told}, {text} per doubling ({sure}); best at {best['at']:g}."


def _value(point: Values, signed: bool) -> str:
    figure = point["value"]
    return number(figure["mean"], figure["half_width"], signed=signed)


def spans_octaves(points: list[Values]) -> bool:
    """Return whether an axis for these points should be logarithmic."""
    at = [point["at"] for point in points]
    return bool(at) and min(at) > 0 and max(at) / min(at) >= 4 and math.isfinite(max(at))
