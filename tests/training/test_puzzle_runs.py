"""Runs on puzzles from config to report: what they say, and what is refused by name."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Configure
from hydra.utils import instantiate
from omegaconf import DictConfig

from trm_lightning.analysis.command import analyze
from trm_lightning.cli.config_check import check_config
from trm_lightning.errors import UserError
from trm_lightning.evaluation.command import evaluate
from trm_lightning.leakage.printed import CallWatch
from trm_lightning.reports.page import render_markdown
from trm_lightning.reports.run import run_report
from trm_lightning.runs.results_file import read_results
from trm_lightning.sampling.command import generate
from trm_lightning.training.fit import train

SMALL = (
    "data=sudoku4", "data.window_size=32", "data.corpus.train=40", "data.corpus.val=20",
    "data.corpus.test=20",
)  # fmt: skip


@pytest.fixture
def puzzles(configure: Configure) -> Any:
    def composed(*overrides: str, folder: str = "run") -> DictConfig:
        return configure(*SMALL, *overrides, folder=folder)

    return composed


def test_a_run_says_what_it_solves_and_never_perplexity(puzzles: Any, caplog: Any) -> None:
    caplog.set_level("INFO")
    cfg = puzzles("model=trm", "logger=tensorboard")
    check_config(cfg)
    results = train(cfg)
    folder = Path(cfg.run_dir)
    assert list(results["final"]) == ["val/solved"] and list(results["test"]) == ["test/solved"]
    score = results["final"]["val/solved"]
    assert (score["puzzles"], score["cells"]) == (20, 320) and not score["sees_answers"]
    assert 0 <= score["solved"] <= score["cells_right"] <= 1
    assert results["best"]["val/solved"].keys() == {"solved", "step"}
    assert results["audit"]["passed"] and results["audit"]["leaks"] is False
    assert read_results(folder)["final"] == results["final"]

    lines = (folder / "metrics.jsonl").read_text()
    assert '"val/solved_cells_right"' in lines and "ppl" not in lines
    screen = caplog.messages[-1]
    assert "val puzzles solved" in screen and "20 puzzles" in screen and "answer:" in screen
    assert "trm_lightning.analyze" in screen and "generate" not in screen
    page = render_markdown(run_report(folder))
    for text in (screen, page):
        assert "perplexity" not in text.lower() and "likelihood" not in text.lower()


def test_evaluate_and_analyze_score_what_training_scored(puzzles: Any, capsys: Any) -> None:
    cfg = puzzles("model=trm", "model.halt_loss_weight=0.5", "model.n_supervision=2")
    results = train(cfg)
    run = {"run": cfg.run_dir, "trust": [], "device": "cpu"}
    test = evaluate(
        DictConfig({**run, "split": "test", "stride": None, "exit_threshold": None}), CallWatch
    )
    assert test["scores"]["test/solved"] == results["test"]["test/solved"]
    content = analyze(
        DictConfig({
            **run, "split": "test", "depth": None, "max_tokens": None, "ablations": True,
            "exit_thresholds": [1e-9, 1e9],
        })
    )  # fmt: skip
    assert content["scored_with"] == 4
    assert [row["refinements"] for row in content["depths"]] == list(range(1, 9))
    trained = content["depths"][3]
    assert trained["cells_right"] == results["test"]["test/solved"]["cells_right"]
    flops = [row["flops"] for row in content["depths"]]
    assert flops == sorted(flops) and flops[7] > 1.9 * flops[3]
    assert all(row["seconds"] > 0 for row in content["depths"])
    printed = capsys.readouterr().out.splitlines()
    table = [line.split()[0] for line in printed if " % " in line and line.split()[0].isdigit()]
    assert table == list("12345678")
    # The head's probability is over 1e-9 at once, and never over 1e9.
    soon, *_, never = content["halting"]
    assert soon["mean_depth"] == 1 and never["mean_depth"] == 4
    assert soon["solved"] == content["depths"][0]["solved"]
    assert never["cells_right"] == trained["cells_right"]
    chosen = content["chosen"]["depths"]
    assert chosen == content["depths"][chosen["refinements"] - 1]
    report = run_report(Path(cfg.run_dir))
    assert any("Accuracy over depth" in section.title for section in report.sections)
    assert {"puzzle_depth.svg", "board.svg"} <= {
        path.name for path in (Path(cfg.run_dir) / "analysis").iterdir()
    }
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["ar", "looped"])
def test_controls_have_the_same_size_and_data(puzzles: Any, model: str) -> None:
    results = train(puzzles(f"model={model}", "budget.steps=2", "eval_every=2"))
    assert list(results["final"]) == ["val/solved"]
    own = ["model.mixing=attention"] if model == "ar" else []  # which ar has always
    trm = instantiate(puzzles("model=trm", *own, folder="trm").model, vocab_size=5, start_token=0)
    assert results["parameters"] == trm.n_parameters()


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(puzzles: Any) -> None:
    same = ("model=trm", "schedule=constant")
    whole = train(puzzles(*same, folder="whole"))
    first = puzzles(*same, "budget.steps=4", folder="parts")
    train(first)
    again = puzzles(*same, f"resume={first.run_dir}/checkpoints/last.ckpt", folder="parts")
    resumed = train(again)
    assert resumed["final"] == whole["final"]
    samples = (Path(again.run_dir) / "samples.txt").read_text()
    assert samples == (Path(whole["config"]["run_dir"]) / "samples.txt").read_text()
    assert [line for line in samples.split("\n") if line.startswith("---")] == [
        "--- step 4 ---", "--- step 8 ---",
    ]  # fmt: skip


def test_models_of_text_are_refused_on_puzzles_and_the_reverse(
    puzzles: Any, configure: Configure
) -> None:
    for model in ("source_trm", "leaky_context_mask"):
        with pytest.raises(UserError, match="is a model of text, and data=sudoku4 are puzzles"):
            train(puzzles(f"model={model}"))
    with pytest.raises(UserError, match=r"model\.puzzle_size=8 is for puzzles"):
        train(configure("data=builtin_char", "model=trm", "model.puzzle_size=8"))
    with pytest.raises(UserError, match="chunk_size=4 is of text"):
        train(puzzles("model=trm", "model.chunk_size=4"))
    with pytest.raises(UserError, match="eval_stride is not known"):
        check_config(puzzles("+data.eval_stride=8"))


def test_generate_is_refused(puzzles: Any) -> None:
    cfg = puzzles("model=looped", "budget.steps=1", "eval_every=1")
    train(cfg)
    asked = DictConfig(
        {
            "run": cfg.run_dir,
            "n_samples": 1,
            "device": "cpu",
            "exit_threshold": None,
            "trust": [],
            "prompt": "",
        }
    )
    with pytest.raises(UserError, match="trained on puzzles, and generate continues text"):
        generate(asked)
