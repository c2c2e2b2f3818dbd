"""Notes under a comparison's table: the parity that was reached, and warnings."""

from typing import Any

from trm_lightning.studies.parity import TOLERANCE, parity_reached
from trm_lightning.studies.run_records import Group


def notes_on(
    groups: list[Group],
    entries: list[dict[str, Any]],
    parity: str | None,
    scale: float,
) -> list[str]:
    """Return the notes under the table, the most serious first.

    Args:
        groups: the entries' runs.
        entries: from :func:`summarise_entries`.
        parity: what should be equal; None where the runs were not trained for this comparison.
        scale: part of the full budget that was spent.
    """
    notes = []
    if scale < 1:
        notes.append(
            f"REDUCED BUDGET: each run had {scale:g} of the full budget. These are not the numbers "
            "of full training, and published values beside them are of full training."
        )
    for entry in entries:
        if entry["is_likelihood"] is False:
            notes.append(f"{entry['name']}: {entry['meaning']}")
    notes += [
        f"{entry['name']}, seed {run['seed']}: {run['status']}; left out of the means."
        for entry in entries
        for run in entry["runs"]
        if run["status"] != "completed"
    ]
    notes += _on_parity(entries, parity) + _on_evaluation(groups)
    if any(len(group.completed) == 1 for group in groups):
        notes.append("A mean of one seed has no interval: it cannot tell a difference from chance.")
    return notes


def _on_parity(entries: list[dict[str, Any]], parity: str | None) -> list[str]:
    reached, notes = parity_reached(entries), []
    for kind, tolerance in TOLERANCE.items():
        ratios = {n: r[kind] for n, r in reached.items() if kind in r}
        off = {n: ratio for n, ratio in ratios.items() if abs(ratio - 1) > tolerance}
        told = ", ".join(f"{n} {100 * (ratio - 1):+.1f} %" for n, ratio in off.items())
        if kind == parity and off:
            notes.append(f"NOT AT PARITY in {kind}, as was asked: {told} against the baseline.")
        elif kind == parity:
            most = max((100 * abs(ratio - 1) for ratio in ratios.values()), default=0.0)
            notes.append(f"At parity in {kind}, as was asked: at most {most:.2f} % apart.")
        elif off:
            notes.append(f"Not equal in {kind}: {told} against the baseline.")
    return notes


def _on_evaluation(groups: list[Group]) -> list[str]:
    """Warn of unequal context in validation, which alone changes a perplexity."""
    ways = {
        group.entry.name: (record.results["eval_window"], record.results["eval_stride"])
        for group in groups
        for record in group.completed[:1]
        if record.results is not None
    }
    if len(set(ways.values())) < 2:
        return []
    told = ", ".join(f"{name} {window}/{stride}" for name, (window, stride) in ways.items())
    return [f"Scored with different windows/strides, hence unequal context: {told}."]
