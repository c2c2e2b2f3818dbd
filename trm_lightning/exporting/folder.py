"""The files of an exported model; :mod:`trm_lightning.runs.exported` says what each is."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from omegaconf import OmegaConf

from trm_lightning.data import huggingface_tokenizer_json
from trm_lightning.data.text_stream import file_sha256
from trm_lightning.errors import UserError
from trm_lightning.exporting.card import model_card
from trm_lightning.exporting.graphs import GRAPHS, write_graph
from trm_lightning.exporting.scores import recorded_scores
from trm_lightning.files import write_bytes, write_json, write_text
from trm_lightning.runs.exported import (
    CARD,
    CONFIG,
    EXPORT_FORMAT,
    HF_TOKENIZER,
    TOKENIZER_STATE,
    WEIGHTS,
)
from trm_lightning.runs.load import LoadedRun, load_run

KEPT_FACTS = (
    "family", "parameters", "is_likelihood", "audit", "entropy_floor_perplexity", "eval_window",
    "eval_stride", "data_fingerprint", "ids_digest",
)  # fmt: skip


def write_model(
    run: LoadedRun, folder: Path, license_name: str | None, formats: list[str], trust: Any
) -> dict[str, float]:
    """Write weights, config, tokenizer, graphs and card into a folder, and read them back.

    Args:
        run: whose weights, the averaged ones where the run kept some, are written.
        folder: empty.
        license_name: of the weights, such as ``mit``; None: the card says that none was given.
        formats: keys of ``GRAPHS``.
        trust: see :func:`load_run`.

    Returns:
        By the file of each graph, its largest difference from the model in a log-probability.

    Raises:
        UserError: where the model's settings are no plain values, the model is no graph, or the
            disk cannot be written.
        RuntimeError: where the folder does not score as the run does.
    """
    # Copies: tensors that share memory are written once each.
    weights = {k: v.detach().cpu().clone().contiguous() for k, v in run.model.state_dict().items()}
    write_bytes(folder / WEIGHTS, safetensors.torch.save(weights, metadata={"format": "pt"}))
    run.tokenizer.save(folder / TOKENIZER_STATE)
    has_tokenizer = _write_hf_tokenizer(run, folder)
    content = config_of(run)
    content["sha256"] = {name: file_sha256(folder / name) for name in (WEIGHTS, TOKENIZER_STATE)}
    write_json(folder / CONFIG, content)
    graphs = {GRAPHS[name].file: write_graph(name, run.model, folder) for name in formats}
    card = model_card(content, run.tokenizer, license_name, has_tokenizer, list(graphs))
    write_text(folder / CARD, card)
    _check_same_scores(run, load_run(folder, trust=trust))
    return graphs


def config_of(run: LoadedRun) -> dict[str, Any]:
    """Return the content of ``config.json``, but for the checksums of the other files.

    Raises:
        UserError: where the model's settings are no plain values.
    """
    arguments: dict[str, Any] = OmegaConf.to_container(run.config.model)  # type: ignore[assignment]
    name = arguments.pop("_target_")
    nested = [key for key, value in arguments.items() if "_target_" in str(value)]
    if nested:
        raise UserError(
            f"The model's setting {nested[0]} is an object: config.json can hold values only.",
            "Let the model's constructor take numbers and texts, and build what it needs.",
        )
    arguments |= {"vocab_size": run.model.vocab_size, "start_token": run.model.start_token}
    return {
        "export_format": EXPORT_FORMAT,
        "written_by": _package(),
        "model": {"class": name, "arguments": arguments},
        **{key: run.facts.get(key) for key in KEPT_FACTS},
        "optimizer_steps": run.optimizer_steps,
        "scores": recorded_scores(run),
        "data_name": run.facts.get("data_name") or run.facts["data"],
        "data": _without_paths(OmegaConf.to_container(run.config.data)),
    }


def _package() -> str:
    """Return the package's name and version; the name alone where it runs from a checkout."""
    try:
        return f"trm_lightning {version('trm-lightning')}"
    except PackageNotFoundError:
        return "trm_lightning"


def _without_paths(node: Any) -> Any:
    """Cut absolute paths to their last part: where a text lies here is nobody's business."""
    if isinstance(node, dict):
        return {key: _without_paths(value) for key, value in node.items() if key != "cache_dir"}
    if isinstance(node, list):
        return [_without_paths(value) for value in node]
    if isinstance(node, str) and Path(node).is_absolute():
        return Path(node).name
    return node


def _write_hf_tokenizer(run: LoadedRun, folder: Path) -> bool:
    """Write the tokenizer for Hugging Face's library; return whether it has a form there."""
    try:
        text = huggingface_tokenizer_json(run.tokenizer)
    except UserError:
        return False
    write_text(folder / HF_TOKENIZER, text)
    return True


@torch.no_grad()
def _check_same_scores(run: LoadedRun, written: LoadedRun) -> None:
    """Check that a folder that was just written predicts what the run does, bit for bit."""
    model = run.model
    size = (2, model.window_size)
    tokens = torch.randint(model.vocab_size, size, generator=torch.Generator().manual_seed(0))
    if not torch.equal(model.log_probs(tokens), written.model.log_probs(tokens)):
        raise RuntimeError(f"{written.folder} does not predict what {run.checkpoint} does")
