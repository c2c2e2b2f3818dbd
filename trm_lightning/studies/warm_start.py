"""Starts training in processes forked from one that has torch and Lightning loaded.

That saves the 4 to 20 seconds of imports of every run. The process that is forked computes nothing
and never touches the GPU. Where forking is unsafe (anywhere but Linux), and for runs on several
devices, whose processes Lightning starts itself, a run is a command of its own.
"""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from multiprocessing import reduction
from typing import Any, Protocol

PRELOAD = [
    "trm_lightning.train",
    "trm_lightning.training.fit",
    "trm_lightning.reports.refinement_figure",
]


class Started(Protocol):
    """A process, as ``subprocess.Popen`` shows it."""

    def poll(self) -> int | None:
        """Return the exit status, negative after a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status."""

    def terminate(self) -> None:
        """Ask it to save and end."""


def start(command: list[str], log: int, env: Mapping[str, str], warm: bool) -> Started:
    """Start a training command whose output goes to the open file ``log``.

    Args:
        command: as for a shell: Python, ``-m``, module and arguments.
        log: descriptor; the process shares it, with its lock.
        env: added to the environment, where that does not have it.
        warm: fork, where this system can.
    """
    if warm and sys.platform == "linux":
        return _Forked(command[3:], log, env)
    environment = {**env, **os.environ}
    for name in _of_slurm(environment):
        del environment[name]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
    )


class _Forked:
    def __init__(self, arguments: list[str], log: int, env: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOAD)
        added = {key: value for key, value in env.items() if key not in os.environ}
        os.environ.update(added)  # libraries read it when they are loaded, in the first process
        try:
            self._process: Any = context.Process(target=_train, args=(arguments, _Shared(log)))
            self._process.start()
        finally:
            for key in added:
                del os.environ[key]

    def poll(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("train", timeout or 0)
        return int(self._process.exitcode)

    def terminate(self) -> None:
        self._process.terminate()


class _Shared:
    """A descriptor that a process to be started gets too; arrives there as a number."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> Any:
        return _received, (reduction.DupFd(self.descriptor),)


def _received(sent: Any) -> int:
    return int(sent.detach())


def _of_slurm(environment: Iterable[str]) -> list[str]:
    """Return the variables of a Slurm job, in which a run is a process and not one task of srun's.

    Lightning would take it for a task, and requeue the job at a signal.
    """
    return [name for name in environment if name.startswith("SLURM_")]


def _train(arguments: list[str], log: Any) -> None:
    """Be the training command, in the new process."""
    for name in _of_slurm(os.environ):
        del os.environ[name]
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # A buffer of whole lines, as the files of a process of its own have.
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    import trm_lightning.train as train

    sys.argv = [str(train.__file__), *arguments]
    train.main()
