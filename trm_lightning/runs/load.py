"""Run folders: what a run leaves behind, and how to open it again.

A run folder holds ``.hydra/`` (the composed config), ``checkpoints/last.ckpt`` and ``best.ckpt``,
``metrics.jsonl``, TensorBoard's events, ``tokenizer.json`` and ``results.json``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from trm_lightning.data import TextDataModule, Tokenizer, tokenizer_from_state
from trm_lightning.errors import UserError
from trm_lightning.models import LanguageModel
from trm_lightning.runs.checkpoint_file import give_name, read_first
from trm_lightning.runs.exported import Exported, is_exported, read_exported
from trm_lightning.runs.find import find_checkpoints, resumable_checkpoints
from trm_lightning.runs.hub import local_copy
from trm_lightning.runs.stored_config import stored_config


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

    @property
    def is_puzzle(self) -> bool:
        """Whether the model was trained on puzzles, which are no text to continue or to score."""
        return OmegaConf.select(self.config, "data.puzzle_size") is not None


def load_run(
    path: str | Path,
    device: torch.device | None = None,
    exit_threshold: float | None = None,
    trust: str | Iterable[str] = (),
) -> LoadedRun:
    """Open a run folder (its best checkpoint, else its last), a checkpoint file or an export.

    Nothing in a file is executed; see :mod:`trm_lightning.runs.stored_config`.

    Args:
        path: of the folder or file, a pattern, or ``latest``, see :func:`find_run`; of a
            folder that ``trm-export`` wrote; or ``hf://user/name``, see :func:`local_copy`.
        device: to put the model on; None is the CPU.
        exit_threshold: stop refining there (see :class:`EarlyExit`); None: as in training.
        trust: modules besides the package whose classes may be built.

    Raises:
        UserError: where there is no checkpoint, or it cannot be read or is of another version or
            names a class that is not trusted; for a threshold out of range or a model that
            refines nothing.
    """
    stored = _stored(path)
    file, facts = stored.file, stored.facts
    config = stored_config(facts, file, trust, loggers=False)
    try:
        tokenizer = tokenizer_from_state(facts["tokenizer"])
        model = build_model(config.model, tokenizer)
        model.load_state_dict(stored.weights)
    except UserError:
        raise
    except Exception as error:  # whatever a file holds, it is the file that is wrong
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"{file} describes a model that this version of trm_lightning cannot build: {reason}",
            "Settings change between versions; results.json names the commit of this run.",
        ) from error
    folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    model.leaks = bool((facts.get("audit") or {}).get("leaks"))
    model.to(device or torch.device("cpu")).eval()
    if exit_threshold is not None:
        model = model.with_exit_threshold(exit_threshold)
    return LoadedRun(folder, file, config, model, tokenizer, facts, stored.optimizer_steps)


def make_data(config: Any) -> TextDataModule:
    """Build the data that a config describes, ready to be read."""
    data: TextDataModule = instantiate(config)
    data.prepare_data()
    data.setup()
    return data


def open_data(run: LoadedRun) -> TextDataModule:
    """Open the data that a run was trained on.

    Raises:
        UserError: when they are not the same any more.
    """
    data = make_data(run.config.data)
    trained_on = run.facts["data_fingerprint"], run.facts["ids_digest"]
    if (data.fingerprint, data.ids_digest) != trained_on:
        raise UserError(
            f"The data of {run.folder} have changed (fingerprint {data.fingerprint}, ids "
            f"{data.ids_digest}; trained on {' and '.join(trained_on)}); scores would not be "
            "comparable.",
            "Put the text back that the run was trained on.",
        )
    return data


def _stored(path: str | Path) -> Exported:
    """Read an exported folder, or a checkpoint as if it were one."""
    folder = local_copy(path)
    if is_exported(folder):
        return read_exported(folder)
    file, checkpoint = read_first(find_checkpoints(path))
    steps = checkpoint["counters"]["optimizer_steps"]
    return Exported(file, checkpoint["run"], _weights(checkpoint), steps)


def start_from(model: LanguageModel, path: str | Path) -> str:
    """Copy a run's weights into a model, where names and shapes agree; the rest stays as drawn.

    Returns:
        How many tensors were copied, as a sentence.

    Raises:
        UserError: where there is no checkpoint, or none of its weights fits.
    """
    file, checkpoint = read_first(find_checkpoints(path))
    there, here = _weights(checkpoint), model.state_dict()
    fitting = {k: v for k, v in there.items() if k in here and here[k].shape == v.shape}
    if not fitting:
        raise UserError(
            f"init_from={path}: no weight of {file} has the name and shape of one of this model.",
            "Start from a run of the same kind of model, width and vocabulary.",
        )
    model.load_state_dict(fitting, strict=False)
    return f"starts from {file}: {len(fitting)} of {len(here)} tensors; the others are drawn anew"


def _weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights that are scored: averaged ones where the run kept some."""
    weights = {
        key.removeprefix("model."): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith("model.")
    }
    if checkpoint["ema"] is not None:
        weights |= checkpoint["ema"]["average"]
    return weights


def build_model(config: Any, tokenizer: Tokenizer) -> LanguageModel:
    """Build the model of a config's ``model`` node for a tokenizer's vocabulary."""
    model: LanguageModel = instantiate(config, **model_arguments(tokenizer))
    return model


def model_arguments(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the arguments of a model that are known once the data are."""
    return {"vocab_size": tokenizer.vocab_size, "start_token": tokenizer.start_id}


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


def check_resumable(file: Path, facts: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Check that a checkpoint can be continued by the run that ``facts`` describe.

    Returns:
        The checkpoint to load, which is the one before where the last is damaged; and its content.

    Raises:
        UserError: when vocabulary, data, size of the net or kind of optimizer differ.
    """
    wanted = file
    file, checkpoint = read_first(resumable_checkpoints(wanted))
    if file != wanted:  # else the next save would keep the damaged one as the one before
        give_name(file, wanted)
    stored = checkpoint["run"]
    names = {
        "vocab_size": "vocabulary",
        "data_fingerprint": "data",
        "ids_digest": "token ids",
        "parameters": "parameters",
    }
    differing = [
        f"{name} {stored[key]} there, {facts[key]} here"
        for key, name in names.items()
        if stored[key] != facts[key]
    ]
    there, here = (run["config"]["optimizer"]["_target_"] for run in (stored, facts))
    if there != here:
        differing.append(f"optimizer {there} there, {here} here")
    if differing:
        raise UserError(
            f"{file} belongs to another run: {'; '.join(differing)}.",
            "Resume with the run's own data, model and optimizer, or start a new run.",
        )
    return file, checkpoint
