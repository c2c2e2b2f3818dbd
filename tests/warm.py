"""Run commands without the seconds that importing torch and Lightning takes.

A process started once has everything imported, but has computed nothing and started no thread.
Each call is forked from it and goes on as ``python -m`` would, with a working directory, an
environment and standard streams of its own. Started as a program, this file is that process: it
reads calls as JSON lines.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent
FORKS = hasattr(os, "fork")  # not on Windows
HUNG = -999
# What the commands load on their way. Their own modules stay out: `python -m` runs these anew.
LOADED = (
    "trm_lightning.training.fit", "trm_lightning.evaluation.command",
    "trm_lightning.sampling.command", "trm_lightning.analysis.command",
    "trm_lightning.leakage.command", "trm_lightning.reports.command",
    "trm_lightning.studies.comparison",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a call ended.

    Attributes:
        returncode: its exit status; negative where a signal killed it, ``HUNG`` at the limit.
        stdout: what it wrote there.
        stderr: what it wrote there.
        seconds: from its start to its end.
    """

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        """All that it wrote."""
        return self.stdout + self.stderr


class WarmProcess:
    """The tests' side. Make one with :func:`warm_process`.

    Args:
        process: the one to fork from; None where the system cannot fork.
        folder: for the output of the calls.
    """

    def __init__(self, process: "subprocess.Popen[str] | None", folder: Path) -> None:
        self.process = process
        self.stdout = folder / "stdout.txt"
        self.stderr = folder / "stderr.txt"

    def call(self, command: str, *words: str, folder: Path, **options: Any) -> Ended:
        """Run a command of the package, such as ``train``, as :meth:`run_module` does."""
        return self.run_module(f"trm_lightning.{command}", *words, folder=folder, **options)

    def run_module(
        self,
        module: str,
        *words: str,
        folder: Path,
        env: Mapping[str, str] | None = None,
        signals: "list[tuple[float, int]] | None" = None,
        at_event: int | None = None,
        limit: float = 120.0,
        most_bytes: int | None = None,
    ) -> Ended:
        """Run a module to its end, as ``python -m`` does.

        Args:
            module: its name; found in the working directory first.
            words: of its command line.
            folder: its working directory.
            env: environment variables besides those of the tests.
            signals: seconds after the start, and the signal to send then.
            at_event: kill it at the n-th change of a file (rename, open to write, unlink); the
                output ends with the number of events where it comes to its end.
            limit: seconds after which it is killed.
            most_bytes: no file may become larger, as on a full disk; the output may.
        """
        if self.process is None:
            assert not signals and at_event is None and most_bytes is None
            return run_cold(module, *words, folder=folder, env=env, limit=limit)
        content = {
            "module": module, "words": words, "folder": str(folder),
            "environment": _environment(env or {}), "stdout": str(self.stdout),
            "stderr": str(self.stderr), "signals": signals or [], "at_event": at_event,
            "limit": limit, "most_bytes": most_bytes,
        }  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(content) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        out, err = (
            file.read_text(encoding="utf-8", errors="replace")
            for file in (self.stdout, self.stderr)
        )
        return Ended(answer["status"], out, err, answer["seconds"])


@contextmanager
def warm_process(folder: Path) -> Iterator[WarmProcess]:
    """Start one; it ends with the block."""
    if not FORKS:
        yield WarmProcess(None, folder)
        return
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))], text=True, env=_environment({}), cwd=REPOSITORY,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield WarmProcess(process, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the tests' own environment, less what a run in their process left, with more."""
    own = {name: value for name, value in os.environ.items() if name != "PL_GLOBAL_SEED"}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | dict(extra)


def run_cold(
    module: str,
    *words: str,
    folder: Path,
    env: Mapping[str, str] | None = None,
    limit: float = 120.0,
) -> Ended:
    """Run a module as ``WarmProcess.run_module`` does, in a process that starts from nothing."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=folder, env=_environment(env or {}),
        timeout=limit, capture_output=True, encoding="utf-8", errors="replace",
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - start)


def _run_child(call: dict[str, Any]) -> NoReturn:
    """Become the called process."""
    os.setsid()
    os.chdir(call["folder"])
    os.environ.clear()
    os.environ.update(call["environment"])
    _redirect(call)
    sys.path[0] = call["folder"]
    importlib.invalidate_caches()
    sys.argv = [call["module"], *call["words"]]  # the first is replaced by the module's path
    if call["at_event"] is not None:
        _die_at_event(call["at_event"])
    _exit(_status(call["module"]))


def _redirect(call: dict[str, Any]) -> None:
    """Give the process streams of its own, and its limit on the size of files."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    out, err = os.open(call["stdout"], flags), os.open(call["stderr"], flags)
    if call["most_bytes"] is not None:
        import resource

        out = err = _through_a_pipe(out)
        resource.setrlimit(resource.RLIMIT_FSIZE, (call["most_bytes"], call["most_bytes"]))
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _through_a_pipe(out: int) -> int:
    """Run the rest in a child, whose output goes through a pipe to ``out``; return the pipe's end.

    A limit on the size of files is one on the output too, where that is a file.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        return write
    os.close(write)
    while block := os.read(read, 2**16):
        os.write(out, block)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _status(module: str) -> int:
    """Run a module; return the exit status that Python would end with."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _exit(status: int) -> NoReturn:
    """End as Python does, less the second that taking all modules apart takes."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _die_at_event(number: int) -> None:
    """Kill this process when it changes a file under its folder for the ``number``-th time."""
    before: Any
    here, seen, before = str(Path.cwd()), 0, None

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen, before
        writes = (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if not writes and event not in ("os.rename", "os.remove", "os.link", "os.mkdir"):
            return
        if not os.path.abspath(str(args[0])).startswith(here):  # noqa: PTH100
            return
        if "tfevents" in str(args[0]) and args[0] == before:
            return  # TensorBoard opens its file for every event
        seen, before = seen + 1, args[0]
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 0:
            os.write(1, f"event {seen}: {event} {args[0]}\n".encode())

    sys.addaudithook(hook)


def _wait(pid: int, signals: list[Any], limit: float) -> tuple[int, float]:
    start, waiting = time.monotonic(), sorted(map(tuple, signals))
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        elapsed = time.monotonic() - start
        if done:
            return os.waitstatus_to_exitcode(status), elapsed
        if elapsed > limit:
            os.killpg(pid, 9)
            os.waitpid(pid, 0)
            return HUNG, elapsed
        while waiting and elapsed >= waiting[0][0]:
            os.kill(pid, waiting.pop(0)[1])
        time.sleep(0.005)


def main() -> None:
    """Serve calls until the input ends."""
    for name in LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children share this memory as long as none of them looks through it
    for line in sys.stdin:
        call = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run_child(call)
        status, seconds = _wait(pid, call["signals"], call["limit"])
        print(json.dumps({"status": status, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
