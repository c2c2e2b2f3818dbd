"""One builder of a cache folder at a time; the others wait for it."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_log = logging.getLogger(__name__)


@contextmanager
def building(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder, and remove what killed builders left beside it.

    The operating system releases the lock of a process that ends, however it ends.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent, folder.name, wait=True):
        _remove_leftovers(folder.parent, folder.name)
        for name in _unfinished(folder.parent) - {folder.name}:
            with contextlib.suppress(OSError), _locked(folder.parent, name, wait=False):
                _remove_leftovers(folder.parent, name)
        yield


@contextmanager
def _locked(parent: Path, name: str, wait: bool) -> Iterator[None]:
    """Hold a lock.

    Raises:
        OSError: it is taken (``filelock.Timeout``, unless told to wait) or cannot be made.
    """
    path = parent / f".{name}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        _log.info("Another process builds the token cache %s: waiting for it.", name)
        lock.acquire()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is held: who waits for this file notices, and makes another
        lock.release()


def _unfinished(parent: Path) -> set[str]:
    """Return the names of the cache folders that are being built, or whose builder was killed."""
    locks = {path.name[1:].removesuffix(".lock") for path in parent.glob(".*.lock")}
    return locks | {path.name[1:].rsplit(".", 3)[0] for path in parent.glob(".*.*.*.tmp")}


def _remove_leftovers(parent: Path, name: str) -> None:
    """Remove the temporary folders of a cache folder, whose lock is held here."""
    for path in parent.iterdir():
        if path.name.startswith(f".{name}.") and path.name.endswith(".tmp"):
            shutil.rmtree(path, ignore_errors=True)
