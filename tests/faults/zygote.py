"""Run commands of the package in forked processes, without the seconds that imports take.

A process started once has torch and Lightning loaded, but has computed nothing and started no
thread; each call is forked from it. Started as a program, it reads calls as JSON lines.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a call ended: its exit status (negative: killed by that signal), output and seconds."""

    status: int
    output: str
    seconds: float


class Zygote:
    """The parent's side. Use it through :func:`zygote`."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.process = process
        self.output = folder / "output.txt"

    def call(
        self,
        command: str,
        *words: str,
        folder: Path,
        signals: "list[tuple[float, int]] | None" = None,
        at_event: int | None = None,
        limit: float = 120.0,
        most_bytes: int | None = None,
    ) -> Ended:
        """Run a command to its end.

        Args:
            command: such as ``train``.
            words: of its command line.
            folder: its working directory.
            signals: seconds after the start, and the signal to send then.
            at_event: kill it at the n-th change of a file (rename, open to write, unlink); the
                output ends with the number of events where it comes to its end.
            limit: seconds after which it is killed.
            most_bytes: no file may become larger, as on a full disk; the output may.
        """
        content = {
            "command": command, "words": words, "folder": str(folder), "at_event": at_event,
            "signals": signals or [], "limit": limit, "output": str(self.output),
            "most_bytes": most_bytes,
        }  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(content) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        output = self.output.read_text(encoding="utf-8", errors="replace")
        return Ended(answer["status"], output, answer["seconds"])


@contextmanager
def zygote(folder: Path) -> Iterator[Zygote]:
    """Start one; it ends with the block."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))], text=True, env=env, cwd=REPOSITORY,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Zygote(process, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def _run_child(call: dict[str, Any]) -> None:
    os.setsid()
    os.chdir(call["folder"])
    out = os.open(call["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if call["most_bytes"] is not None:
        out = _through_a_pipe(out)
        resource.setrlimit(resource.RLIMIT_FSIZE, (call["most_bytes"], call["most_bytes"]))
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if call["at_event"] is not None:
        _die_at_event(call["at_event"])
    module = sys.modules[f"trm_lightning.{call['command']}"]
    sys.argv = [module.__file__ or "", *call["words"]]
    status = 0
    try:
        module.main()
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
            return -999, elapsed  # it hung
        while waiting and elapsed >= waiting[0][0]:
            os.kill(pid, waiting.pop(0)[1])
        time.sleep(0.005)


def main() -> None:
    """Serve calls until the input ends."""
    import importlib

    for name in ("train", "evaluate", "generate", "analyze", "audit", "report", "compare"):
        importlib.import_module(f"trm_lightning.{name}")
    for name in (
        "training.fit", "evaluation.command", "sampling.command", "analysis.command",
        "leakage.command", "reports.command", "studies.comparison",
    ):  # fmt: skip
        importlib.import_module(f"trm_lightning.{name}")
    for line in sys.stdin:
        call = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run_child(call)
        status, seconds = _wait(pid, call["signals"], call["limit"])
        print(json.dumps({"status": status, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
