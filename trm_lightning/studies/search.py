"""A search for settings: Optuna proposes, ordinary training runs answer.

A search trains several trials at a time, as processes or as jobs of a cluster. Several searches, on
one machine or many, share the trials through Optuna's storage and their folder. Under the folder's
lock each of them takes a trial that a killed one has left, or a new one; the lock of the trial's
own file says whether somebody is at it. So no trial is lost, and none is run twice.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from tqdm import tqdm

from trm_lightning.cli.compose import Call
from trm_lightning.cli.overrides import merge, parse_overrides
from trm_lightning.errors import UserError
from trm_lightning.runs.history import read_lines
from trm_lightning.runs.results_file import FILE, read_results
from trm_lightning.studies.cluster import Cluster, cluster_of, workers_of
from trm_lightning.studies.plan import PlannedRun, compose_run, training_call
from trm_lightning.studies.search_space import Setting, read_space
from trm_lightning.studies.training_process import TrainingProcess, stopping

POLL_SECONDS = 1.0
NATS = ("_nats_per_token", "_nats_per_cell")  # how logged scores end, of text and of puzzles
# Of conf/tune.yaml.
_OWN_KEYS = {"name", "space", "trials", "workers", "launcher", "storage", "prune", "seed"}


@dataclass(frozen=True)
class Search:
    """A search and how its trials are trained.

    Attributes:
        study: Optuna's, shared by all processes.
        space: what is searched.
        fixed: overrides of every trial.
        call: how the training command finds its configs.
        folder: holds the trials' runs.
        trials: how many there are to be, whoever runs them.
        prune: stop trials that are worse than the median at the same step.
        workers: how many trials are trained at a time.
        cluster: where they are trained as jobs; None for processes of this machine.
    """

    study: optuna.Study
    space: list[Setting]
    fixed: list[str]
    call: Call
    folder: Path
    trials: int
    prune: bool
    workers: int = 1
    cluster: Cluster | None = None


@dataclass
class _Trial:
    """A trial in progress; its lock is held until it has ended."""

    trial: optuna.Trial
    lock: FileLock
    process: TrainingProcess
    started: bool = False


def make_search(cfg: DictConfig) -> Search:
    """Open the search of a config, or begin it; check its settings before any trial.

    Raises:
        UserError: for anything that would keep a trial from starting.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    space = read_space(cfg.space)
    study = open_study(str(cfg.name), cfg.storage, folder, int(cfg.seed), bool(cfg.prune))
    fixed = [*_handed_on(), f"seed={cfg.seed}"]
    launcher = HydraConfig.get().launcher
    workers = workers_of(launcher, int(cfg.workers))
    cluster = cluster_of(launcher, workers, folder / ".submitit")
    search = Search(
        study, space, fixed, training_call(), folder, int(cfg.trials), bool(cfg.prune), workers,
        cluster,
    )  # fmt: skip
    example = [setting.override(_first(setting.distribution)) for setting in space]
    compose_run(search.call, merge([*fixed, *example]))
    refuse_another_space(search)
    return search


def _handed_on() -> list[str]:
    """Return the overrides of this command's line that every trial gets as well."""
    hydra = HydraConfig.get()
    choices = [f"{group}={hydra.runtime.choices[group]}" for group in ("data", "model")]
    given = {o.key_or_group: str(o.input_line) for o in parse_overrides(list(hydra.overrides.task))}
    handed_on = [line for key, line in given.items() if key.partition(".")[0] not in _OWN_KEYS]
    return merge([*choices, *handed_on])


def _first(distribution: Any) -> Any:
    choices = getattr(distribution, "choices", None)
    return choices[0] if choices else distribution.low


