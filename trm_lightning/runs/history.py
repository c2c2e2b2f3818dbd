"""A run's history: the lines of ``metrics.jsonl``."""

import json
from pathlib import Path

from trm_lightning.files import write_text

FILE = "metrics.jsonl"


def read_lines(path: Path) -> list[dict[str, float]]:
    """Read a file of JSON lines; a last line that a kill cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def append_line(path: Path, line: dict[str, float]) -> None:
    """Add a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def drop_lines_after(path: Path, step: int) -> list[dict[str, float]]:
    """Keep the lines up to optimizer step ``step``, in one atomic exchange of the file.

    Returns:
        The lines that are kept.
    """
    kept = [line for line in read_lines(path) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
    return kept
