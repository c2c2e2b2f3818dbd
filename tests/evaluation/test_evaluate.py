"""The evaluate command tries the calls whose sum it prints."""

import json
from pathlib import Path

import pytest
import torch
from conftest import Configure
from omegaconf import DictConfig
from torch import Tensor

from trm_lightning import load_run
from trm_lightning.errors import UserError
from trm_lightning.evaluation.command import evaluate
from trm_lightning.leakage.printed import CallWatch
from trm_lightning.models import AR
from trm_lightning.training.fit import train


def settings(folder: str) -> DictConfig:
    return DictConfig(
        {
            "run": folder,
            "split": "val",
            "stride": None,
            "exit_threshold": None,
            "trust": [],
            "device": "cpu",
        }
    )


def test_a_model_that_leaks_gets_no_perplexity_whatever_its_run_says(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configure("model=ar", "audit=false", "test=false")
    results = train(cfg)
    honest = evaluate(settings(cfg.run_dir), CallWatch)
    perplexity = honest["scores"]["val/ppl"]["perplexity"]
    assert perplexity == results["best"]["val/ppl"]["perplexity"]
    assert honest["audit"] == {"calls_tried": 3, "found": {"ppl": {}}}
    assert "3 of these calls were tried again; nothing moved" in capsys.readouterr().out
    text = "The king is here . " * 30
    assert load_run(cfg.run_dir).perplexity(text) > 1

    def leaks_late(net: AR, tokens: Tensor) -> Tensor:
        return torch.cat((shift_right(net, tokens)[:, :12], tokens[:, 12:]), dim=1)

    shift_right = AR.shift_right
    monkeypatch.setattr(AR, "shift_right", leaks_late)
    leaky = evaluate(settings(cfg.run_dir), CallWatch)
    assert list(leaky["scores"]) == ["val/not_a_perplexity"]
    assert leaky["audit"]["found"]["ppl"]["printed_scores"]["position"] >= 12
    assert "LEAK AUDIT OF ppl FAILED" in capsys.readouterr().out
    stored = json.loads((Path(cfg.run_dir) / "evaluation.json").read_text())
    assert list(stored["scores"]) == ["val/not_a_perplexity"]
    with pytest.raises(UserError, match="This is no perplexity"):
        load_run(cfg.run_dir).perplexity(text)
