"""Which runs a comparison needs: entries times seeds, each with its overrides, checked at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
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
    check_budget,
    check_study,
    choose_baseline,
    read_entries,
    read_seeds,
)

# Keys of conf/compare.yaml; what else it has is conf/train.yaml's.
_OWN_KEYS = {
    "name", "models", "entries", "common", "runs", "seeds", "baseline", "parity", "budget",
    "scale", "workers", "study",
}  # fmt: skip
_INSTEAD = {
    "model": "Give models=[ar,trm].",
    "seed": "Give seeds=5 or seeds=[1,2,3].",
    "resume": "The same command goes on with what is there; see name=….",
}
# What may differ between runs on one text: how windows are cut from it, and what is added to it.
_WINDOWING = {
    "window_size", "batch_size", "windows", "supervised_tokens", "eval_stride",
    "scrambled_validation_alphabet",  # adds a split, and leaves the others as they are
    "eval_batch_tokens", "seed", "cache_dir",
}  # fmt: skip


@dataclass(frozen=True)
class PlannedRun:
    """One training run: the overrides of its command, and the folder it goes to."""

    entry: str
    seed: int
    overrides: list[str]
    folder: Path


@dataclass(frozen=True)
class Plan:
    """A checked comparison.

    Attributes:
        entries: lines of the table.
        baseline: name of the entry that the others are measured against.
        seeds: of each entry.
        runs: what to train, seed by seed, so that an unfinished comparison compares pairs.
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
    """Work out entries and runs, and compose and check every run's config.

    Args:
        cfg: the comparison's config.
        folder: of the comparison.
        forwarded: overrides that this command hands on to each run.
        call: how the training command finds its configs; see :func:`training_call`.

    Raises:
        UserError: for anything that would keep a run from starting, or from being comparable.
    """
    entries, seeds = read_entries(cfg), read_seeds(cfg.seeds)
    baseline = choose_baseline(cfg.baseline, entries)
    check_budget(cfg)
    check_study(cfg.study, entries)
    common = list(cfg.common)
    _refuse_settings_of_one_run(_by_key(common))
    own = [entry for entry in entries if entry.same_runs_as is None]
    runs, configs = {}, {}
    with _outside_the_job():
        for entry in own:
            given = merge([*common, *forwarded, *entry.overrides])
            run = configs[entry.name] = _composed(call, given)
            for key, value in budget_settings(cfg, run).items():
                OmegaConf.update(run, key, value)
                given.append(f"{key}={'null' if value is None else value}")
            runs[entry.name] = merge([*given, "progress=false"])
    check_same_text(configs)
    if cfg.parity != "seconds":
        check_same_tokens(configs)
    planned = [
        PlannedRun(
            entry.name, seed, merge([*runs[entry.name], f"seed={seed}"]),
            folder / "runs" / f"{entry.name}_seed{seed}",
        )
        for seed in seeds
        for entry in own
    ]  # fmt: skip
    return Plan(entries, baseline, seeds, planned, configs, call)


def budget_settings(cfg: DictConfig, run: DictConfig) -> dict[str, float | None]:
    """Return the settings that give a run its share, and every run as many validations.

    Validations are counted in optimizer steps, of which deep supervision takes several per batch:
    a model that is validated more often would have more tries at its best.
    """
    asked = {str(name): value for name, value in cfg.budget.items() if value is not None}
    limits = dict.fromkeys(map(str, run.budget)) | asked if asked else dict(run.budget)
    every = max(1, round(run.eval_every * cfg.scale)) * run.model.get("n_supervision", 1)
    shares = {f"budget.{name}": _share(name, limit, cfg.scale) for name, limit in limits.items()}
    # A run that is killed loses what it did since its last validation at most.
    saved = min(run.checkpoint_every, every)
    return {**shares, "eval_every": every, "checkpoint_every": saved}


def check_same_text(configs: dict[str, DictConfig]) -> None:
    """Refuse runs on different text, split or vocabulary before any of them is trained.

    Raises:
        UserError: naming the settings that differ.
    """
    texts = {name: _text_settings(config) for name, config in configs.items()}
    first, *others = texts
    for name in others:
        keys = texts[first].keys() | texts[name].keys()
        differing = sorted(key for key in keys if texts[first].get(key) != texts[name].get(key))
        if differing:
            raise UserError(
                f"{first} and {name} would be trained on different data: "
                + "; ".join(
                    f"data.{key} is {texts[first].get(key)} and {texts[name].get(key)}"
                    for key in differing
                ),
                "Perplexities compare on one text, split and vocabulary only: set the same.",
            )


def check_same_tokens(configs: dict[str, DictConfig]) -> None:
    """Refuse budgets that show the models different amounts of text.

    Raises:
        UserError: naming the budgets.
    """
    budgets = {name: _tokens_asked(config) for name, config in configs.items()}
    if len(set(budgets.values())) > 1:
        told = "; ".join(f"{name}: {dict(budget)}" for name, budget in budgets.items())
        raise UserError(
            f"The models would not see equally many tokens: {told}.",
            "Set one budget for all, e.g. budget.tokens=10_000_000.",
        )


def forwarded_overrides() -> list[str]:
    """Return what the command line says of training, for each run to hear it too.

    Raises:
        UserError: for a single model, seed or resumed run, of which a comparison has several.
    """
    hydra = HydraConfig.get()
    given = _by_key(list(hydra.overrides.task))
    _refuse_settings_of_one_run(given)
    own = {"compare", *_OWN_KEYS}
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
    """Raise for the first override in ``given``, by key, that would be alike in all runs."""
    for key, instead in _INSTEAD.items():
        if key in given:
            raise UserError(
                f"`{given[key]}` is of one run, and this command makes several.", instead
            )


@contextmanager
def _outside_the_job() -> Iterator[None]:
    """Let other configs be composed inside Hydra's job, and put the job's own back after."""
    loader, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = loader, config


def _composed(call: Call, overrides: list[str]) -> DictConfig:
    """Compose and check a run's config; return it resolved and without Hydra's own part."""
    with composer(call) as composed:
        cfg = compose_or_explain(composed, overrides)
        with hydra_values(cfg):
            run = cfg.copy()
            with open_dict(run):
                del run["hydra"]
            check_config(run, SCHEMAS["train"], call.help_hint)
            OmegaConf.resolve(run)
    return run


def _share(name: str, limit: float | None, scale: float) -> float | None:
    if limit is None:
        return None
    return max(1, round(limit * scale)) if name in ("steps", "tokens") else limit * scale


def _text_settings(config: DictConfig) -> dict[str, Any]:
    container: Any = OmegaConf.to_container(config["data"], resolve=True)
    return {key: value for key, value in container.items() if key not in _WINDOWING}


def _tokens_asked(config: DictConfig) -> tuple[tuple[str, float], ...]:
    """Return the limits on tokens: exact for steps and tokens, by epochs as they stand."""
    asked = {name: value for name, value in config.budget.items() if value is not None}
    if "steps" in asked:
        batches = asked.pop("steps") / config.model.get("n_supervision", 1)
        asked["tokens in steps"] = batches * config.data.batch_size * config.data.window_size
    return tuple(asked.items())
