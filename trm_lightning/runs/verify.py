"""Check that the files of a run folder are as they were written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trm_lightning.errors import UserError
from trm_lightning.runs import history
from trm_lightning.runs.checkpoint_file import read_checkpoint
from trm_lightning.runs.stored_text import read_json, read_text, read_yaml_list

CHECKS: dict[str, Callable[[Path], Any]] = {
    "checkpoints/*.ckpt": read_checkpoint,
    "metrics.jsonl": history.read_lines,
    "**/*.json": read_json,
    ".hydra/overrides.yaml": read_yaml_list,
    "samples.txt": read_text,
}


def verify(folder: Path) -> dict[str, str]:
    """Read every file that a command would read back.

    Checkpoints, JSON files and the lines of the history carry checksums.

    Returns:
        What is wrong, by file relative to the folder; empty where it is whole.

    Raises:
        UserError: when the folder holds none of them.
    """
    found = {
        str(file.relative_to(folder)): _damage(file, read)
        for pattern, read in CHECKS.items()
        for file in sorted(folder.glob(pattern))
    }
    if not found:
        raise UserError(f"{folder} is no folder of trm_lightning.", "Give a run folder.")
    return found


def _damage(file: Path, read: Callable[[Path], Any]) -> str:
    try:
        read(file)
    except UserError as error:
        return error.what
    return ""
