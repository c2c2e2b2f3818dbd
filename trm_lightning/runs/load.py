"""Run folders: what a run leaves behind, and how to open it again.

A run folder holds ``.hydra/`` (the composed config), ``checkpoints/last.ckpt`` and ``best.ckpt``,
``metrics.jsonl``, ``tensorboard/``, ``tokenizer.json`` and ``results.json``.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from trm_lightning.data import Tokenizer, tokenizer_from_state
from trm_lightning.errors import UserError
from trm_lightning.models import LanguageModel
from trm_lightning.runs.find import find_checkpoint

FORMAT = 2  # of checkpoints and results.json; raise it when older ones can no longer be read
READERS = {1: "trm_lightning 0.1.0 (commit 872299a)"}


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with all that is needed to use it.

    Attributes:
        folder: the run folder; of a checkpoint that was moved elsewhere, the folder it lies in.
        checkpoint: the file the weights came from.
        config: the run's composed config.
        model: in evaluation mode, with averaged weights where the run kept some.
        tokenizer: the run's own.
        facts: data fingerprint and the like, see :func:`describe_run`.
        optimizer_steps: how long the model was trained.
    """

    folder: Path
    checkpoint: Path
    config: Any
    model: LanguageModel
    tokenizer: Tokenizer
    facts: dict[str, Any]
    optimizer_steps: int


def load_run(
    path: str | Path, device: torch.device | None = None, exit_threshold: float | None = None
) -> LoadedRun:
    """Open a run folder (its best checkpoint, else its last) or a checkpoint file.

    Args:
        path: of the folder or file, a pattern, or ``latest``; see :func:`find_run`.
        device: to put the model on; None is the CPU.
        exit_threshold: stop refining there (see :class:`EarlyExit`); None: as in training.

    Raises:
        UserError: where there is no checkpoint, or it cannot be read or is of another version; for
            a threshold out of range or a model that refines nothing.
    """
    file = find_checkpoint(path)
    checkpoint = read_checkpoint(file)
    facts = checkpoint["run"]
    config = OmegaConf.create(facts["config"])
    tokenizer = tokenizer_from_state(facts["tokenizer"])
    try:
        model = build_model(config.model, tokenizer)
    except InstantiationException as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"{file} describes a model that this version of trm_lightning cannot build: {reason}",
            "Settings change between versions; results.json names the commit of this run.",
        ) from error
    weights = {
        key.removeprefix("model."): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith("model.")
    }
    if checkpoint["ema"] is not None:
        weights |= checkpoint["ema"]["average"]
    model.load_state_dict(weights)
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    steps = checkpoint["counters"]["optimizer_steps"]
    model.leaks = bool((facts.get("audit") or {}).get("leaks"))
    model.to(device or torch.device("cpu")).eval()
    if exit_threshold is not None:
        model = model.with_exit_threshold(exit_threshold)
    return LoadedRun(folder, file, config, model, tokenizer, facts, steps)


def build_model(config: Any, tokenizer: Tokenizer) -> LanguageModel:
    """Build the model of a config's ``model`` node for a tokenizer's vocabulary."""
    model: LanguageModel = instantiate(
        config, vocab_size=tokenizer.vocab_size, start_token=tokenizer.start_id
    )
    return model


def find_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the accelerator, if there is one.

    Raises:
        UserError: when there is no such device here.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        found = "cpu" if accelerator is None else f"cpu, {accelerator}"
        raise UserError(f"There is no device {name!r} here.", f"There are: {found}.") from error
    return device


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        UserError: when the file is damaged or not one of ours.
    """
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The checkpoint {file} cannot be read: {reason}",
            "It may be damaged or cut short; use the run's other checkpoint if there is one.",
        ) from error
    if not isinstance(checkpoint, dict) or not {"run", "counters", "ema"} <= checkpoint.keys():
        raise UserError(f"{file} is not a checkpoint of trm_lightning.")
    check_format(checkpoint, file)
    return checkpoint


def check_format(content: dict[str, Any], file: Path) -> None:
    """Check that a checkpoint or a ``results.json`` is of this version's format.

    Raises:
        UserError: naming the version that reads it.
    """
    found = content.get("format", 1)
    if found != FORMAT:
        reader = READERS.get(found, "a newer version of trm_lightning")
        raise UserError(
            f"{file} has format {found}, which {reader} reads; this one reads {FORMAT}."
        )


def check_resumable(file: Path, facts: dict[str, Any]) -> int:
    """Check that a checkpoint can be continued by the run that ``facts`` describe.

    Returns:
        The batches that the checkpoint has seen.

    Raises:
        UserError: when vocabulary, data or size of the net differ.
    """
    checkpoint = read_checkpoint(file)
    names = {
        "vocab_size": "vocabulary",
        "data_fingerprint": "data",
        "ids_digest": "token ids",
        "parameters": "parameters",
    }
    differing = [
        f"{name} {checkpoint['run'][key]} there, {facts[key]} here"
        for key, name in names.items()
        if checkpoint["run"].get(key, facts[key]) != facts[key]
    ]
    if differing:
        raise UserError(
            f"{file} belongs to another run: {'; '.join(differing)}.",
            "Resume with the run's own data and model settings, or start a new run.",
        )
    batches: int = checkpoint["counters"]["batches_seen"]
    return batches
