"""Trains the runs of a plan, several at a time, each in its own process or as a job of a cluster.

A crash or a kill thus costs at most one run.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from trm_lightning.evaluation.metrics import MEANINGS
from trm_lightning.runs.history import read_lines
from trm_lightning.studies.cluster import Cluster
from trm_lightning.studies.plan import Plan, PlannedRun
from trm_lightning.studies.training_process import TrainingProcess, is_finished, stopping

POLL_SECONDS = 1.0


def train_all(
    plan: Plan,
    after_each: Callable[[dict[Path, str]], None],
    workers: int = 1,
    progress: bool = True,
    cluster: Cluster | None = None,
) -> dict[Path, str]:
    """Train every run without results; a run that fails does not stop the others.

    Other processes may be at the same plan, on this machine or on others that share the folder:
    a run that one of them trains is left to it.

    Args:
        plan: what to train; its folders hold no other runs, see :func:`refuse_other_settings`.
        after_each: called after each run with the failures so far.
        workers: how many runs to train at a time; they share the cores.
        progress: whether to show a bar.
        cluster: where runs are trained as jobs; None for processes of this machine.

    Returns:
        The last output of each failed run, by folder.

    Raises:
        UserError: when a run was refused before its first checkpoint.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the runs in progress have saved.
    """
    failures: dict[Path, str] = {}
    waiting = [run for run in plan.runs if not is_finished(run.folder)]
    done = len(plan.runs) - len(waiting)
    bar = tqdm(
        total=len(plan.runs), initial=done, unit="run", dynamic_ncols=True, disable=not progress
    )
    pool = _Pool(plan, workers, cluster, waiting, failures, bar)
    with bar, stopping(lambda: pool.started, bar):
        while pool.waiting or pool.started:
            pool.start_more()
            _show(pool.started, bar)
            for training in _ended(pool.started):
                pool.started.remove(training)
                run = training.run
                if training.was_taken():
                    pool.waiting.append(run)
                    continue
                failure = training.failure()
                if failure is not None:
                    failures[run.folder] = failure
                    bar.write(f"{run.folder.name} failed: {failure.splitlines()[-1]}")
                after_each(failures)
                bar.update()
    return failures


@dataclass
class _Pool:
    """The runs that wait and those that were started; see :func:`train_all`."""

    plan: Plan
    workers: int
    cluster: Cluster | None
    waiting: list[PlannedRun]
    failures: dict[Path, str]
    bar: "tqdm[Any]"
    started: list[TrainingProcess] = field(default_factory=list)
    elsewhere: set[Path] = field(default_factory=set)

    def start_more(self) -> None:
        """Start runs until there are enough, but those that another process trains."""
        for run in list(self.waiting):
            if len(self.started) >= (self.cluster.at_once if self.cluster else self.workers):
                return
            if self._must_wait(run):
                continue
            if run.after is not None and not is_finished(run.after):
                self.waiting.remove(run)
                self.failures[run.folder] = f"it starts from {run.after.name}, which did not end"
                self.bar.update()
                continue
            warm = _on_one_device(self.plan.configs.get(run.entry))
            flags = self.plan.call.flags()
            training = TrainingProcess(run, flags, self.workers, warm, self.cluster)
            if training.start():
                self.waiting.remove(run)
                self.started.append(training)
            elif run.folder not in self.elsewhere:
                self.elsewhere.add(run.folder)
                tqdm.write(f"{run.folder.name} is trained by another process", file=sys.stderr)

    def _must_wait(self, run: PlannedRun) -> bool:
        """Return whether the run starts from weights that are still being trained."""
        unfinished = {run.folder for run in self.waiting}
        return run.after in unfinished | {training.run.folder for training in self.started}


def _on_one_device(config: DictConfig | None) -> bool:
    """Return whether a training config asks for a single process."""
    if config is None:
        return False
    trainer = config.trainer
    return trainer.get("devices", 1) == 1 and trainer.get("num_nodes", 1) == 1


def _ended(started: list[TrainingProcess]) -> list[TrainingProcess]:
    """Return the runs that have ended; wait a moment where there are none."""
    ended = [training for training in started if training.has_ended()]
    if not ended:
        process = next((training.process for training in started if training.process), None)
        if process is None:
            time.sleep(POLL_SECONDS)
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
    return ended


def _show(started: list[TrainingProcess], bar: "tqdm[Any]") -> None:
    folders = [training.run.folder for training in started]
    bar.set_description(", ".join(folder.name for folder in folders), refresh=False)
    bar.set_postfix_str("; ".join(_progress(folder) for folder in folders))


def _progress(folder: Path) -> str:
    history = folder / "metrics.jsonl"
    lines = read_lines(history) if history.is_file() else []
    if not lines:
        return "starting"
    seen: dict[str, float] = {}
    for line in lines:
        seen |= line
    shown = [
        f"{name} {value:.4g}"
        for name, value in seen.items()
        if name.startswith("val") and name.partition("/")[2] in MEANINGS
    ]
    return ", ".join([f"step {lines[-1]['step']:,}", *shown])
