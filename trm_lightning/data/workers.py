"""Processes that count and encode blocks of text, however many there are with the same results.

This process reads the text and hands out blocks in turn; results come back in the same order. A
worker has two blocks at most, so memory does not grow with the text. Workers are started afresh
(spawned), and end when this process ends, however that happens.

A worker that is busy in a long call receives nothing meanwhile, and whoever sends it a block waits.
So threads of this process send and receive, two for each worker.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from multiprocessing.connection import Connection
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar

from trm_lightning.errors import STOP_SIGNALS, UserError

T = TypeVar("T")
VARIABLE = "TRM_DATA_WORKERS"
SMALL_CHARACTERS = 1 << 25  # less text than this is encoded sooner than processes have started
_BLOCKS_AHEAD = 2


class LostWorkerError(UserError):
    """A worker process has ended, which it never does by itself."""


class Workers:
    """Apply functions to blocks of text in processes, as a context.

    Args:
        n: how many; None for ``$TRM_DATA_WORKERS``, or else one per core where the text is large.

    Raises:
        UserError: the variable is not a number from 1 on.
    """

    def __init__(self, n: int | None = None) -> None:
        self._n = _asked_for() if n is None else n
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def map(
        self, function: Callable[[str], T], blocks: Iterable[str], n_characters: int
    ) -> Iterator[T]:
        """Yield the function's result for each block, in order.

        Args:
            function: can be pickled, or else this process does the work.
            blocks: of text.
            n_characters: about how many there are in all.

        Raises:
            LostWorkerError: a process was killed.
            Exception: what the function raises.
        """
        n = self._n or (1 if n_characters < SMALL_CHARACTERS else _n_cores())
        pickled = _pickled(function) if n > 1 else None
        if pickled is None:
            yield from map(function, blocks)
            return
        done = False
        try:
            yield from self._shared_out(pickled, blocks, n)
            done = True
        finally:
            if not done:  # results are under way that nobody wants
                self.close()

    def _shared_out(self, pickled: bytes, blocks: Iterable[str], n: int) -> Iterator[Any]:
        if not self._workers:
            with _without_main():
                for _ in range(n):
                    self._workers.append(_Worker())
        for worker in self._workers:
            worker.give(pickled)
        waiting: deque[_Worker] = deque()
        for block, worker in zip(blocks, cycle(self._workers), strict=False):
            result = None
            full = len(waiting) == _BLOCKS_AHEAD * len(self._workers)
            if full:  # the oldest block is this worker's: it always has one more to go on with
                result = waiting.popleft().result()
            worker.give(block)
            waiting.append(worker)
            if full:
                yield result
        while waiting:
            yield waiting.popleft().result()


class _Worker:
    """A process that applies functions, and the two threads that talk to it."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._given: queue.SimpleQueue[str | bytes | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        targets = (self._send, self._receive)
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def give(self, message: str | bytes) -> None:
        """Send bytes, which are the function from now on, or a block of text."""
        self._given.put(message)

    def result(self) -> Any:
        """Return the result of the oldest block, or raise what the function raised."""
        result, error = self._answers.get()
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._given.put(None)
        for thread in self._threads:
            thread.join()
        self._connection.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # the process is lost, which receiving notices
            while (message := self._given.get()) is not None:
                self._connection.send(message)

    def _receive(self) -> None:
        while True:
            try:
                answer = self._connection.recv()
            except (EOFError, OSError):
                self._answers.put((None, _lost()))
                return
            except Exception as error:  # of several kinds: what came cannot be unpickled
                answer = (None, error)
            self._answers.put(answer)


class Blocks(Iterable[str]):
    """A text in blocks, to which workers can apply a function.

    Args:
        blocks: can be read once.
        workers: apply functions to it.
        n_characters: about how many there are in all.
    """

    def __init__(self, blocks: Iterable[str], workers: Workers, n_characters: int) -> None:
        self._blocks, self._workers, self._n_characters = blocks, workers, n_characters

    def __iter__(self) -> Iterator[str]:
        return iter(self._blocks)

    def map(self, function: Callable[[str], T], skip: int = 0) -> Iterator[T]:
        """Yield the function's result for each block but the first few, in order."""
        blocks = islice(self._blocks, skip, None)
        return self._workers.map(function, blocks, self._n_characters)


def map_blocks(function: Callable[[str], T], blocks: Iterable[str]) -> Iterator[T]:
    """Yield the function's result for each block, by workers where the blocks have some."""
    return blocks.map(function) if isinstance(blocks, Blocks) else map(function, blocks)


def _asked_for() -> int | None:
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UserError(
            f"The environment variable {VARIABLE} is {value!r}; it must be a number from 1 on.",
            "It says how many processes prepare text. Unset it for one per core.",
        )
    return int(value)


def _n_cores() -> int:
    if multiprocessing.current_process().daemon:  # it may not start any
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pickled(function: Callable[[str], Any]) -> bytes | None:
    """Return the function pickled; None where only this process knows its class."""
    try:
        pickled = pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    return None if b"__main__" in pickled else pickled  # workers do not run the user's script


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep the user's script from being run again in processes that are started here."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _lost() -> LostWorkerError:
    return LostWorkerError(
        "A process that prepares text was killed, perhaps for want of memory.",
        f"Start again: what is done is kept. With {VARIABLE}=1 in the environment there is one "
        "process only.",
    )


def _serve(connection: Connection) -> None:
    """Answer messages in a worker: bytes are the function from now on, a string is a block."""
    for number in STOP_SIGNALS:  # the process that reads the text decides
        signal.signal(number, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    function: Callable[[str], Any] | None = None
    with contextlib.suppress(EOFError, OSError):  # nobody waits for the result any more
        while True:
            message = connection.recv()
            try:
                if isinstance(message, bytes):
                    function = pickle.loads(message)
                    continue
                assert function is not None
                answer: tuple[Any, Exception | None] = (function(message), None)
            except Exception as error:
                error.add_note(f"In a worker process:\n{traceback.format_exc()}")
                answer = (None, error)
            connection.send(answer)
