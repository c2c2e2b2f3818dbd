"""Write files so that no reader ever finds half of one. All of the package writes through this."""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from trm_lightning.errors import UserError

CHECKSUM = "checksum"  # key of JSON files
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")


@contextmanager
def write_atomically(target: Path) -> Iterator[Path]:
    """Yield a temporary path to write; it replaces ``target`` if the block ends without error.

    The temporary file lies beside the target, so the replacement is one rename on one disk. Both
    the file and its folder are flushed to the disk: after a power failure there is the old file
    or the new one. A link at ``target`` is replaced itself, and what it leads to is left alone.
    The temporary path is to be opened as a new file (mode ``x``), which follows no link either.

    Raises:
        OSError: when the disk is full or read-only; the old file is unchanged.
    """
    temporary = temporary_beside(target)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text atomically.

    Raises:
        UserError: when the disk is full or cannot be written.
    """
    write_bytes(target, text.encode("utf-8", "backslashreplace"))


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        UserError: when the disk is full or cannot be written.
    """
    with _explained(target), write_atomically(target) as temporary, temporary.open("xb") as file:
        file.write(content)


def write_json(target: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically, with its checksum; what JSON does not know is written as ``str``.

    Raises:
        UserError: when the disk is full or cannot be written.
    """
    plain = json.loads(json.dumps(content, default=str))
    plain[CHECKSUM] = checksum_of(plain)
    write_text(target, json.dumps(plain, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what :func:`write_json` wrote.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is not JSON, or its checksum is missing or differs.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop(CHECKSUM)
    except (RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(repr(error)) from error
    if checksum_of(content) != checksum:
        raise ValueError("its checksum differs")
    plain: dict[str, Any] = content
    return plain


def checksum_of(content: dict[str, Any]) -> str:
    """Return the checksum of JSON content, but for its own entry: 16 hexadecimal digits."""
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def append_text(target: Path, text: str) -> None:
    """Add UTF-8 text to a file.

    Raises:
        UserError: when the disk is full or cannot be written, or the file is a link.
    """
    with _explained(target), open_to_append(target) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def open_to_append(target: Path) -> BinaryIO:
    """Open a file to add to it; a link is refused, which might lead anywhere.

    Raises:
        OSError: when it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    for name in ("O_NOFOLLOW", "O_BINARY"):  # each system has one of them
        flags |= getattr(os, name, 0)
    return os.fdopen(os.open(target, flags, 0o666), "ab")


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where it is not there yet.

    Raises:
        UserError: when it cannot be made, or is a link.
    """
    if folder.is_symlink():
        raise UserError(f"{folder} is a link: nothing is written there.", "Remove the link.")
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def write_folder_atomically(
    target: Path, keep: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """Yield a folder to fill; it becomes ``target`` if the block ends without error.

    Args:
        target: what it becomes.
        keep: whether to keep the folder for the next time, after an error or a kill, when what is
            in it will still be there. The caller then holds a lock: no other process may fill it
            meanwhile. None: each call has a folder of its own.
    """
    partial = temporary_beside(target) if keep is None else partial_folder(target)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        for file in partial.iterdir():
            _flush(file)
        partial.rename(target)
        _flush_folder(target.parent)
    except BaseException:
        if keep is None or not keep(partial):
            shutil.rmtree(partial, ignore_errors=True)
        raise


def partial_folder(target: Path) -> Path:
    """Return the folder that :func:`write_folder_atomically` fills and may keep."""
    return target.with_name(f".{target.name}.partial")


def temporary_beside(target: Path) -> Path:
    """Return an unused path in the target's folder; :func:`remove_temporary` knows its form."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def remove_temporary(folder: Path) -> None:
    """Remove what killed writers left in a folder; no other process may be writing there."""
    for file in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(file.name) and file.is_file():
            file.unlink(missing_ok=True)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{target} could not be written: {error}.", _hint(error)) from error


def told_by_system(error: BaseException) -> UserError | None:
    """Return what the user can mend of an error: a disk or folder that takes nothing; else None."""
    if isinstance(error, OSError) and error.errno in (*_FULL, *_CLOSED):
        what = error.filename or "A file"
        return UserError(f"{what} could not be opened or written: {error.strerror}.", _hint(error))
    return None


def _hint(error: OSError) -> str:
    return "Make room on the disk." if error.errno in _FULL else "See that it can be written."


def _flush(file: Path) -> None:
    """Flush a file's content to the disk."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, where the system allows it."""
    with contextlib.suppress(OSError):  # Windows cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
