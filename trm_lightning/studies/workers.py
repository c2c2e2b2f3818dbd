"""Trains the runs of a plan, several at a time, each in its own process.

A crash or a kill thus costs at most one run.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from trm_lightning.cli.overrides import merge
from trm_lightning.errors import UserError
from trm_lightning.evaluation.metrics import MEANINGS
from trm_lightning.runs.history import read_lines
from trm_lightning.runs.stored_text import read_yaml_list
from trm_lightning.studies.plan import Plan, PlannedRun
from trm_lightning.studies.training_process import TrainingProcess, is_finished

POLL_SECONDS = 1.0


def train_all(
    plan: Plan,
    after_each: Callable[[dict[Path, str]], None],
    workers: int = 1,
    progress: bool = True,
) -> dict[Path, str]:
    """Train every run without results; a run that fails does not stop the others.

    Args:
        plan: what to train.
        after_each: called after each run with the failures so far.
        workers: how many runs to train at a time; they share the cores.
        progress: whether to show a bar.

    Returns:
        The last output of each failed run, by folder.

    Raises:
        UserError: when a run was refused before its first checkpoint.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the runs in progress have saved.
    """
    failures: dict[Path, str] = {}
    refuse_other_settings(plan)
    waiting = [run for run in plan.runs if not is_finished(run.folder)]
    done = len(plan.runs) - len(waiting)
    bar = tqdm(
        total=len(plan.runs), initial=done, unit="run", dynamic_ncols=True, disable=not progress
    )
    started: list[TrainingProcess] = []
    with bar, _stopping(started, bar):
        while waiting or started:
            while len(started) < workers and (run := _next(waiting, started)) is not None:
                waiting.remove(run)
                if run.after is not None and not is_finished(run.after):
                    failures[run.folder] = f"it starts from {run.after.name}, which did not end"
                    bar.update()
                    continue
                warm = _on_one_device(plan.configs.get(run.entry))
                started.append(TrainingProcess(run, plan.call.flags(), workers, warm))
            _show(started, bar)
            for training in _ended(started):
                started.remove(training)
                run = training.run
                failure = training.failure()
                if failure is not None:
                    failures[run.folder] = failure
                    bar.write(f"{run.folder.name} failed: {failure.splitlines()[-1]}")
                after_each(failures)
                bar.update()
    return failures


def _next(waiting: list[PlannedRun], started: list[TrainingProcess]) -> PlannedRun | None:
    """Return the first run that need not wait for another one's weights; None where all must."""
    unfinished = {run.folder for run in waiting} | {training.run.folder for training in started}
    return next((run for run in waiting if run.after not in unfinished), None)


def _on_one_device(config: DictConfig | None) -> bool:
    """Return whether a training config asks for a single process."""
    if config is None:
        return False
    trainer = config.trainer
    return trainer.get("devices", 1) == 1 and trainer.get("num_nodes", 1) == 1


def refuse_other_settings(plan: Plan) -> None:
    """Refuse a folder whose runs were started with other settings.

    Raises:
        UserError: naming the settings that differ.
    """
    for run in plan.runs:
        file = run.folder / ".hydra" / "overrides.yaml"
        if not file.is_file():
            continue
        stored = set(merge(read_yaml_list(file), without="resume"))
        planned = set(run.overrides)
        if stored != planned:
            raise UserError(
                f"{run.folder} was trained with other settings: "
                f"{' '.join(sorted(stored - planned)) or 'none of'} there, "
                f"{' '.join(sorted(planned - stored)) or 'none of them'} here.",
                "Give this comparison a name of its own: name=…",
            )


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


@contextmanager
def _stopping(started: list[TrainingProcess], bar: "tqdm[Any]") -> Iterator[None]:
    """Let the runs in progress save their state when the comparison is stopped."""
    try:
        yield
    except BaseException as error:
        processes = [training.process for training in started if training.process]
        if isinstance(error, KeyboardInterrupt):
            bar.write("stopping; the same command goes on from here", file=sys.stderr)
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
        raise


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
