"""Studies: questions that no single entry answers, but a curve through several does."""

from typing import Any

from trm_lightning.studies.frontier import frontier
from trm_lightning.studies.record import Group
from trm_lightning.studies.recurrence import recurrence


def make_study(
    kind: str | None, groups: list[Group], entries: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Return a study as a plain container, as far as the runs have come; None without one.

    Entries whose number is no perplexity of the baseline's text are no points of any curve.

    Args:
        kind: one of ``STUDIES``, or None.
        groups: the entries' runs.
        entries: from ``summarise_entries``.
    """
    if kind is None:
        return None
    series = next(entry["series"] for entry in entries if entry["is_baseline"])
    shown = [(g, e) for g, e in zip(groups, entries, strict=True) if e["comparable"]]
    if kind == "frontier":
        study = frontier([entry for _, entry in shown], series)
    else:
        study = recurrence(shown, series)
    left_out = [
        f"{entry['name']}: left out of the study, being no perplexity of the baseline's text."
        for entry in entries
        if entry["metric"] is not None and not entry["comparable"]
    ]
    return {"kind": kind, "baseline_series": series, **study, "notes": left_out + study["notes"]}