def open_study(
    name: str, storage: str | None, folder: Path, seed: int, prune: bool
) -> optuna.Study:
    """Open a study, or create it: in a journal file of the folder, or at a storage's URL.

    Raises:
        UserError: for a storage that cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    place: Any = storage
    if storage is None:
        backend = JournalFileBackend(str(folder / "journal.log"))
        place = optuna.storages.JournalStorage(backend)
    try:
        return optuna.create_study(
            study_name=name,
            storage=place,
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
            pruner=optuna.pruners.MedianPruner() if prune else optuna.pruners.NopPruner(),
        )
    except Exception as error:  # whatever the storage's own library raises
        raise UserError(
            f"storage={storage}: {str(error).splitlines()[0]}",
            "Leave it out for a file in the search's folder, or give a URL such as "
            "sqlite:///search.db.",
        ) from error


def refuse_another_space(search: Search) -> None:
    """Refuse to go on with a search of that name that tried other settings.

    Raises:
        UserError: naming what differs.
    """
    as_json = optuna.distributions.distribution_to_json
    settings = {
        "space": {s.key: as_json(s.distribution) for s in search.space},
        "fixed": sorted(search.fixed),
    }
    stored = search.study.user_attrs.get("settings")
    if stored is None:
        search.study.set_user_attr("settings", settings)
    elif stored != settings:
        differing = [key for key in settings if stored.get(key) != settings[key]]
        raise UserError(
            f"The search in {search.folder} has another {' and other '.join(differing)}.",
            "Give this one a name of its own: name=…",
        )


def run_search(search: Search, progress: bool = True) -> None:
    """Run trials until there are enough, with other processes' where there are some.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the trials in progress have saved; the same
            command goes on with them.
    """
    going: list[_Trial] = []
    bar = tqdm(total=search.trials, unit="trial", dynamic_ncols=True, disable=not progress)
    try:
        with bar, stopping(lambda: [one.process for one in going], bar):
            while True:
                while len(going) < search.workers and (taken := _take(search)):
                    going.append(_prepared(search, *taken))
                _show(search, going, bar)
                if not going:
                    return
                ended = [one for one in going if _has_ended(search, one)]
                for one in ended:
                    going.remove(one)
                    one.lock.release()
                if not ended:
                    time.sleep(POLL_SECONDS)
    finally:
        for one in going:
            one.lock.release()


def _show(search: Search, going: list[_Trial], bar: "tqdm[Any]") -> None:
    bar.n = sum(t.state.is_finished() for t in search.study.get_trials(deepcopy=False))
    bar.set_description(", ".join(f"trial {one.trial.number}" for one in going))


def _take(search: Search) -> tuple[optuna.Trial, FileLock] | None:
    """Take an abandoned trial or a new one, with its lock; None where there are enough."""
    (search.folder / "runs").mkdir(parents=True, exist_ok=True)
    with FileLock(search.folder / "search.lock"):
        trials = search.study.get_trials(deepcopy=False)
        for found in trials:
            if found.state == TrialState.RUNNING and (lock := _lock(search, found.number)):
                return optuna.Trial(search.study, found._trial_id), lock
        if len(trials) >= search.trials:
            return None
        trial = search.study.ask({s.key: s.distribution for s in search.space})
        new = _lock(search, trial.number)
        assert new is not None
        return trial, new


def _lock(search: Search, number: int) -> FileLock | None:
    """Take a trial's lock; None where another process has it."""
    lock = FileLock(run_folder(search.folder, number).with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def run_folder(folder: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return folder / "runs" / f"trial_{number:04d}"


def _prepared(search: Search, trial: optuna.Trial, lock: FileLock) -> _Trial:
    given = [s.override(trial.params[s.key]) for s in search.space]
    folder = run_folder(search.folder, trial.number)
    overrides = merge([*search.fixed, *given, "progress=false"])
    trial.set_user_attr("folder", str(folder))
    run = PlannedRun(f"trial_{trial.number}", 0, overrides, folder)
    flags = search.call.flags()
    return _Trial(trial, lock, TrainingProcess(run, flags, search.workers, True, search.cluster))


def _has_ended(search: Search, one: _Trial) -> bool:
    """Start a trial, prune it, or tell Optuna how it ended; return whether it has."""
    if not one.started or one.process.was_taken():  # a killed search left it running
        one.started = one.process.start()
        return False
    new = _report(one.trial, one.process.run.folder)
    if one.process.has_ended():
        _tell(search, one)
        return True
    if new and search.prune and one.trial.should_prune():
        one.process.stop()
        search.study.tell(one.trial.number, state=TrialState.PRUNED)
        return True
    return False


def _tell(search: Search, one: _Trial) -> None:
    folder, number = one.process.run.folder, one.trial.number
    try:
        failure = one.process.failure()
    except UserError as error:  # refused before its first step: these settings, not the search
        failure = str(error)
    _report(one.trial, folder)
    if failure is not None or not (folder / FILE).is_file():
        one.trial.set_user_attr("failure", failure or "ended without results")
        search.study.tell(number, state=TrialState.FAIL)
        return
    search.study.tell(number, best_nats(folder))


def _report(trial: optuna.Trial, folder: Path) -> bool:
    """Report the validations that Optuna has not seen; return whether there were some."""
    history = folder / "metrics.jsonl"
    seen = trial.storage.get_trial(trial._trial_id).intermediate_values
    new = False
    for line in read_lines(history) if history.is_file() else []:
        names = (k for k in line if k.startswith("val/") and k.endswith(NATS))
        name, step = next(names, None), int(line["step"])
        if name is not None and step not in seen:
            trial.report(float(line[name]), step)
            new = True
    return new


def best_nats(folder: Path) -> float:
    """Return the lowest validation nats per token, or per cell of a puzzle, of a finished run."""
    name = next(iter(read_results(folder)["best"]))
    lines = read_lines(folder / "metrics.jsonl")
    return min(line[name + end] for line in lines for end in NATS if name + end in line)
