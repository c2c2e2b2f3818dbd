"""Writing so that nothing half-written can be taken for a finished file."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def temporary_beside(target: Path) -> Path:
    """An unused path in the target's folder: renaming it to the target stays on one disk."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def write_atomically(target: Path) -> Iterator[Path]:
    """Yield a temporary path to write; it becomes the target if the block ends without error."""
    temporary = temporary_beside(target)
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def build_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; it becomes the target if the block ends without error.

    If another process has made the target meanwhile, that one stays and this one is dropped.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
