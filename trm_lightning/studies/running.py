"""Training the runs of a plan, one process each, so that a crash or a kill costs one at most."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from trm_lightning.cli.overrides import merge
from trm_lightning.errors import UserError
from trm_lightning.evaluation.metrics import MEANINGS
from trm_lightning.runs.history import read_lines
from trm_lightning.studies.plan import Plan, PlannedRun

if sys.platform != "win32":
    import fcntl

POLL_SECONDS = 1.0
LAST_LINES = 20  # of what a run said, kept where it failed


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
        UserError: where a run could not even start, for a reason that the user can mend.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, when the runs in progress have saved their
            state.
    """
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
                started.append(_Training(waiting.pop(0), plan.call.flags(), workers))
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
    """A run that is trained by a process of its own, as soon as no other comparison trains it."""

    run: PlannedRun
    flags: list[str]
    workers: int
    process: "subprocess.Popen[bytes] | None" = None
    log_start: int = 0  # where the process's words begin in the log
    waits: bool = False  # for another process in this run's folder

    @property
    def log_file(self) -> Path:
        """What the run says, beside its folder."""
        return self.run.folder.with_name(f"{self.run.folder.name}.log")

    def has_ended(self) -> bool:
        """Start the run where it has not been yet; say whether it has ended."""
        if self.process is None:
            self._start()
        if self.process is None:
            return not self.waits
        return self.process.poll() is not None

    def _start(self) -> None:
        """Train the run, or go on with it from its last checkpoint."""
        self.run.folder.parent.mkdir(parents=True, exist_ok=True)
        with self.log_file.open("ab") as log:
            if not _lock(log):
                if not self.waits:
                    name = self.run.folder.name
                    tqdm.write(f"{name} is trained by another process; waiting", file=sys.stderr)
                self.waits = True
                return
            self.waits, self.log_start = False, self.log_file.stat().st_size
            if not is_finished(self.run.folder):
                self.process = subprocess.Popen(
                    training_command(self.run, self.flags),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**_share_of_the_cores(self.workers), **os.environ},
                )

    def failure(self) -> str | None:
        """Return None, or the last of what the run said when it failed.

        Raises:
            UserError: where it could not even start, for a reason that the user can mend.
        """
        status = self.process.wait() if self.process else 0
        if status == 0:
            return None
        said = self.log_file.read_bytes()[self.log_start :].decode("utf-8", "replace").strip()
        if status == UserError.exit_status and not _last_checkpoint(self.run.folder).is_file():
            raise UserError(said or f"{self.run.folder.name} could not start.")
        lines = said.splitlines()[-LAST_LINES:]
        if status < 0:
            lines.append(f"killed by {signal.Signals(-status).name}")
        return "\n".join(lines) or f"ended with status {status}"


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
    """Return the runs that have ended; waits a moment where there are none."""
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


def _lock(log: IO[bytes]) -> bool:
    """Take a run's lock; False where an earlier comparison was killed and its training goes on.

    The training process inherits the lock with its standard output, so that two never train in
    one folder.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


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
