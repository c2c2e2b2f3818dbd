"""Run folders: what a run leaves behind, and how to open it again.

A run folder holds ``.hydra/`` (the composed config), ``checkpoints/last.ckpt`` and ``best.ckpt``,
``metrics.jsonl``, ``tensorboard/``, ``tokenizer.json`` and ``results.json``.
"""

import pickle
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from trm_lightning.data import Tokenizer, tokenizer_from_state
from trm_lightning.errors import UserError
from trm_lightning.models import LanguageModel


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
        path: of the folder or file.
        device: to put the model on; None is the CPU.
        exit_threshold: stop refining there (see :class:`EarlyExit`); None: as in training.

    Raises:
        UserError: where there is no checkpoint, or it cannot be read or is of another version; for
            a threshold out of range or a model that refines nothing.
    """
    file = find_checkpoint(Path(path))
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


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint file that a run folder or a path stands for.

    Raises:
        UserError: when there is none.
    """
    if path.is_file():
        return path
    for name in ("best.ckpt", "last.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name
    what = "has no checkpoint in it" if path.is_dir() else "does not exist"
    raise UserError(
        f"{path} {what}.",
        "Give a run folder (outputs/<day>/<run>) or a checkpoint file: run=…",
    )


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
    return checkpoint


def check_resumable(file: Path, facts: dict[str, Any]) -> int:
    """Check that a checkpoint can be continued by the run that ``facts`` describe.

    Returns:
        The batches that the checkpoint has seen.

    Raises:
        UserError: when vocabulary, data or size of the net differ.
    """
    checkpoint = read_checkpoint(file)
    names = {"vocab_size": "vocabulary", "data_fingerprint": "data", "parameters": "parameters"}
    differing = [
        f"{name} {checkpoint['run'][key]} there, {facts[key]} here"
        for key, name in names.items()
        if checkpoint["run"][key] != facts[key]
    ]
    if differing:
        raise UserError(
            f"{file} belongs to another run: {'; '.join(differing)}.",
            "Resume with the run's own data and model settings, or start a new run.",
        )
    batches: int = checkpoint["counters"]["batches_seen"]
    return batches


def environment() -> dict[str, Any]:
    """Return what a reader needs to repeat a run's conditions."""
    packages = ("torch", "lightning", "hydra-core", "numpy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in packages},
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": _git_commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _git_commit() -> str | None:
    """Return the commit of the checkout that the package runs from, ``+`` where it was changed."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        answers = [
            subprocess.run(
                ["git", "-C", str(folder), *words],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return answers[0] + ("+" if answers[1] else "")
