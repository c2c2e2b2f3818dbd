"""Notes under a comparison's table: the parity that was reached, and warnings."""

from typing import Any

from trm_lightning.studies.parity import TOLERANCE, parity_reached
from trm_lightning.studies.run_identity import settings_of
from trm_lightning.studies.run_records import Group

SMOKE = "SMOKE BUDGET: the numbers say that the programs run, and nothing else."


def notes_on(
    groups: list[Group],
    entries: list[dict[str, Any]],
    parity: str | None,
    budget: str | None,
) -> list[str]:
    """Return the notes under the table, the most serious first.

    Args:
        groups: the entries' runs.
        entries: from :func:`summarise_entries`.
        parity: what should be equal; None where the runs were not trained for this comparison.
        budget: its name, where it has one.
    """
    notes = [SMOKE] if budget == "smoke" else []
    if budget not in (None, "smoke") and any(entry["published"] for entry in entries):
        notes.append(
            f"Budget {budget!r}: the published values beside these are of full training, which "
            "may have been longer."
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
    if parity is None:
        notes += _on_settings(groups)
    if any(len(group.completed) == 1 for group in groups):
        notes.append("A mean of one seed has no interval: it cannot tell a difference from chance.")
    return notes


def _on_parity(entries: list[dict[str, Any]], parity: str | None) -> list[str]:
    reached, notes = parity_reached(entries), []
    shares = {entry["name"]: entry["budget_share"] for entry in entries}
    if parity in ("tokens", "parameters"):
        # Unequal on purpose; what each entry got is told below the table.
        told = ", ".join(f"{name} {share:g}" for name, share in shares.items() if share != 1)
        notes += [f"Budgets as multiples of the others': {told}."] if told else []
    for kind, tolerance in TOLERANCE.items():
        ratios = {n: r[kind] for n, r in reached.items() if kind in r}
        if kind == parity:
            ratios = {n: ratio for n, ratio in ratios.items() if shares[n] == 1}
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


def _on_settings(groups: list[Group]) -> list[str]:
    """Tell of settings that conf/ had when a part of an entry's runs was trained."""
    notes = []
    for group in groups:
        configs = [settings_of((record.results or {})["config"]) for record in group.completed]
        uneven = {key for config in configs for key in config if any(key not in c for c in configs)}
        if uneven:
            notes.append(
                f"{group.entry.name}: a part of its runs is of another version of conf/, without "
                f"{', '.join(sorted(uneven))}."
            )
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
