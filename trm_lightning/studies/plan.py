"""Which runs a comparison needs: entries times seeds, each with its checked overrides."""

from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from trm_lightning.cli.compose import (
    Call,
    compose_or_explain,
    composer,
    conf_dir,
    hydra_values,
)
from trm_lightning.cli.config_check import check_config
from trm_lightning.cli.overrides import merge, parse_overrides
from trm_lightning.cli.schema import SCHEMAS
from trm_lightning.errors import UserError
from trm_lightning.studies.entries import (
    Entry,
    check_fit,
    choose_baseline,
    compared_together,
    read_entries,
    read_seeds,
)
from trm_lightning.studies.parity import (
    check_budget,
    check_same_text,
    check_same_tokens,
    steps_per_batch,
)

# Keys of conf/compare.yaml; what else it has is conf/train.yaml's.
_OWN_KEYS = {
    "name", "models", "entries", "common", "runs", "seeds", "baseline", "parity", "budget",
    "budgets", "workers", "launcher", "fit", "axis", "measure",
}  # fmt: skip
_INSTEAD = {
    "model": "Give models=[ar,trm].",
    "seed": "Give seeds=5 or seeds=[1,2,3].",
    "resume": "The same command resumes the comparison of that name; see name=….",
}


@dataclass(frozen=True)
class PlannedRun:
    """One training run.

    Attributes:
        entry: name of the entry that it belongs to.
        seed: of weights, dropout and data.
        overrides: of its training command.
        folder: that it goes to.
        after: folder of the run whose weights it starts from; None for none.
    """

    entry: str
    seed: int
    overrides: list[str]
    folder: Path
    after: Path | None = None


@dataclass(frozen=True)
class Plan:
    """A checked comparison.

    Attributes:
        entries: lines of the table.
        baseline: name of the entry that the others are compared with.
        seeds: of each entry.
        runs: to train, ordered by seed, so that an unfinished comparison has complete pairs.
        configs: composed training config of each entry that has runs of its own.
        call: how the training command finds its configs.
    """

    entries: list[Entry]
    baseline: str
    seeds: list[int]
    runs: list[PlannedRun]
    configs: dict[str, DictConfig]
    call: Call


def make_plan(cfg: DictConfig, folder: Path, forwarded: list[str], call: Call) -> Plan:
    """Expand entries and seeds into runs; compose and check every run's config.

    Args:
        cfg: the comparison's config.
        folder: of the comparison.
        forwarded: overrides that this command hands on to each run.
        call: how the training command finds its configs; see :func:`training_call`.

    Raises:
        UserError: for anything that would keep a run from starting or from being comparable.
    """
    entries, seeds = read_entries(cfg), read_seeds(cfg.seeds)
    baseline = choose_baseline(cfg.baseline, entries)
    check_budget(cfg)
    check_fit(cfg.fit, entries)
    common = list(cfg.common)
    _refuse_settings_of_one_run({k: v for k, v in _by_key(common).items() if k != "model"})
    own = [entry for entry in entries if entry.same_runs_as is None]
    runs, configs = {}, {}
    for entry in own:
        given = merge([*common, *forwarded, *entry.overrides])
        run = configs[entry.name] = compose_run(call, given)
        for key, value in budget_settings(cfg, run, entry.budget_share).items():
            OmegaConf.update(run, key, value)
            given.append(f"{key}={'null' if value is None else value}")
        runs[entry.name] = merge([*given, "progress=false"])
    shares = {entry.name: entry.budget_share for entry in own}
    for group in compared_together(entries, baseline):
        together = {name: configs[name] for name in group if name in configs}
        check_same_text(together)
        if cfg.parity != "seconds":
            check_same_tokens({name: c for name, c in together.items() if shares[name] == 1})
    planned = [
        _planned(entry, seed, runs[entry.name], folder / "runs") for seed in seeds for entry in own
    ]
    return Plan(entries, baseline, seeds, planned, configs, call)


def _planned(entry: Entry, seed: int, overrides: list[str], folder: Path) -> PlannedRun:
    """Return one run of an entry; ``folder`` holds those of all."""
    after = None
    if entry.starts_from is not None:
        after = folder / f"{entry.starts_from}_seed{seed}"
        overrides = [*overrides, f"init_from={quoted(after)}"]
    own = folder / f"{entry.name}_seed{seed}"
    return PlannedRun(entry.name, seed, merge([*overrides, f"seed={seed}"]), own, after)


def quoted(folder: Path) -> str:
    """Return a folder's absolute path as the value of an override."""
    return "'" + str(folder.resolve()).replace("\\", "\\\\").replace("'", "\\'") + "'"


def budget_settings(
    cfg: DictConfig, run: DictConfig, share: float = 1.0
) -> dict[str, float | None]:
    """Return the settings of a run's budget and of its validations.

    Every run gets as many validations, because a model that is validated more often would have
    more tries at its best. They are counted in optimizer steps, of which deep supervision takes
    several per batch.
    """
    asked = {str(name): value for name, value in cfg.budget.items() if value is not None}
    limits = dict.fromkeys(map(str, run.budget)) | asked if asked else dict(run.budget)
    every = max(1, round(run.eval_every * share)) * steps_per_batch(run)
    shares = {f"budget.{name}": _share(name, limit, share) for name, limit in limits.items()}
    # A killed run loses at most the steps since its last validation.
    saved = min(run.checkpoint_every, every)
    return {**shares, "eval_every": every, "checkpoint_every": saved}


def forwarded_overrides() -> list[str]:
    """Return the overrides of this command's line that every training run gets as well.

    Raises:
        UserError: for ``model``, ``seed`` or ``resume``, which a comparison sets for each run.
    """
    hydra = HydraConfig.get()
    given = _by_key(list(hydra.overrides.task))
    _refuse_settings_of_one_run(given)
    own = {"study", *_OWN_KEYS}
    handed_on = [line for key, line in given.items() if key.split(".")[0] not in own]
    return merge([f"data={hydra.runtime.choices['data']}", *handed_on])


def training_call() -> Call:
    """Return the training command's call, with this command's ``--config-dir``."""
    sources = HydraConfig.get().runtime.config_sources
    own = [Path(source.path) for source in sources if source.provider == "command-line"]
    return Call("train", conf_dir(), "train", own[0] if own else None, multirun=False)


def _by_key(overrides: list[str]) -> dict[str, str]:
    return {o.key_or_group: str(o.input_line) for o in parse_overrides(overrides)}


def _refuse_settings_of_one_run(given: dict[str, str]) -> None:
    """Raise for the first override in ``given``, by key, that belongs to a single run."""
    for key, instead in _INSTEAD.items():
        if key in given:
            raise UserError(
                f"`{given[key]}` sets a single run, and this command trains several.", instead
            )


def compose_run(call: Call, overrides: list[str]) -> DictConfig:
    """Compose and check a run's config; return it resolved and without Hydra's own part.

    Raises:
        UserError: for anything that would keep the run from starting.
    """
    with composer(call) as composed:
        cfg = compose_or_explain(composed, overrides)
        with hydra_values(cfg):
            run = cfg.copy()
            with open_dict(run):
                del run["hydra"]
            check_config(run, SCHEMAS["train"], call.help_hint)
            OmegaConf.resolve(run)
    return run


def _share(name: str, limit: float | None, share: float) -> float | None:
    if limit is None:
        return None
    return max(1, round(limit * share)) if name in ("steps", "tokens") else limit * share
