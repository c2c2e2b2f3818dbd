"""A comparison from its composed config to ``comparison.json`` and ``table.md``."""

from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trm_lightning.errors import UserError
from trm_lightning.files import write_json, write_text
from trm_lightning.runs.environment import environment
from trm_lightning.studies.entries import check_fit, choose_baseline
from trm_lightning.studies.fits import fit_entries
from trm_lightning.studies.notes import notes_on
from trm_lightning.studies.paired_statistics import summarise_entries
from trm_lightning.studies.parity import check_same_parameters, parity_reached
from trm_lightning.studies.plan import (
    Plan,
    forwarded_overrides,
    make_plan,
    training_call,
)
from trm_lightning.studies.run_records import Group, check_comparable, group_folders, read_record
from trm_lightning.studies.table import render
from trm_lightning.studies.workers import train_all

_PARALLEL = "{} runs were trained in parallel and may have slowed each other down: see seconds."


def compare(cfg: DictConfig) -> bool:
    """Train what is missing, then write and print the comparison.

    Returns:
        Whether every run has ended with results.

    Raises:
        UserError: for anything that the user can mend.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.runs:
        if (folder / "runs").exists():
            raise UserError(
                f"{folder} holds a comparison of its own runs.",
                "Give this one another name: name=…",
            )
        groups = group_folders([Path(run) for run in cfg.runs])
        given = [group.entry for group in groups]
        baseline = choose_baseline(cfg.baseline, given)
        check_fit(cfg.fit, given)
    else:
        plan = make_plan(cfg, folder, forwarded_overrides(), training_call())
        if cfg.parity == "parameters":
            runs_of = {entry.name: entry.runs_of for entry in plan.entries}
            check_same_parameters(plan.configs, runs_of[plan.baseline])
        keep = partial(_write_planned, cfg, folder, plan)
        failures = train_all(plan, keep, cfg.workers, cfg.progress)
        groups, baseline = groups_of(plan, failures), plan.baseline
    comparison = write_comparison(cfg, folder, groups, baseline)
    print("\n" + (folder / "table.md").read_text(encoding="utf-8"))
    print(f"Everything is in {folder}: comparison.json, table.md, runs/")
    return bool(comparison["status"] == "completed")


def groups_of(plan: Plan, failures: dict[Path, str]) -> list[Group]:
    """Read the runs of a plan, entry by entry, whatever their state."""
    records = {
        run.folder: read_record(run.folder, run.seed, failures.get(run.folder)) for run in plan.runs
    }
    return [
        Group(entry, [records[run.folder] for run in plan.runs if run.entry == entry.runs_of])
        for entry in plan.entries
    ]


def write_comparison(
    cfg: DictConfig, folder: Path, groups: list[Group], baseline: str
) -> dict[str, Any]:
    """Write ``comparison.json`` and ``table.md``; runs may still be missing.

    Raises:
        UserError: when the runs cannot be compared.
    """
    check_comparable(groups)
    trained_here = not cfg.runs
    scale = float(cfg.scale) if trained_here else 1.0
    parity = str(cfg.parity) if trained_here else None
    entries = summarise_entries(groups, baseline)
    fit = fit_entries(cfg.fit, groups, entries)
    ended = [record.results for group in groups for record in group.completed]
    first = ended[0] or {} if ended else {}
    complete = all(record.results is not None for group in groups for record in group.records)
    comparison = {
        "name": str(cfg.name),
        "status": "completed" if complete else "unfinished",
        "data": first.get("data"),
        "data_fingerprint": first.get("data_fingerprint"),
        "vocab_size": first.get("vocab_size"),
        "entropy_floor_perplexity": first.get("entropy_floor_perplexity"),
        "baseline": baseline,
        "parity": parity,
        "parity_reached": parity_reached(entries),
        "scale": scale,
        "entries": entries,
        "study": fit,
        "notes": [
            *notes_on(groups, entries, parity, scale),
            *(fit["notes"] if fit else []),
            *([_PARALLEL.format(cfg.workers)] if trained_here and cfg.workers > 1 else []),
        ],
        "command": ["python", "-m", "trm_lightning.compare", *HydraConfig.get().overrides.task],
        "environment": environment(),
    }
    write_json(folder / "comparison.json", comparison)
    write_text(folder / "table.md", render(comparison))
    return comparison


def _write_planned(cfg: DictConfig, folder: Path, plan: Plan, failures: dict[Path, str]) -> None:
    """Keep the comparison up to date while it goes on."""
    write_comparison(cfg, folder, groups_of(plan, failures), plan.baseline)
