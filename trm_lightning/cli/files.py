"""Writing so that no reader ever sees half a file."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write beside the target and move into place; an error leaves the old file as it was."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
