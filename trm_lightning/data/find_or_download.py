"""Find a published file in ``$TRM_DATA_DIR`` or the cache folder, or download it."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from trm_lightning.data.text_stream import file_sha256
from trm_lightning.errors import UserError

_RETRIES = 3
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class PublishedFile:
    """A file with a fixed content.

    Args:
        name: its path below ``$TRM_DATA_DIR`` or the download folder.
        sha256: checksum of the published bytes, in hexadecimal.
        url: where it is downloaded from.
    """

    name: str
    sha256: str
    url: str


def resolve_cache_dir(cache_dir: str | None) -> Path:
    """Return the cache folder: the argument, ``$TRM_CACHE_DIR``, or the platform's."""
    chosen = cache_dir or os.environ.get("TRM_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("trm_lightning")


def find_local(name: str) -> Path | None:
    """Return the file below ``$TRM_DATA_DIR``; None if the variable or the file is missing.

    Raises:
        UserError: the variable does not name a folder.
    """
    variable = os.environ.get("TRM_DATA_DIR")
    if not variable:
        return None
    folder = Path(variable).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"The environment variable TRM_DATA_DIR names {folder.absolute()}, not a folder.",
            "Correct it, or unset it to have the data downloaded.",
        )
    path = folder / name
    return path if path.is_file() else None


def locate(file: PublishedFile, cache_dir: Path) -> Path:
    """Return the path of a file on this machine; download it where there is none.

    A copy in ``$TRM_DATA_DIR`` is used even if its checksum differs, with a warning. A download is
    kept only if its checksum is right.

    Raises:
        UserError: the file cannot be downloaded, or the download is not the published file.
    """
    local = find_local(file.name)
    if local:
        warn_if_changed(local, file.sha256)
        return local
    import pooch  # and with it the web; most runs download nothing

    folder = cache_dir / "downloads"
    store = pooch.create(
        path=folder,
        base_url="",
        registry={file.name: f"sha256:{file.sha256}"},
        urls={file.name: file.url},
        retry_if_failed=_RETRIES,
    )
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=_TIMEOUT_SECONDS)
    with disk_errors(folder):
        try:
            return Path(store.fetch(file.name, downloader=downloader))
        except ValueError as error:  # pooch: the checksum differs
            raise UserError(
                f"The download from {file.url} does not have the published checksum: not kept.",
                _where_to_put(file, folder),
            ) from error
        except OSError as error:  # requests' exceptions are OSErrors
            if error.errno in _DISK_ERRORS:
                raise
            raise UserError(
                f"{file.name} is not on this machine and could not be downloaded from {file.url}: "
                f"{type(error).__name__}.",
                _where_to_put(file, folder),
            ) from error


def warn_if_changed(path: Path, sha256: str) -> None:
    """Warn that a user's copy of a published file is not the published one."""
    if file_sha256(path) != sha256:
        warnings.warn(
            f"{path} is not the published file (its checksum differs): results on it cannot be "
            "compared with published ones.",
            stacklevel=2,
        )


_DISK_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission denied",
    errno.ENOENT: "no folder can be made there",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EROFS: "the file system is read-only",
}


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of writing below ``folder`` that the user can fix into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise UserError(
            f"Cannot write to {folder}: {_DISK_ERRORS[error.errno]}.",
            "Make room or choose another folder with the environment variable TRM_CACHE_DIR.",
        ) from error


def _where_to_put(file: PublishedFile, folder: Path) -> str:
    data_dir = os.environ.get("TRM_DATA_DIR")
    own = Path(data_dir, file.name) if data_dir else f"DIR/{file.name} and set TRM_DATA_DIR=DIR"
    return (
        f"Put the file at {folder / file.name}, or at {own}. "
        "Or use the built-in corpus, which needs no download: data=builtin_word"
    )
