"""Checkpoint files: written whole or not at all, checked when read, and never executed.

A checkpoint is a zip archive, and each record in it carries a CRC-32: a damaged one is found
before torch reads it. Beside ``last.ckpt`` lies the one before, ``previous.ckpt``.
"""

import contextlib
import logging
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from trm_lightning.errors import UserError
from trm_lightning.files import temporary_beside, write_atomically
from trm_lightning.runs.find import LAST, PREVIOUS

FORMAT = 3  # of checkpoints and results.json; raise it when older ones can no longer be read
READERS = {
    1: "trm_lightning 0.1.0 (commit 872299a)",
    2: "trm_lightning 0.1.0 (commit 6b1c55c)",
}
_log = logging.getLogger(__name__)


class DamagedCheckpointError(UserError):
    """A checkpoint that is not as it was written."""


def write_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint in place of ``path``; a ``last.ckpt`` from before is kept as previous.

    Raises:
        UserError: when the disk is full or cannot be written; what was there before is unchanged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as temporary:
            with temporary.open("xb") as file:
                torch.save(content, file)
            if path.name == LAST:
                give_name(path, path.with_name(PREVIOUS))
    except (OSError, RuntimeError) as error:  # torch tells a full disk as a RuntimeError
        raise UserError(
            f"The checkpoint {path} could not be written: {error}.",
            "Make room or choose another folder (hydra.run.dir=…), then go on with "
            f"resume={path.parent.parent}. The checkpoint from before is kept.",
        ) from error


def give_name(path: Path, name: Path) -> None:
    """Give a file a second name, in place of what had it; on a disk without hard links, do not."""
    if not path.exists():
        return
    link = temporary_beside(name)
    with contextlib.suppress(OSError):
        os.link(path, link)
        link.replace(name)
        link.unlink(missing_ok=True)  # still there where both names were the same file's already


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        DamagedCheckpointError: when the file is damaged.
        UserError: when it is of another version or not one of ours.
    """
    damage = damage_of(file)
    if damage is None:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
            damage = (str(error).splitlines() or [type(error).__name__])[0]
    if damage is not None:
        raise DamagedCheckpointError(
            f"The checkpoint {file} cannot be read: {damage}",
            "It may be damaged or cut short; use the run's other checkpoint if there is one.",
        )
    if not isinstance(checkpoint, dict) or not {"run", "counters", "ema"} <= checkpoint.keys():
        raise UserError(f"{file} is not a checkpoint of trm_lightning.")
    check_format(checkpoint, file)
    return checkpoint


def damage_of(file: Path) -> str | None:
    """Return what is damaged in a checkpoint; None if every record has its checksum."""
    try:
        with zipfile.ZipFile(file) as archive:
            record = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        return str(error) or type(error).__name__
    except (EOFError, zlib.error) as error:
        return f"cut short ({error})"
    return None if record is None else f"the checksum of its record {record} is wrong"


def check_format(content: dict[str, Any], file: Path) -> None:
    """Check that a checkpoint or a ``results.json`` is of this version's format.

    Raises:
        UserError: naming the version that reads it.
    """
    found = content.get("format", 1)
    if found != FORMAT:
        known = [reader for number, reader in READERS.items() if number == found]
        reader = known[0] if known else "a newer version of trm_lightning"
        raise UserError(
            f"{file} has format {found}, which {reader} reads; this one reads {FORMAT}."
        )


def read_first(files: list[Path]) -> tuple[Path, dict[str, Any]]:
    """Read the first of several checkpoints that is whole, and warn of those that are not.

    Raises:
        UserError: when none is.
    """
    for file in files[:-1]:
        try:
            return file, read_checkpoint(file)
        except DamagedCheckpointError as error:
            _log.warning("%s. Another checkpoint of the run is used.", error.what)
    return files[-1], read_checkpoint(files[-1])
