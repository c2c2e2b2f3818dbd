"""The process that trains one run, or resumes it; see ``workers`` for several at a time."""

import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from tqdm import tqdm

from trm_lightning.errors import UserError
from trm_lightning.files import open_to_append
from trm_lightning.studies.plan import PlannedRun, quoted
from trm_lightning.studies.warm_start import Started, start

if sys.platform != "win32":
    import fcntl

LAST_LINES = 20  # of a failed run's output that are kept


@dataclass
class TrainingProcess:
    """Trains one run in its own process, as soon as no other comparison trains it.

    Attributes:
        run: what to train.
        flags: of the training command.
        workers: how many runs are trained at a time.
        warm: start it in a process with everything loaded.
        process: None until it has started.
        log_start: where this process's output begins in the log.
        waits: another process is training in this run's folder.
    """

    run: PlannedRun
    flags: list[str]
    workers: int
    warm: bool = False
    process: Started | None = None
    log_start: int = 0
    waits: bool = False

    @property
    def log_file(self) -> Path:
        """The run's output, beside its folder."""
        return self.run.folder.with_name(f"{self.run.folder.name}.log")

    def has_ended(self) -> bool:
        """Start the run if it has not been started; return whether it has ended."""
        if self.process is None:
            self._start()
        if self.process is None:
            return not self.waits
        return self.process.poll() is not None

    def _start(self) -> None:
        """Train the run, or resume it from its last checkpoint."""
        self.run.folder.parent.mkdir(parents=True, exist_ok=True)
        with open_to_append(self.log_file) as log:
            if not _lock(log):
                if not self.waits:
                    name = self.run.folder.name
                    tqdm.write(f"{name} is trained by another process; waiting", file=sys.stderr)
                self.waits = True
                return
            self.waits, self.log_start = False, self.log_file.stat().st_size
            if not is_finished(self.run.folder):
                command = training_command(self.run, self.flags)
                limit = _thread_limit(self.workers)
                self.process = start(command, log.fileno(), limit, self.warm)

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


def training_command(run: PlannedRun, flags: list[str]) -> list[str]:
    """Return the command that starts a run, or resumes it where it has a checkpoint."""
    command = [sys.executable, "-m", "trm_lightning.train", *flags]
    if _last_checkpoint(run.folder).is_file():
        return [*command, f"resume={quoted(run.folder)}"]
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
    """Take a run's lock; False where a killed comparison left a training process behind.

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
