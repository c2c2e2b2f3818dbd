"""No number of a model that is given the answer can be mistaken for a perplexity."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Configure
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2 as hparams_pb2

from trm_lightning.errors import UserError
from trm_lightning.evaluation.command import evaluate
from trm_lightning.leakage.printed import CallWatch
from trm_lightning.runs.load import load_run
from trm_lightning.training.fit import train

WARM = ("model=source_trm", "model.n_refinements=2", "model.n_recursions=2", "logger=tensorboard")


def test_a_warm_start_is_named_everywhere(
    configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    cfg = configure(*WARM)
    results = train(cfg)
    run = Path(cfg.run_dir)
    screen = caplog.text
    assert "NOT A LIKELIHOOD" in screen and "val perplexity" not in screen
    assert "started without the answer" in screen

    written = json.loads((run / "results.json").read_text())
    assert written["final"].keys() == {"val/warm_start_ppl", "val/ppl_without_answer"}
    assert not written["is_likelihood"]
    assert "val/ppl" not in json.dumps({k: v for k, v in results.items() if k != "config"}).replace(
        "val/ppl_without_answer", ""
    )

    events = EventAccumulator(str(run), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert "val/warm_start_ppl" in tags and "val/ppl_without_answer" in tags
    assert not {tag for tag in tags if tag.endswith("val/ppl")}
    text = events.Tensors("what the numbers mean/text_summary")[0].tensor_proto.string_val[0]
    assert b"NOT A LIKELIHOOD" in text
    shown = hparams_pb2.HParamsPluginData
    experiment, start = (
        shown.FromString(events.SummaryMetadata(f"_hparams_/{name}").plugin_data.content)
        for name in ("experiment", "session_start_info")
    )
    metrics = {info.name.tag for info in experiment.experiment.metric_infos}
    assert metrics == {"val/warm_start_ppl", "val/ppl_without_answer"}
    assert start.session_start_info.hparams["model.n_refinements"].number_value == 2


def test_the_answer_is_what_makes_the_difference(configure: Configure) -> None:
    """Trained on copying, the same weights know nothing once the answer is withheld."""
    cfg = configure(
        *WARM, "budget.steps=100", "optimizer.lr=0.02", "eval_every=100", "checkpoint_every=100"
    )
    final = train(cfg)["final"]
    vocabulary = load_run(cfg.run_dir).model.vocab_size
    assert final["val/warm_start_ppl"]["perplexity"] < 3
    assert final["val/ppl_without_answer"]["perplexity"] > vocabulary / 10


@pytest.mark.parametrize("model", ["ar", "trm"])
def test_scores_of_training_and_of_the_command_agree(
    configure: Configure, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    cfg = configure(f"model={model}", "ema_decay=0.8")
    final = train(cfg)["final"]["val/ppl"]
    settings = {
        "run": f"{cfg.run_dir}/checkpoints/last.ckpt",
        "device": "cpu",
        "exit_threshold": None,
        "trust": [],
    }
    again = evaluate(OmegaConf.create({**settings, "split": "val", "stride": None}), CallWatch)
    assert again["scores"]["val/ppl"]["total_nats"] == pytest.approx(final["total_nats"], rel=1e-7)
    assert f"{final['perplexity']:.3f}" in capsys.readouterr().out
    # Any stride scores every token once; more context changes the number.
    dense = evaluate(OmegaConf.create({**settings, "split": "val", "stride": 2}), CallWatch)
    assert dense["scores"]["val/ppl"]["tokens"] == final["tokens"]
    assert dense["scores"]["val/ppl"]["total_nats"] != final["total_nats"]
    test = evaluate(OmegaConf.create({**settings, "split": "test", "stride": None}), CallWatch)
    assert test["scores"].keys() == {"test/ppl"}
    for bad in (
        {"split": "dev", "stride": None},
        {"split": "val", "stride": 17},
    ):
        with pytest.raises(UserError):
            evaluate(OmegaConf.create({**settings, **bad}), CallWatch)


@pytest.mark.slow
def test_a_random_text_scores_no_better_than_its_vocabulary(
    configure: Configure, tmp_path: Path
) -> None:
    """Uniform letters cannot be predicted: an honest model pays log V for each, a leak less."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(16, (12_000,), generator=generator).tolist()
    path = tmp_path / "letters.txt"
    path.write_text("".join("abcdefghijklmnop"[i] for i in draws))
    data = ("data=text", f"data.path={path}", "data.level=char")
    scores: dict[str, Any] = {}
    for name, model in (("honest", "trm"), ("leak", "source_trm")):
        cfg = configure(
            f"model={model}", "model.n_refinements=2", "model.n_recursions=2", "budget.steps=60",
            "eval_every=60", "checkpoint_every=60", *data, folder=name,
        )  # fmt: skip
        scores[name] = next(iter(train(cfg)["final"].values()))
    assert scores["honest"]["perplexity"] > 15.9
    assert scores["leak"]["perplexity"] < 12


@pytest.mark.parametrize("damage", ["cut", "other", "empty", "missing"])
def test_damaged_checkpoints_are_refused(configure: Configure, damage: str) -> None:
    cfg = configure("model=ar", "budget.steps=1")
    train(cfg)
    file = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:2000])
    elif damage == "other":
        torch.save({"state_dict": {}}, file)
    elif damage == "empty":
        file.write_bytes(b"")
    else:
        file = file.with_name("none.ckpt")
    with pytest.raises(UserError, match=str(file)):
        load_run(file)


def test_a_run_of_another_version_is_refused_with_its_setting(configure: Configure) -> None:
    cfg = configure("model=ar", "budget.steps=1")
    train(cfg)
    file = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["run"]["config"]["model"]["long_gone"] = 3
    torch.save(checkpoint, file)
    with pytest.raises(UserError, match=r"cannot build: .*long_gone") as raised:
        load_run(file)
    assert str(file) in str(raised.value)


def test_a_run_of_an_older_format_names_who_reads_it(configure: Configure) -> None:
    cfg = configure("model=ar", "budget.steps=1")
    train(cfg)
    file = Path(cfg.run_dir) / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    del checkpoint["format"]
    torch.save(checkpoint, file)
    with pytest.raises(UserError, match=r"format 1, which trm_lightning 0\.1\.0 .*reads"):
        load_run(file)
