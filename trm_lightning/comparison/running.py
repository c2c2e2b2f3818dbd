"""Training the runs of a plan, one process each, so that a crash or a kill costs one at most."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from trm_lightning.callbacks.train_log import read_lines
from trm_lightning.cli.overrides import merge
from trm_lightning.comparison.plan import Plan, PlannedRun
from trm_lightning.errors import UserError
from trm_lightning.results import MEANINGS

if sys.platform != "win32":
    import fcntl

MISTAKE = 2  # exit status of a command after a UserError
POLL_SECONDS = 1.0


def train_all(
    plan: Plan,
    after_each: Callable[[dict[Path, str]], None],
    workers: int = 1,
    progress: bool = True,
) -> dict[Path, str]:
    """Train every run that has no results yet; a run that fails does not stop the others.

    Args:
        plan: what to train.
        after_each: called after each run with the failures so far.
        workers: how many runs to train at a time; they share the cores.
        progress: whether to show a bar.

    Returns:
        Why runs failed, by folder.

    Raises:
        UserError: where a run could not even start, for a reason that the user can mend, or there
            are no workers.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the runs in progress have saved their
            state.
    """
    if workers < 1:
        raise UserError(f"workers={workers}: at least one run has to be trained at a time.")
    failures: dict[Path, str] = {}
    refuse_other_settings(plan)
    waiting = [run for run in plan.runs if not is_finished(run.folder)]
    done = len(plan.runs) - len(waiting)
    bar = tqdm(
        total=len(plan.runs), initial=done, unit="run", dynamic_ncols=True, disable=not progress
    )
    started: list[_Training] = []
    with bar, _sigterm_as_ctrl_c(), _stopping(started, bar):
        while waiting or started:
            while waiting and len(started) < workers:
                started.append(_Training.start(waiting.pop(0), plan.call.flags(), workers))
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


@dataclass
class _Training:
    """A run's process, and where in the run's log its words begin."""

    run: PlannedRun
    process: "subprocess.Popen[bytes] | None"  # None: another comparison's process has ended it
    log_file: Path
    log_start: int

    @classmethod
    def start(cls, run: PlannedRun, flags: list[str], workers: int) -> "_Training":
        """Train a run, or go on with it from its last checkpoint."""
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        log_file = run.folder.with_name(f"{run.folder.name}.log")
        with log_file.open("ab") as log:
            _wait_for_orphan(log, run.folder.name)
            said_before, process = log_file.stat().st_size, None
            if not is_finished(run.folder):
                process = subprocess.Popen(
                    training_command(run, flags),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**_share_of_the_cores(workers), **os.environ},
                )
        return cls(run, process, log_file, said_before)

    def failure(self) -> str | None:
        """Return None, or the end of what the run said when it failed.

        Raises:
            UserError: where it could not even start, for a reason that the user can mend.
        """
        status = self.process.wait() if self.process else 0
        if status == 0:
            return None
        said = self.log_file.read_bytes()[self.log_start :].decode("utf-8", "replace").strip()
        if status == MISTAKE and not _last_checkpoint(self.run.folder).is_file():
            name = self.run.folder.name
            raise UserError(said or f"{name} could not start.", f"This is in {self.log_file}.")
        return said or f"ended with status {status}"


def training_command(run: PlannedRun, flags: list[str]) -> list[str]:
    """Return the command that starts a run, or resumes it where it has a checkpoint."""
    command = [sys.executable, "-m", "trm_lightning.train", *flags]
    quoted = "'" + str(run.folder.resolve()).replace("\\", "\\\\").replace("'", "\\'") + "'"
    if _last_checkpoint(run.folder).is_file():
        return [*command, f"resume={quoted}"]
    if run.folder.exists():
        shutil.rmtree(run.folder)  # it ended before its first checkpoint
    return [*command, *run.overrides, f"hydra.run.dir={quoted}"]


def is_finished(folder: Path) -> bool:
    """Say whether a run has ended: its results are written last, and all at once."""
    return (folder / "results.json").is_file()


def refuse_other_settings(plan: Plan) -> None:
    """Refuse a folder whose runs were started with other settings than the plan's.

    Raises:
        UserError: naming the settings that differ.
    """
    for run in plan.runs:
        file = run.folder / ".hydra" / "overrides.yaml"
        if not file.is_file():
            continue
        stored = set(merge([str(line) for line in OmegaConf.load(file)], without="resume"))
        planned = set(run.overrides)
        if stored != planned:
            raise UserError(
                f"{run.folder} was trained with other settings: "
                f"{' '.join(sorted(stored - planned)) or 'none of'} there, "
                f"{' '.join(sorted(planned - stored)) or 'none of them'} here.",
                "Give this comparison a name of its own: name=…",
            )


def _ended(started: list[_Training]) -> list[_Training]:
    """Return the runs that have ended; waits a moment for the first of them."""
    first = started[0].process
    if first is not None:
        with suppress(subprocess.TimeoutExpired):
            first.wait(POLL_SECONDS)
    return [run for run in started if run.process is None or run.process.poll() is not None]


@contextmanager
def _stopping(started: list[_Training], bar: "tqdm[Any]") -> Iterator[None]:
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


def _share_of_the_cores(workers: int) -> dict[str, str]:
    """Return the environment that keeps runs at a time from taking all cores each."""
    threads = max(1, torch.get_num_threads() // workers)
    return {"OMP_NUM_THREADS": str(threads)} if workers > 1 else {}


def _show(started: list[_Training], bar: "tqdm[Any]") -> None:
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


def _wait_for_orphan(log: IO[bytes], name: str) -> None:
    """Wait where an earlier comparison was killed and its training goes on alone.

    The training process inherits the lock with its standard output, so that two never train in
    one folder.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name} is being trained by another process; waiting for it", file=sys.stderr)
            fcntl.flock(log, fcntl.LOCK_EX)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _last_checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"
