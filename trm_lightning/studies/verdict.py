"""What a comparison says, in a sentence per entry, computed from its numbers."""

from typing import Any

from trm_lightning.evaluation.puzzles import is_share
from trm_lightning.evaluation.rounding import number

Entry = dict[str, Any]
Figure = dict[str, Any]


def verdict(comparison: dict[str, Any]) -> list[str]:
    """Return a sentence for each entry but the baselines; none before a run has ended.

    Where a study asks something of its own, its answers stand instead.
    """
    study = comparison.get("study") or {}
    if study.get("verdict"):
        return list(study["verdict"])
    return [
        _sentence(entry, entry["against"])
        for entry in comparison["entries"]
        if not entry["is_baseline"] and entry["metric"] is not None
    ]


def _sentence(entry: Entry, base: str) -> str:
    name = entry["name"]
    if not entry["comparable"]:
        why = (
            "its number is not a likelihood"
            if entry["is_likelihood"] is False
            else f"its score {entry['metric']} is of another text"
        )
        return f"{name} is not compared with {base}: {why}."
    scored = {"validation": _improvement(entry, "best") or _improvement(entry, "final"),
              "test": _improvement(entry, "test")}  # fmt: skip
    found = {split: figure for split, figure in scored.items() if figure is not None}
    if not found:
        return f"{name} cannot be compared with {base} yet: no seed has ended for both."
    share = is_share(entry["metric"])
    unit, what = (" points", "puzzles") if share else (" %", "text")
    measure = "share of solved" if share else "perplexity on"
    told = [
        f"{_outcome(figure, base, unit)} in {measure} {split} {what} {_evidence(figure, unit)}"
        for split, figure in found.items()
    ]
    return f"{name} {'; it '.join(told)}."


def _improvement(entry: Entry, kind: str) -> Figure | None:
    name = "points" if is_share(entry["metric"]) else "perplexity_improvement_percent"
    figure: Figure | None = entry["figures"].get(f"{kind}_{name}")
    return figure


def _outcome(figure: Figure, base: str, unit: str) -> str:
    """Return what the number says of the entry: better, worse or neither."""
    mean, half = figure["mean"], figure["half_width"]
    if half is not None and abs(mean) <= half:
        return f"cannot be told apart from {base}"
    if mean == 0:
        return f"equals {base}"
    word = "better" if mean > 0 else "worse"
    return f"is {word} than {base} by {number(abs(mean), half, digits=2)}{unit}"


def _evidence(figure: Figure, unit: str) -> str:
    """Return how sure that is, in brackets."""
    mean, half, n = figure["mean"], figure["half_width"], figure["n"]
    if half is None:
        return "(one seed, no interval: this may be chance)"
    if abs(mean) <= half:
        change = number(mean, half, digits=2, signed=True)
        return f"({change}{unit}; the 95 % interval over {n} seeds includes zero)"
    return f"(the 95 % interval over {n} seeds excludes zero)"
