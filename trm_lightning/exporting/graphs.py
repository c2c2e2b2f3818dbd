"""Scoring as a graph that runs without this package: ``torch.export`` and ONNX."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from trm_lightning.errors import UserError, need
from trm_lightning.models import LanguageModel

TOLERANCE = 1e-5  # between a graph's log-probabilities and the model's
TOKENS, LOG_PROBS = "tokens", "log_probs"  # names of a graph's input and output


class Scoring(nn.Module):
    """Maps ids (B, L) of whole windows to log-probabilities (B, L, V)."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """See :meth:`LanguageModel.log_probs`."""
        return self.model.log_probs(tokens)


def write_graph(name: str, model: LanguageModel, folder: Path) -> float:
    """Write a model's scoring as a graph, read it back and compare the two.

    Args:
        name: a key of ``GRAPHS``.
        model: on the CPU, in evaluation mode.
        folder: where the file goes.

    Returns:
        The largest difference of a log-probability, over windows that the graph was not made of.

    Raises:
        UserError: for a model that cannot be a graph, such as one that decides while it runs.
        RuntimeError: where the graph differs by more than ``TOLERANCE``.
    """
    form = GRAPHS[name]
    file = folder / form.file
    generator = torch.Generator().manual_seed(0)
    example, other = (
        torch.randint(model.vocab_size, (n, model.window_size), generator=generator) for n in (2, 3)
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own use of what it deprecates
        form.write(_program(model, example), file)
        difference = float((form.read(file)(other) - model.log_probs(other)).abs().max())
    if not difference <= TOLERANCE:
        raise RuntimeError(f"{form.file} differs by {difference} from the model it was made of")
    return difference


def _program(model: LanguageModel, example: Tensor) -> ExportedProgram:
    batch = {0: Dim("batch")}
    try:
        return torch.export.export(Scoring(model), (example,), dynamic_shapes=(batch,))
    except Exception as error:  # of torch's, in many kinds: something in the model is no graph
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{type(model).__name__} cannot be exported as a graph: {reason}",
            "A graph is the same for all texts and batches: early exit (exit_threshold) is not. "
            "Leave format out; the weights can be exported.",
        ) from error


def _write_onnx(program: ExportedProgram, file: Path) -> None:
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):  # they tell of every node
        logging.getLogger(name).setLevel(logging.ERROR)
    written = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=[TOKENS], output_names=[LOG_PROBS]
    )
    assert written is not None
    written.save(file)


def _read_onnx(file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda tokens: torch.from_numpy(session.run([LOG_PROBS], {TOKENS: tokens.numpy()})[0])


def _read_torch(file: Path) -> Callable[[Tensor], Tensor]:
    scoring: Any = torch.export.load(file).module()
    return scoring


@dataclass(frozen=True)
class Format:
    """A form of a graph.

    Attributes:
        file: its name.
        write: a traced model to a file.
        read: a file back, as a function of ids.
    """

    file: str
    write: Callable[[ExportedProgram, Path], None]
    read: Callable[[Path], Callable[[Tensor], Tensor]]


GRAPHS = {
    "torch_export": Format("scoring.pt2", torch.export.save, _read_torch),
    "onnx": Format("scoring.onnx", _write_onnx, _read_onnx),
}


def check_formats(names: list[str]) -> None:
    """Check that formats are known, and that what they need is installed.

    Raises:
        UserError: naming the format, or what to install.
    """
    unknown = [name for name in names if name not in GRAPHS]
    if unknown:
        raise UserError(f"format={unknown[0]} is not known.", f"There are: {', '.join(GRAPHS)}.")
    if "onnx" in names:
        for module in ("onnxscript", "onnxruntime"):
            need(module, "onnx")
