"""One builder of a cache folder at a time; the others wait for it."""

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trm_lightning.data.split_writer import is_marked
from trm_lightning.files import partial_folder

_log = logging.getLogger(__name__)
_KEPT_SECONDS = 7 * 24 * 3600  # how long what a stopped builder has done waits to be gone on with


@contextmanager
def building(folder: Path) -> Iterator[None]:
    """Hold the lock of a cache folder, and remove what other builders that were killed have left.

    What can be gone on with stays for a week.

    The operating system releases the lock of a process that ends, however it ends.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent, folder.name, wait=True):
        for name in _unfinished(folder.parent) - {folder.name}:
            with contextlib.suppress(OSError), _locked(folder.parent, name, wait=False):
                _remove_useless(partial_folder(folder.with_name(name)))
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
    endings = (".lock", ".partial")
    return {path.stem[1:] for ending in endings for path in parent.glob(f".*{ending}")}


def _remove_useless(partial: Path) -> None:
    """Remove an unfinished folder, whose lock is held here, unless it is worth going on with."""
    with contextlib.suppress(FileNotFoundError):
        old = time.time() - partial.stat().st_mtime > _KEPT_SECONDS
        if old or not is_marked(partial):
            shutil.rmtree(partial, ignore_errors=True)
