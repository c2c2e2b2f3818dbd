"""What lies in a folder that a report is asked for."""

from pathlib import Path
from typing import Any

from trm_lightning.cli.printed import shell_command
from trm_lightning.errors import UserError
from trm_lightning.runs.history import read_lines
from trm_lightning.runs.shapes import Shape, misfit
from trm_lightning.runs.stored_text import read_json

# The file that each command writes last: where it is, the folder is whole.
KINDS = {
    "results.json": "run",
    "analysis.json": "analysis",
    "comparison.json": "comparison",
}
_BEGUN = ("metrics.jsonl", "checkpoints", ".hydra")


def has_results(folder: Path) -> bool:
    """Say whether a report can be made of a folder."""
    return any((folder / name).is_file() for name in KINDS)


def kind_of(folder: Path) -> str:
    """Return ``run``, ``analysis`` or ``comparison``.

    Raises:
        UserError: for a folder that is missing, without results or half-written.
    """
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise UserError(f"{folder} {what}.", "Give the folder of a run or a comparison: path=…")
    for name, kind in KINDS.items():
        if (folder / name).is_file():
            return kind
    if any((folder / name).exists() for name in _BEGUN):
        raise UserError(
            f"{folder} is an unfinished run: it has no results.json.",
            "Finish it first: " + shell_command("train", f"resume={folder}"),
        )
    raise UserError(
        f"{folder} has no results in it: none of {', '.join(KINDS)}.",
        "Give the folder of a run (outputs/<day>/<run>), an analysis or a comparison: path=…",
    )


def read_stored(file: Path, shape: Shape) -> dict[str, Any]:
    """Read an object that must be of a shape.

    Raises:
        UserError: when the file is damaged or another program's.
    """
    content = read_json(file)
    wrong = misfit(content, shape)
    if wrong:
        raise UserError(
            f"{file} is damaged, or was not written by this version of trm_lightning: {wrong}.",
            "Run the command that made it again.",
        )
    return dict(content)


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read a run's ``metrics.jsonl``; no lines where there is none."""
    file = folder / "metrics.jsonl"
    return read_lines(file) if file.is_file() else []
