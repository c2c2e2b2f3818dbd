"""What trains one run, or resumes it: a process or a job; see ``workers`` for several at a time."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from tqdm import tqdm

from trm_lightning.cli.overrides import of_loggers
from trm_lightning.errors import UserError
from trm_lightning.files import open_to_append
from trm_lightning.studies.cluster import TAKEN, Cluster
from trm_lightning.studies.plan import PlannedRun, quoted
from trm_lightning.studies.warm_start import Started, start

if sys.platform != "win32":
    import fcntl

LAST_LINES = 20  # of a failed run's output that are kept


@dataclass
class TrainingProcess:
    """Trains one run in its own process, or as a job of a cluster.

    Attributes:
        run: what to train.
        flags: of the training command.
        workers: how many runs are trained at a time.
        warm: start it in a process with everything loaded.
        cluster: where it is trained as a job; None for a process of this machine.
        process: None where there was nothing to do.
        log_start: where this process's output begins in the log.
    """

    run: PlannedRun
    flags: list[str]
    workers: int
    warm: bool = False
    cluster: Cluster | None = None
    process: Started | None = None
    log_start: int = 0

    @property
    def log_file(self) -> Path:
        """The run's output, beside its folder."""
        return self.run.folder.with_name(f"{self.run.folder.name}.log")

    def start(self) -> bool:
        """Train the run, or resume it; False while another process, here or elsewhere, does."""
        self.run.folder.parent.mkdir(parents=True, exist_ok=True)
        with open_to_append(self.log_file) as log:
            if not _lock(log):
                return False
            self.log_start = self.log_file.stat().st_size
            if is_finished(self.run.folder):
                return True
            if self.cluster is None:
                command = training_command(self.run, self.flags)
                limit = _thread_limit(self.workers)
                self.process = start(command, log.fileno(), limit, self.warm)
                return True
        # Without the lock, which the job takes where it runs.
        job = TrainingJob(self.run, self.flags, self.cluster.per_machine)
        self.process = self.cluster.submit(job)
        return True

    def has_ended(self) -> bool:
        """Return whether nothing of this run goes on here."""
        return self.process is None or self.process.poll() is not None

    def was_taken(self) -> bool:
        """Return whether the job found another process at the run."""
        return self.process is not None and self.process.poll() == TAKEN

    def stop(self) -> None:
        """Let the run save its state, and wait until it has ended."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def failure(self) -> str | None:
        """Return the last lines of a failed run's output; None where it did not fail.

        Raises:
            UserError: when the run was refused before its first checkpoint.
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


@contextmanager
def stopping(started: Callable[[], list[TrainingProcess]], bar: "tqdm[Any]") -> Iterator[None]:
    """Let the runs in progress save their state when what trains them is stopped."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            bar.write("stopping; the same command goes on from here", file=sys.stderr)
        for training in started():
            if training.process is not None:
                training.process.terminate()
        for training in started():
            training.stop()
        raise


def training_command(run: PlannedRun, flags: list[str]) -> list[str]:
    """Return the command that starts a run, or resumes it where it has a checkpoint."""
    command = [sys.executable, "-m", "trm_lightning.train", *flags]
    if _last_checkpoint(run.folder).is_file():
        return [*command, f"resume={quoted(run.folder)}", *of_loggers(run.overrides)]
    if run.folder.exists():
        shutil.rmtree(run.folder)  # nothing was saved before the first checkpoint
    return [*command, *run.overrides, f"hydra.run.dir={quoted(run.folder)}"]


def is_finished(folder: Path) -> bool:
    """Return whether a run has ended: its results are written last, atomically."""
    return (folder / "results.json").is_file()


def _thread_limit(workers: int) -> dict[str, str]:
    """Return the environment that divides the cores between parallel runs."""
    threads = max(1, torch.get_num_threads() // workers)
    return {"OMP_NUM_THREADS": str(threads)} if workers > 1 else {}


def _lock(log: IO[bytes]) -> bool:
    """Take a run's lock; False where another process has it, maybe one of a killed comparison.

    The training process inherits the lock with its standard output, so two processes never train
    in one folder.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _last_checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def _wait_in_reach(process: Started) -> int:
    """Wait for the exit status so that a signal's handler can wait for it too.

    ``Popen.wait`` holds a lock meanwhile, at which a handler would wait for ever.
    """
    assert isinstance(process, subprocess.Popen)
    with suppress(ChildProcessError):  # the handler had it
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    return process.wait()


class TrainingJob:
    """Trains a run inside a job of a cluster, which submitit calls there.

    The run's lock, log and checkpoints lie in the comparison's folder, which the job's machine
    shares; so a job that is requeued, or sent twice, does what is missing.

    Args:
        run: what to train.
        flags: of the training command.
        workers: how many jobs run on one machine.
    """

    def __init__(self, run: PlannedRun, flags: list[str], workers: int) -> None:
        self.run, self.flags, self.workers = run, flags, workers
        self._training = TrainingProcess(run, flags, workers)

    @property
    def name(self) -> str:
        """What the queue calls the job."""
        return self.run.folder.name

    @property
    def log_file(self) -> Path:
        """The run's output."""
        return self._training.log_file

    def __call__(self) -> int:
        """Train, and return the exit status; :data:`TAKEN` where another process trains the run."""
        if not self._training.start():
            return TAKEN
        if self._training.process is None:
            return 0
        try:
            return _wait_in_reach(self._training.process)
        except KeyboardInterrupt:  # the job is cancelled
            self._training.stop()
            raise

    def checkpoint(self) -> Any:
        """Save at submitit's signal, before a time limit or a preemption; it requeues the job."""
        from submitit.helpers import DelayedSubmission

        self._training.stop()
        return DelayedSubmission(TrainingJob(self.run, self.flags, self.workers))
