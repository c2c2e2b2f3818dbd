"""The audit of runs: by the command, and before the first validation of training."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Configure
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor
from warm import WarmProcess

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import conf_dir
from trm_lightning.data import TextDataModule
from trm_lightning.errors import UserError
from trm_lightning.leakage.command import audit_command
from trm_lightning.models import AR
from trm_lightning.training import TrainingModule
from trm_lightning.training.build import build_module, build_trainer
from trm_lightning.training.callbacks.leak_audit import LeakAudit
from trm_lightning.training.fit import set_globals, train

DATA = [override for override in TINY if "data." in override]
NET = ["model.width=16", "model.n_heads=2", "train_steps=0", "device=cpu"]
CONTROLS = [path.stem for path in conf_dir().glob("model/leaky_*.yaml")]


def audit_config(*overrides: str) -> DictConfig:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("audit", list(overrides))


@pytest.mark.parametrize("model", ["ar", "looped", "trm"])
def test_models_pass_as_they_are_configured(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit_command(audit_config(f"model={model}", *DATA, *NET)).n_failed == 0
    shown = capsys.readouterr().out
    assert "untrained, on builtin_word" in shown
    assert "All checks passed." in shown and "✗" not in shown
    assert "✓ each_token_once" in shown and "✓ incremental" in shown


def test_there_are_five_controls() -> None:
    assert len(CONTROLS) == 5


@pytest.mark.parametrize("model", CONTROLS)
def test_controls_fail_as_they_are_configured(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "audit.json"
    assert audit_command(audit_config(f"model={model}", *DATA, *NET, f"json={report}")).n_failed > 0
    shown = capsys.readouterr().out
    assert "NOT A LIKELIHOOD" in shown and "✗ suffix_perturbation" in shown
    content = json.loads(report.read_text())
    name = next(iter(content["scores"]))
    assert name in ("warm_start_ppl", "not_a_perplexity")
    assert content["passed"] is False
    assert not content["leaks"]  # nothing that is called a perplexity is none
    assert "suffix_perturbation" in content["failed"][name]
    first = content["scores"][name]["checks"][0]
    assert first["name"] == "printed_scores" and isinstance(first["position"], int)
    assert first["condition"] == "causal"


def test_a_trained_run_is_audited_on_its_own_data(
    configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = configure("model=ar", "data=builtin_char")  # its tokenizer loses nothing
    train(cfg)
    capsys.readouterr()
    assert (
        audit_command(audit_config(f"run={cfg.run_dir}", "train_steps=0", "device=cpu")).n_failed
        == 0
    )
    shown = capsys.readouterr().out
    assert "best.ckpt, step" in shown
    assert "✓ entropy_floor" in shown


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ([], "Neither a run nor a model"),
        (["run=no/such/run"], "no/such/run does not exist"),
        (["run=no/such/run", "model=ar"], "has its own model"),
        (["model=ar", "train_steps=-1"], "train_steps"),
        (["model=ar", "json=no/such/folder/a.json"], "no/such/folder"),
        (["model=ar", "split=tset", *DATA, *NET], "no split 'tset'"),
    ],
)
def test_mistakes_are_named(overrides: list[str], named: str) -> None:
    with pytest.raises(UserError, match=named):
        audit_command(audit_config(*overrides))


def test_the_exit_status_is_1_and_no_folder_is_made(tmp_path: Path, warm: WarmProcess) -> None:
    done = warm.call("audit", "model=leaky_pooled_chunk", *DATA, *NET, folder=tmp_path, limit=240)
    assert done.returncode == 1, done.stderr
    assert "checks FAILED" in done.stdout
    assert list(tmp_path.iterdir()) == []


# Before the first validation.

Fit = Callable[..., tuple[TrainingModule, dict[str, Any]]]


@pytest.fixture(autouse=True)
def all_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


@pytest.fixture
def fit(configure: Configure) -> Fit:
    """Train for a few steps with the audit beside it, and return the module and the facts."""

    def fitted(*overrides: str, **options: Any) -> tuple[TrainingModule, dict[str, Any]]:
        cfg = configure(*overrides)
        set_globals(cfg)
        data: TextDataModule = instantiate(cfg.data)
        data.prepare_data()
        data.setup()
        module = build_module(cfg, data)
        data.show(math.ceil(8 / module.model.n_supervision))
        facts: dict[str, Any] = {}
        path = Path(cfg.run_dir) / "audit.json"
        callbacks = [LeakAudit(facts, path, **options)] if options.pop("attach", True) else []
        build_trainer(cfg, module, [*callbacks]).fit(module, datamodule=data)
        return module, facts

    return fitted


def test_training_is_the_same_with_and_without(
    fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audited, facts = fit("model=trm", "ema_decay=0.9")
    nothing: dict[str, list[str]] = {"ppl": []}
    assert facts["audit"] == {
        "passed": True, "leaks": False, "failed": nothing, "suspicious": nothing,
    }  # fmt: skip
    # Two validations; an audit before the first one and one after the last.
    assert len(re.findall(r"[0-9] leak audit: 10 checks|thorough leak audit: 12", caplog.text)) == 2
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["passed"]
    alone, _ = fit("model=trm", "ema_decay=0.9", attach=False)
    for name, value in audited.state_dict().items():
        assert torch.equal(value, alone.state_dict()[name]), name
    assert audited.scores == alone.scores


def test_a_model_that_claims_to_be_honest_is_found_out(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def see_all(net: AR, tokens: Tensor) -> Tensor:
        return tokens

    monkeypatch.setattr(AR, "shift_right", see_all)
    module, facts = fit("model=ar")
    assert facts["audit"]["leaks"] and "target_swap" in facts["audit"]["failed"]["ppl"]
    assert module.model.leaks is True
    assert "checks FAILED" in caplog.text and "its numbers are no perplexities" in caplog.text
    assert module.optimizer_steps == 8  # it trains all the same


def leak_far_in_the_window(monkeypatch: pytest.MonkeyPatch, *, from_step: int) -> None:
    """Let AR read the answers of positions 12 on, once its weights have moved ``from_step`` times.

    The cheap audit before the first validation tries windows of 8 tokens.
    """
    honest, module_step = AR.shift_right, TrainingModule._optimizer_step
    steps = [0]

    def count(module: TrainingModule) -> None:
        steps[0] += 1
        module_step(module)

    def shift_right(net: AR, tokens: Tensor) -> Tensor:
        shifted = honest(net, tokens)
        if steps[0] < from_step:
            return shifted
        return torch.cat((shifted[:, :12], tokens[:, 12:]), dim=1)

    monkeypatch.setattr(TrainingModule, "_optimizer_step", count)
    monkeypatch.setattr(AR, "shift_right", shift_right)


def test_a_leak_far_in_the_window_is_found_while_it_is_scored(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leak_far_in_the_window(monkeypatch, from_step=0)
    module, facts = fit("model=ar")
    assert facts["audit"]["leaks"] and "printed_scores" in facts["audit"]["failed"]["ppl"]
    assert "leak audit: 10 checks passed" in caplog.text  # and yet
    assert "printed score moves by" in caplog.text
    assert list(module.scores) == ["val/not_a_perplexity"]


def test_a_leak_that_is_learned_late_takes_the_earlier_names_back(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak_far_in_the_window(monkeypatch, from_step=5)
    cfg = configure("model=ar")
    results = train(cfg)  # validates after steps 4 and 8
    lines = (Path(cfg.run_dir) / "metrics.jsonl").read_text()
    assert '"val/ppl"' in lines and '"val/not_a_perplexity"' in lines
    for part in ("final", "best", "test"):
        assert all(name.endswith("/not_a_perplexity") for name in results[part]), part
    assert results["audit"]["leaks"] and not results["is_likelihood"]


def test_what_monitors_a_score_goes_on_when_the_score_is_renamed(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    leak_far_in_the_window(monkeypatch, from_step=5)
    patience = "callbacks.early_stopping.patience=1"
    cfg = configure("model=ar", "callbacks=early_stopping", patience, "budget.steps=16")
    results = train(cfg)
    assert results["audit"]["leaks"]
    # It improves at each validation. Were the old name given up, its last value would stand still.
    assert results["optimizer_steps"] == 16


def test_a_resumed_run_remembers_a_leak(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("model=ar", "budget.steps=4", "test=false")
    train(cfg)
    last = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)["callbacks"]["LeakAudit"]
    (check,) = [x for x in stored["audits"]["ppl"]["checks"] if x["name"] == "printed_scores"]
    assert check["passed"]
    check.update(passed=False, detail="moves", position=3)
    resumed = LeakAudit({}, tmp_path / "audit.json")
    resumed.load_state_dict(stored)
    assert resumed.audits["ppl"].failed == ["printed_scores"]


def test_a_score_under_the_floor_is_a_finding(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Normalised, blind to the answer, and yet too good: the text itself is in the weights."""
    monkeypatch.setattr(TextDataModule, "splits", property(_high_floor(TextDataModule.splits)))
    _, facts = fit("model=ar")
    assert facts["audit"]["failed"]["ppl"] == ["entropy_floor"]
    assert "and the text holds 50.0000" in caplog.text


def _high_floor(splits: Any) -> Callable[[TextDataModule], Any]:
    def changed(data: TextDataModule) -> Any:
        return {k: replace(v, entropy_floor_nats=50.0) for k, v in splits.fget(data).items()}

    return changed


@pytest.mark.parametrize("model", ["leaky_target_start", "leaky_chunk_mask"])
def test_controls_train_under_names_that_are_no_perplexity(
    fit: Fit, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    module, facts = fit(f"model={model}")
    assert not facts["audit"]["passed"]
    assert "NOT A LIKELIHOOD" in caplog.text
    assert module.optimizer_steps == 8
    assert list(module.scores) in (["val/warm_start_ppl"], ["val/not_a_perplexity"])
    if model == "leaky_target_start":
        assert facts["audit"]["failed"]["ppl_without_answer"] == []


def test_switched_off_it_says_so(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    _, facts = fit("model=ar", enabled=False)
    assert facts == {"audit": None}
    assert "leak audit: off" in caplog.text
