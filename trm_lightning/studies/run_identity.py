"""Which run a folder holds: its name and the overrides that it was started with say so.

The composed config does not: a key that is added to ``conf/`` would make every run another one.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from trm_lightning.cli.differences import differences, flat
from trm_lightning.cli.overrides import parse_overrides
from trm_lightning.cli.resume import stored_overrides
from trm_lightning.errors import UserError
from trm_lightning.runs.results_file import FILE, read_results
from trm_lightning.studies.plan import Plan, PlannedRun

# Settings of a run that do not change what is trained; for the seed, see who asks.
INCIDENTAL = {
    "seed", "run_dir", "resume", "trust", "progress", "logger", "threads", "checkpoint_every",
}  # fmt: skip
_ASIDE = {"experiment_name", "init_from"}  # not trained with, or in the overrides as well
_N_SHOWN = 8


def recorded_overrides(folder: Path, moved: bool = False) -> frozenset[str] | None:
    """Return the overrides that a run was started with and that matter; None without a record.

    Args:
        folder: of the run.
        moved: see :func:`that_matter`.

    Raises:
        UserError: when the record is damaged.
    """
    if not (folder / ".hydra" / "overrides.yaml").is_file():
        return None
    return that_matter(stored_overrides(folder), moved)


def that_matter(overrides: list[str], moved: bool = False) -> frozenset[str]:
    """Return the overrides that change what is trained, the seed included.

    A limit of the budget that is null limits nothing, so that a new kind of limit changes nothing.

    Args:
        overrides: of a run.
        moved: know the run whose weights it starts from by its folder's name alone, because a
            comparison may have been moved.
    """
    incidental = INCIDENTAL - {"seed"}
    return frozenset(
        f"init_from={Path(str(o.value())).name}"
        if moved and o.key_or_group == "init_from"
        else str(o.input_line)
        for o in parse_overrides(overrides)
        if o.key_or_group.partition(".")[0] not in incidental
        and not (o.key_or_group.startswith("budget.") and o.value() is None)
    )


def refuse_other_settings(plan: Plan) -> None:
    """Refuse a comparison's folder with runs in it that were started with other overrides.

    Settings that change nothing about the weights may differ: each machine has its own ``threads``.

    Raises:
        UserError: naming the runs, and the overrides that differ.
    """
    runs_of: dict[str, list[str]] = {}
    for run in plan.runs:
        if difference := _difference(run):
            runs_of.setdefault(difference, []).append(run.folder.name)
    if runs_of:
        lines = [f"{_listed(names)}: {difference}" for difference, names in runs_of.items()]
        raise UserError(
            f"{plan.runs[0].folder.parent} holds runs that were trained with other settings:\n"
            + "\n".join(f"- {line}" for line in lines[:_N_SHOWN])
            + (f"\n- and {len(lines) - _N_SHOWN} more" if len(lines) > _N_SHOWN else ""),
            "Give this comparison a name of its own (name=…), or remove those folders and they "
            "are trained again.",
        )


def _difference(run: PlannedRun) -> str:
    """Return in what the run of a folder is another one than the plan's; empty for nothing."""
    from_sibling = run.after is not None
    recorded = recorded_overrides(run.folder, moved=from_sibling)
    if recorded is None:
        ended = (run.folder / FILE).is_file()
        return "no record of its overrides there (.hydra/overrides.yaml)" if ended else ""
    planned = that_matter(run.overrides, moved=from_sibling)
    if recorded == planned:
        return ""
    return (
        f"{' '.join(sorted(recorded - planned)) or 'nothing'} there, "
        f"{' '.join(sorted(planned - recorded)) or 'nothing'} here"
    )


def other_defaults(plan: Plan) -> str:
    """Return in what the configs of finished runs differ from what their overrides give today.

    Returns:
        A line with the keys; empty where nothing differs.
    """
    n_runs = 0
    changed: dict[str, tuple[Any, Any]] = {}
    gone, added = set[str](), set[str]()
    for run in plan.runs:
        if run.entry not in plan.configs or not (run.folder / FILE).is_file():
            continue
        today: Any = OmegaConf.to_container(plan.configs[run.entry])
        found = differences(
            settings_of(read_results(run.folder)["config"], _ASIDE), settings_of(today, _ASIDE)
        )
        n_runs += bool(found)
        changed |= found.changed
        gone |= found.gone.keys()
        added |= found.added.keys()
    parts = {
        "changed since": [f"{key} ({a} then, {b} now)" for key, (a, b) in changed.items()],
        "new": sorted(added),
        "no longer there": sorted(gone),
    }
    told = "; ".join(f"{what}: {_listed(keys)}" for what, keys in parts.items() if keys)
    runs = "1 finished run was" if n_runs == 1 else f"{n_runs} finished runs were"
    return f"{runs} trained with other defaults than conf/ has today; {told}." if told else ""


def settings_of(config: dict[str, Any], aside: Collection[str] = ()) -> dict[str, Any]:
    """Return what a config says of training, by dotted keys, wherever the run's folder lies.

    Args:
        config: of a run, composed and resolved.
        aside: keys to leave out, besides those that change nothing and the seed.
    """
    folder = str(config.get("run_dir", ""))
    return {
        key: value.replace(folder, "${run_dir}") if folder and isinstance(value, str) else value
        for key, value in flat(config).items()
        if key.partition(".")[0] not in INCIDENTAL and key != "data.seed" and key not in aside
    }


def same_but_for_seed(
    first: dict[str, Any], second: dict[str, Any], folders: tuple[Path, Path]
) -> bool:
    """Return whether two runs were trained alike, but for the seed.

    Their configs agree; or their overrides do, and one config has keys that the other, of another
    version, does not have.

    Args:
        first: the config of one.
        second: of the other.
        folders: of both.
    """
    found = differences(settings_of(first), settings_of(second))
    if not found or found.changed:
        return not found
    one, other = map(recorded_overrides, folders)
    return one is not None and other is not None and _but_seed(one) == _but_seed(other)


def _but_seed(overrides: frozenset[str]) -> set[str]:
    return {line for line in overrides if not line.startswith(("seed=", "data.seed="))}


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _N_SHOWN} more" if len(names) > _N_SHOWN else ""
    return ", ".join(names[:_N_SHOWN]) + more
