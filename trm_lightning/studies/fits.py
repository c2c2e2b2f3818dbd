"""Curves through the entries of a comparison: the frontier and the recurrence exponent."""

from typing import Any

from trm_lightning.studies.frontier import frontier
from trm_lightning.studies.recurrence import recurrence
from trm_lightning.studies.run_records import Group


def fit_entries(
    kind: str | None, groups: list[Group], entries: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Return a fit through the entries as a plain container; None where none is asked for.

    Runs may be missing. Entries that are not a perplexity of the baseline's text are left out.

    Args:
        kind: one of ``FITS``, or None.
        groups: the entries' runs.
        entries: from :func:`summarise_entries`.
    """
    if kind is None:
        return None
    series = next(entry["series"] for entry in entries if entry["is_baseline"])
    shown = [(g, e) for g, e in zip(groups, entries, strict=True) if e["comparable"]]
    if kind == "frontier":
        fit = frontier([entry for _, entry in shown], series)
    else:
        fit = recurrence(shown, series)
    left_out = [
        f"{entry['name']}: left out of the fit: not a perplexity of the baseline's text."
        for entry in entries
        if entry["metric"] is not None and not entry["comparable"]
    ]
    return {"kind": kind, "baseline_series": series, **fit, "notes": left_out + fit["notes"]}
