"""What a study asks of its entries: curves through their scores, and measurements of their runs."""

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from trm_lightning.studies.frontier import frontier
from trm_lightning.studies.measures import measured
from trm_lightning.studies.recurrence import recurrence
from trm_lightning.studies.run_records import Group
from trm_lightning.studies.trend import trend


def study_of(
    cfg: DictConfig, groups: list[Group], entries: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Return what a study asks of its runs as a plain container; None where it asks nothing.

    Runs may be missing. Entries that are no perplexity of their baseline's text are left out of
    fits.

    Args:
        cfg: the comparison's config, with ``fit``, ``measure`` and ``axis``.
        groups: the entries' runs.
        entries: from :func:`summarise_entries`.
    """
    if cfg.measure is not None:
        return {"kind": cfg.measure, **measured(cfg.measure, groups, cfg.axis)}
    if cfg.fit is None:
        return None
    base = next(entry["series"] for entry in entries if entry["is_baseline"])
    shown = [(g, e) for g, e in zip(groups, entries, strict=True) if e["comparable"]]
    fitted = [entry for _, entry in shown]
    kinds: dict[str, Callable[[], dict[str, Any]]] = {
        "frontier": lambda: frontier(fitted, base),
        "recurrence": lambda: recurrence(shown, base),
        "trend": lambda: trend(fitted, str(cfg.axis)),
        "gain": lambda: trend(fitted, str(cfg.axis), relative=True),
    }
    found = kinds[cfg.fit]()
    left_out = [
        f"{entry['name']}: left out of the fit: not a perplexity of the baseline's text."
        for entry in entries
        if entry["metric"] is not None and entry["name"] not in {e["name"] for e in fitted}
    ]
    return {"kind": cfg.fit, "baseline_series": base, **found, "notes": left_out + found["notes"]}
