"""Scoring as a graph: equal to the model on texts it was not made of, or refused."""

import importlib.util
from pathlib import Path

import pytest
import torch

from trm_lightning.errors import UserError
from trm_lightning.exporting.graphs import Scoring, check_formats, write_graph
from trm_lightning.models import AR, TRM, LanguageModel

SHAPE = {"vocab_size": 30, "start_token": 0, "window_size": 8, "width": 8, "n_layers": 1}
AR_SHAPE = {**SHAPE, "n_heads": 2, "norm": "post", "positions": "rotary"}
NO_ONNX = importlib.util.find_spec("onnxruntime") is None


def trm(**settings: object) -> LanguageModel:
    return TRM(**AR_SHAPE, n_refinements=2, n_recursions=1, **settings).eval()


def shorter(model: LanguageModel, scores: torch.Tensor, tokens: torch.Tensor) -> bool:
    """Whether a short text has its own scores in a window that was filled up."""
    with torch.no_grad():
        own = model.log_probs(tokens[:, :5])
    return bool(torch.allclose(own, scores[:, :5], atol=1e-5))


@pytest.mark.slow
def test_torch_export_scores_as_the_model(tmp_path: Path) -> None:
    model = trm(chunk_size=2)
    assert write_graph("torch_export", model, tmp_path) <= 1e-5
    tokens = torch.randint(30, (5, 8))
    scores = torch.export.load(tmp_path / "scoring.pt2").module()(tokens)
    torch.testing.assert_close(scores, Scoring(model)(tokens), atol=1e-5, rtol=0)
    assert shorter(model, scores, tokens)


@pytest.mark.skipif(NO_ONNX, reason="needs the extra onnx")
@pytest.mark.slow
@pytest.mark.parametrize("model", [AR(**AR_SHAPE).eval(), trm(chunk_size=4, n_supervision=2)])
def test_onnx_scores_as_the_model(tmp_path: Path, model: LanguageModel) -> None:
    import onnxruntime

    assert write_graph("onnx", model, tmp_path) <= 1e-5
    tokens = torch.randint(30, (5, 8))
    session = onnxruntime.InferenceSession(tmp_path / "scoring.onnx")
    scores = torch.from_numpy(session.run(None, {"tokens": tokens.numpy()})[0])
    torch.testing.assert_close(scores, Scoring(model)(tokens).detach(), atol=1e-5, rtol=0)
    assert shorter(model, scores, tokens)


def test_a_model_that_decides_while_it_runs_is_no_graph(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="TRM cannot be exported as a graph"):
        write_graph("torch_export", trm(exit_threshold=0.1), tmp_path)


def test_a_graph_that_differs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here by the size of twice the tolerance."""
    model = AR(**AR_SHAPE).eval()
    scores = Scoring.forward
    monkeypatch.setattr(Scoring, "forward", lambda self, tokens: scores(self, tokens) + 2e-5)
    with pytest.raises(RuntimeError, match=r"scoring\.pt2 differs by 2"):
        write_graph("torch_export", model, tmp_path)


def test_an_unknown_format_is_told() -> None:
    with pytest.raises(UserError, match="There are: torch_export, onnx"):
        check_formats(["torchscript"])
