"""Exported models: what a folder written by ``trm-export`` holds, and how it is read.

``config.json`` (the model's class and arguments, scores, audit, data) · ``model.safetensors`` ·
``tokenizer_state.json`` · ``tokenizer.json`` for Hugging Face's library, where it has the tokenizer
· ``README.md``. All of it is data: nothing in it is executed.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from trm_lightning.data.text_stream import file_sha256
from trm_lightning.errors import UserError
from trm_lightning.runs.results_file import VERDICT
from trm_lightning.runs.shapes import (
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
from trm_lightning.runs.stored_text import read_bytes, read_json

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
TOKENIZER_STATE, HF_TOKENIZER = "tokenizer_state.json", "tokenizer.json"
MOST_STATE_BYTES = 2**28  # of a tokenizer
EXPORT_FORMAT = 1  # of config.json; raise it when older ones can no longer be read
SCORES: Shape = {
    "*": {
        "meaning": TEXT, "is_likelihood": FLAG, "perplexity": PERPLEXITY, "nats_per_token": SCORE,
        "bits_per_character?": SCORE, "tokens?": SIZE, "unknown_share?": SCORE,
    }
}  # fmt: skip
SHAPE: dict[str, Shape] = {
    "export_format": COUNT, "written_by": TEXT,
    "model": {"class": TEXT, "arguments": {"vocab_size": SIZE, "start_token": COUNT, "*": ANY}},
    "family": TEXT, "parameters": SIZE, "optimizer_steps": COUNT, "is_likelihood": FLAG,
    "audit": Maybe(VERDICT), "scores": SCORES, "entropy_floor_perplexity": Maybe(PERPLEXITY),
    "eval_window": SIZE, "eval_stride": SIZE, "data_name": TEXT, "data_fingerprint": TEXT,
    "ids_digest": TEXT, "data": {"*": ANY}, "sha256": {WEIGHTS: TEXT, TOKENIZER_STATE: TEXT},
}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """An exported folder, read.

    Attributes:
        file: the weights.
        facts: what a checkpoint calls ``run``: config, tokenizer, audit, data.
        weights: by name, on the CPU.
        optimizer_steps: how long the model was trained.
    """

    file: Path
    facts: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer_steps: int


def is_exported(folder: Path) -> bool:
    """Say whether a folder is one that ``trm-export`` wrote."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_exported(folder: Path) -> Exported:
    """Read an exported folder.

    Raises:
        UserError: when a file is missing, damaged, or not of this format.
    """
    config = read_config(folder)
    for name in (WEIGHTS, TOKENIZER_STATE):
        if file_sha256(folder / name) != config["sha256"][name]:
            raise UserError(
                f"{folder / name} is not the file that {CONFIG} was written with.",
                "It was damaged or exchanged: export or download the model again.",
            )
    try:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read: {error}.") from error
    model = config["model"]
    facts = {
        **config,
        "vocab_size": model["arguments"]["vocab_size"],
        "tokenizer": _tokenizer_state(folder / TOKENIZER_STATE),
        "config": {
            "model": {"_target_": model["class"], **model["arguments"]},
            "data": config["data"],
        },
    }
    return Exported(folder / WEIGHTS, facts, weights, config["optimizer_steps"])


def read_config(folder: Path) -> dict[str, Any]:
    """Read an exported folder's ``config.json``.

    Raises:
        UserError: when it is damaged, or not of this format.
    """
    file = folder / CONFIG
    config: Any = read_json(file)
    if not isinstance(config, dict) or "export_format" not in config:
        raise UserError(f"{file} was not written by trm-export.", "Give an exported folder.")
    if config["export_format"] != EXPORT_FORMAT:
        raise UserError(
            f"{file} has format {config['export_format']}; this version of trm_lightning reads "
            f"{EXPORT_FORMAT}. It was written by {config.get('written_by')}."
        )
    wrong = misfit(config, SHAPE)
    if wrong:
        raise UserError(f"{file} is damaged or was edited: {wrong}.", "Export the run again.")
    return config


def _tokenizer_state(file: Path) -> Any:
    """Read a tokenizer's state; its tokens stay as they are, control characters included."""
    try:
        return json.loads(read_bytes(file, MOST_STATE_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}.", "Export the run again.") from error
