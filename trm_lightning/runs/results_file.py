"""A finished run's ``results.json``, read back; ``training.results`` writes it."""

from pathlib import Path
from typing import Any

from trm_lightning.errors import UserError
from trm_lightning.runs.checkpoint_file import check_format
from trm_lightning.runs.shapes import (
    AMOUNT,
    ANY,
    COUNT,
    FLAG,
    PERPLEXITY,
    SCORE,
    SIZE,
    TEXT,
    Maybe,
    Shape,
    misfit,
)
from trm_lightning.runs.stored_text import read_json

FILE = "results.json"
ENVIRONMENT: Shape = {
    "python": TEXT, "platform": TEXT, "packages": {"*": TEXT}, "threads": COUNT, "cpu": TEXT,
    "gpu": Maybe(TEXT), "git_commit": Maybe(TEXT), "command": [TEXT],
}  # fmt: skip
VERDICT: dict[str, Shape] = {
    "passed": FLAG, "leaks?": FLAG, "failed": {"*": [TEXT]}, "suspicious?": {"*": [TEXT]},
}  # fmt: skip
_TEXT_SCORE: Shape = {
    "meaning": TEXT, "is_likelihood": FLAG, "perplexity": PERPLEXITY, "nats_per_token": SCORE,
    "bits_per_character": SCORE, "bits_per_byte?": SCORE, "word_perplexity?": PERPLEXITY,
    "total_nats?": SCORE, "tokens": SIZE, "words": COUNT, "characters": SIZE, "bytes?": COUNT,
    "unknown_share": AMOUNT,
}  # fmt: skip
_PUZZLES: Shape = {
    "meaning": TEXT, "sees_answers": FLAG, "solved": AMOUNT, "cells_right": AMOUNT,
    "nats_per_cell": SCORE, "puzzles": SIZE, "cells": SIZE,
}  # fmt: skip
_PUZZLE_NAMES = [f"{split}/{kind}?" for split in ("val", "test") for kind in ("solved", "copied")]
_SCORES: Shape = {**dict.fromkeys(_PUZZLE_NAMES, _PUZZLES), "*": _TEXT_SCORE}
_BEST: Shape = {
    **{name: {"solved": AMOUNT, "step": COUNT} for name in _PUZZLE_NAMES},
    "*": {"perplexity": PERPLEXITY, "step": COUNT},
}
_NAMED: dict[str, Shape] = {"_target_?": TEXT, "name?": ANY}
_CONFIG: Shape = {
    "model": _NAMED,
    "data": {**_NAMED, "corpus?": Maybe(_NAMED), "tokenizer?": Maybe(_NAMED)},
    "seed": COUNT,
    "experiment_name?": TEXT,
}
# What every run of this format records, and readers rely on.
RESULTS: dict[str, Shape] = {
    "format": COUNT, "status": TEXT, "optimizer_steps": COUNT, "tokens_seen": SIZE,
    "seconds": AMOUNT, "vocab_size": SIZE, "data": TEXT, "data_fingerprint": TEXT,
    "ids_digest?": TEXT,
    "train_tokens?": COUNT, "entropy_floor_perplexity": Maybe(PERPLEXITY), "family": TEXT,
    "parameters": SIZE, "width": Maybe(COUNT), "n_layers": COUNT, "n_passes": COUNT,
    "flops_per_token": AMOUNT, "is_likelihood?": FLAG, "eval_window": SIZE, "eval_stride": SIZE,
    "audit?": Maybe(VERDICT), "final": _SCORES,
    "best": _BEST, "test": _SCORES,
    "environment": ENVIRONMENT, "config": _CONFIG,
}  # fmt: skip


def read_results(folder: Path) -> dict[str, Any]:
    """Read a finished run's results.

    Raises:
        UserError: when they are damaged, another program's, or of another version's format.
    """
    file = folder / FILE
    content = read_json(file)
    if not isinstance(content, dict) or not {"final", "config"} <= content.keys():
        raise UserError(f"{file} was not written by trm_lightning.", "Give the folder of a run.")
    check_format(content, file)
    wrong = misfit(content, RESULTS) or ("" if content["final"] else "final has no score")
    if wrong:
        raise UserError(
            f"{file} is damaged or was edited: {wrong}.",
            "Remove it, and the run resumes from its last checkpoint; or train the run again.",
        )
    return content
