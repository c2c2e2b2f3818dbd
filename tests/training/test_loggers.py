"""What loggers get of a run; TensorBoard also its name, and what each number is."""

import csv
import importlib.util
import json
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import Configure
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from trm_lightning.errors import UserError
from trm_lightning.runs.history import read_lines
from trm_lightning.runs.results_file import read_results
from trm_lightning.training.fit import train
from trm_lightning.training.loggers import (
    describe_to_loggers,
    description,
    log_numbers,
    log_picture,
    log_sample,
    takes_pictures,
)


def test_tensorboard_names_the_run_and_describes_every_number(configure: Configure) -> None:
    cfg = configure(
        "model=trm", "model.n_supervision=2", "logger=tensorboard", "budget.steps=8", "eval_every=4"
    )
    train(cfg)
    folder = Path(cfg.run_dir)
    assert not (folder / "hparams.yaml").exists()
    boards = EventMultiplexer().AddRunsFromDirectory(str(folder.parent)).Reload()
    assert list(boards.Runs()) == [folder.name]
    board = boards.GetAccumulator(folder.name)
    tags = board.Tags()["scalars"]
    assert {"train/ppl", "val/ppl", "by_tokens/val/ppl", "train/nats_supervision_step_2"} <= {*tags}
    for tag in tags:
        metadata = board.SummaryMetadata(tag)
        assert metadata.display_name == tag and len(metadata.summary_description) > 10, tag

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    (tested,) = board.Scalars("test/ppl")
    results = read_results(folder)
    assert tested.step == results["best"]["val/ppl"]["step"]
    assert tested.value == pytest.approx(results["test"]["test/ppl"]["perplexity"])
    for tag in tags:
        if tag.startswith("test/"):
            continue
        name, x = tag.removeprefix("by_tokens/"), "tokens" if tag.startswith("by_") else "step"
        expected = [(line[x], pytest.approx(line[name])) for line in lines if name in line]
        assert [(event.step, event.value) for event in board.Scalars(tag)] == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train/lr", "Learning rate"),
        ("train/nats_supervision_step_3", "later supervision step"),
        ("val/ppl", "exact perplexity"),
        ("val/warm_start_ppl", "NOT A LIKELIHOOD"),
        ("val/warm_start_ppl_nats_per_token", "Nats per token of val/warm_start_ppl: NOT A LIKE"),
        ("val/ppl_bits_per_character", "Bits per character of val/ppl: exact"),
        ("by_tokens/val/ppl", "exact perplexity. The x axis is tokens"),
    ],
)
def test_a_number_is_told_by_its_name(name: str, said: str) -> None:
    assert said in description(name)


@pytest.mark.parametrize("name", ["val/mine", "train/mine", "mine", "val/mine_nats_per_token"])
def test_somebodys_own_number_has_no_description(name: str) -> None:
    assert description(name) == ""


@pytest.mark.parametrize("kind", [WandbLogger, MLFlowLogger])
def test_other_loggers_get_numbers_text_and_pictures_on_one_axis(kind: type[Logger]) -> None:
    """Steps never go back, which Weights & Biases would drop; tokens come as a number."""
    logger = Mock(spec=kind)
    log_numbers(logger, {"val/ppl": 9.0}, step=4, tokens=512)
    logger.log_metrics.assert_called_once_with({"val/ppl": 9.0, "tokens": 512.0}, step=4)
    log_sample(logger, "to be", 4)
    log_picture(logger, "refinement", Figure(), 4)
    assert takes_pictures(logger)
    called = [*logger.mock_calls, *logger.experiment.mock_calls]
    assert any("to be" in str(call) for call in called)
    assert any("refinement" in str(call) for call in called)


def test_text_in_tensorboard_is_shown_as_it_is_and_in_full(configure: Configure) -> None:
    cfg = configure("model=ar", "logger=tensorboard", "budget.steps=4")
    train(cfg)
    boards = EventMultiplexer().AddRunsFromDirectory(cfg.run_dir).Reload()
    board = boards.GetAccumulator(".")
    (sample,) = board.Tensors("samples/text_summary")
    lines = sample.tensor_proto.string_val[0].decode().split("\n")
    assert all(line.startswith("    ") and len(line) <= 104 for line in lines)
    written = (Path(cfg.run_dir) / "samples.txt").read_text().partition("---\n")[2].rstrip("\n")
    assert len(written) > 10
    assert " ".join(lines).split() == written.split()


def test_mlflow_gets_settings_by_their_names_on_the_command_line() -> None:
    logger = Mock(spec=MLFlowLogger)
    module = Mock(scorers=Mock(return_value=["ppl"]))
    config = {"model": {"width": 16, "corpus": {"seed": 1}}, "seed": 2}
    describe_to_loggers(Mock(loggers=[logger]), module, {"config": config})
    logger.log_hyperparams.assert_called_once_with(
        {"model.width": 16, "model.corpus.seed": 1, "seed": 2}
    )


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_library_that_is_missing_is_named_with_its_extra(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *more: None if n == name else find(n, *more)
    )
    with pytest.raises(UserError, match=rf"needs {name}[\s\S]*trm-lightning\[{name}\]"):
        train(configure("model=ar", f"logger={name}"))


def test_several_loggers_stand_side_by_side(configure: Configure, tmp_path: Path) -> None:
    cfg = configure("model=ar", "logger=tensorboard_csv")
    assert list(cfg.logger) == ["tensorboard", "csv"]
    train(cfg)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    scores = {int(row["step"]): float(row["val/ppl"]) for row in rows if row["val/ppl"]}
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert scores == {line["step"]: line["val/ppl"] for line in lines if "val/ppl" in line}
    assert list((tmp_path / "run").glob("events.*"))
