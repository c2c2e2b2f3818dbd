"""A finished run's ``results.json``, read back."""

import json
from pathlib import Path
from typing import Any

from trm_lightning.errors import UserError
from trm_lightning.runs.checkpoint_file import check_format

FILE = "results.json"
# What every run of this format records, and readers rely on.
KEYS = {"status", "optimizer_steps", "tokens_seen", "seconds", "vocab_size", "data",
        "data_fingerprint", "entropy_floor_perplexity", "family", "parameters", "width",
        "n_layers", "n_passes", "flops_per_token", "eval_window", "eval_stride", "final", "best",
        "test", "environment", "config"}  # fmt: skip


def read_results(folder: Path) -> dict[str, Any]:
    """Read a finished run's results.

    Raises:
        UserError: when they are damaged, another program's, or of another version's format.
    """
    file = folder / FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read: {error}.",
            "If it is damaged, remove it, and the run resumes from its last checkpoint.",
        ) from error
    if not isinstance(content, dict) or not {"final", "config"} <= content.keys():
        raise UserError(f"{file} was not written by trm_lightning.", "Give the folder of a run.")
    check_format(content, file)
    missing = sorted(KEYS - content.keys())
    if missing:
        raise UserError(f"{file} lacks {', '.join(missing)}.", "Train the run again.")
    return content
