"""A comparison from its composed config to ``comparison.json`` and ``table.md``."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trm_lightning.errors import UserError
from trm_lightning.files import write_json, write_text
from trm_lightning.runs.environment import environment
from trm_lightning.studies.budgets import at_budget, budget_name
from trm_lightning.studies.cluster import cluster_of, workers_of
from trm_lightning.studies.entries import check_fit, choose_baseline
from trm_lightning.studies.fits import study_of
from trm_lightning.studies.measures import check_measure, measure_all
from trm_lightning.studies.notes import notes_on
from trm_lightning.studies.paired_statistics import summarise_entries
from trm_lightning.studies.parity import check_same_parameters, parity_reached
from trm_lightning.studies.plan import (
    Plan,
    forwarded_overrides,
    make_plan,
    training_call,
)
from trm_lightning.studies.run_identity import other_defaults, refuse_other_settings
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
    given = {line.partition("=")[0] for line in HydraConfig.get().overrides.task}
    budget, cfg = budget_name(cfg), at_budget(cfg, given)
    told = ""
    if cfg.runs:
        if (folder / "runs").exists():
            raise UserError(
                f"{folder} holds a comparison of its own runs.",
                "Give this one another name: name=…",
            )
        groups = group_folders([Path(run) for run in cfg.runs])
        entries = [group.entry for group in groups]
        baseline = choose_baseline(cfg.baseline, entries)
        check_fit(cfg.fit, entries)
        check_measure(cfg.measure, entries)
    else:
        plan, told, failures = _train(cfg, folder, budget)
        groups, baseline = groups_of(plan, failures), plan.baseline
    if cfg.measure is not None:
        ended = [record.folder for group in groups for record in group.completed]
        measure_all(cfg.measure, dict.fromkeys(ended), list(cfg.trust), cfg.progress)
    comparison = write_comparison(cfg, folder, groups, baseline, budget, told)
    print("\n" + (folder / "table.md").read_text(encoding="utf-8"))
    print(f"Everything is in {folder}: comparison.json, table.md, runs/")
    return bool(comparison["status"] == "completed")


def _train(cfg: DictConfig, folder: Path, budget: str | None) -> tuple[Plan, str, dict[Path, str]]:
    """Train the runs that are missing.

    Returns:
        What was planned; in what the defaults of runs that were there differ from today's; and the
        failures, see :func:`train_all`.
    """
    launcher = HydraConfig.get().launcher
    cfg.workers = workers_of(launcher, cfg.workers)
    plan = make_plan(cfg, folder, forwarded_overrides(), training_call())
    check_measure(cfg.measure, plan.entries)
    if cfg.parity == "parameters":
        runs_of = {entry.name: entry.runs_of for entry in plan.entries}
        check_same_parameters(plan.configs, runs_of[plan.baseline])
    refuse_other_settings(plan)
    if told := other_defaults(plan):
        print(told, file=sys.stderr)
    keep = partial(_write_planned, cfg, folder, plan, budget, told)
    cluster = cluster_of(launcher, cfg.workers, folder / ".submitit")
    return plan, told, train_all(plan, keep, cfg.workers, cfg.progress, cluster)


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
    cfg: DictConfig,
    folder: Path,
    groups: list[Group],
    baseline: str,
    budget: str | None = None,
    defaults: str = "",
) -> dict[str, Any]:
    """Write ``comparison.json`` and ``table.md``; runs may still be missing.

    Args:
        cfg: the comparison's config, its budget as limits.
        folder: to write to.
        groups: the runs of each entry.
        baseline: name of the entry that the others are compared with.
        budget: its name, where it has one.
        defaults: in what those of finished runs differ from today's; becomes a note.

    Raises:
        UserError: when the runs cannot be compared.
    """
    check_comparable(groups, baseline)
    trained_here = not cfg.runs
    parity = str(cfg.parity) if trained_here else None
    entries = summarise_entries(groups, baseline)
    study = study_of(cfg, groups, entries)
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
        "budget": budget,
        "entries": entries,
        "study": study,
        "notes": [
            *notes_on(groups, entries, parity, budget),
            *([defaults] if defaults else []),
            *(study["notes"] if study else []),
            *([_PARALLEL.format(cfg.workers)] if trained_here and cfg.workers > 1 else []),
        ],
        "command": ["python", "-m", "trm_lightning.compare", *HydraConfig.get().overrides.task],
        "environment": environment(),
    }
    write_json(folder / "comparison.json", comparison)
    write_text(folder / "table.md", render(comparison))
    return comparison


def _write_planned(
    cfg: DictConfig,
    folder: Path,
    plan: Plan,
    budget: str | None,
    defaults: str,
    failures: dict[Path, str],
) -> None:
    """Keep the comparison up to date while it goes on."""
    write_comparison(cfg, folder, groups_of(plan, failures), plan.baseline, budget, defaults)
