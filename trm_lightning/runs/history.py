"""A run's history: the lines of ``metrics.jsonl``, each with its checksum."""

import json
from pathlib import Path

from trm_lightning.errors import UserError
from trm_lightning.files import CHECKSUM, append_text, checksum_of, write_text
from trm_lightning.runs import stored_text
from trm_lightning.runs.shapes import AMOUNT, COUNT, NUMBER, Shape, misfit

FILE = "metrics.jsonl"
LINE: Shape = {"step": COUNT, "tokens": COUNT, "seconds": AMOUNT, "*": NUMBER}


def read_lines(path: Path) -> list[dict[str, float]]:
    """Read a file of JSON lines; a last line that a kill cut short is left out.

    Raises:
        UserError: when any other line is damaged, naming it.
    """
    lines: list[dict[str, float]] = []
    for number, text in enumerate(stored_text.read_lines(path), start=1):
        try:
            line = stored_text.parse_json(text.decode("utf-8"))
            wrong = misfit(line, LINE)
        except ValueError as error:
            wrong = f"it cannot be read, {error}"
        if wrong and not text.endswith(b"\n"):
            break  # cut short by a kill
        if wrong:
            raise UserError(f"{path}, line {number}, is damaged: {wrong}.", "Remove that line.")
        lines.append(line)
    return lines


def append_line(path: Path, line: dict[str, float]) -> None:
    """Add a line.

    Raises:
        UserError: when the disk is full or cannot be written.
    """
    append_text(path, _line(line))


def drop_lines_after(path: Path, step: int) -> list[dict[str, float]]:
    """Keep the lines up to optimizer step ``step``, in one atomic exchange of the file.

    Returns:
        The lines that are kept.
    """
    kept = [line for line in read_lines(path) if line["step"] <= step]
    write_text(path, "".join(map(_line, kept)))
    return kept


def _line(content: dict[str, float]) -> str:
    return json.dumps({**content, CHECKSUM: checksum_of(content)}) + "\n"
