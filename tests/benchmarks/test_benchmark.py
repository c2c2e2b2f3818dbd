"""The benchmark as a command: it measures everything, and refuses what it cannot measure."""

import json
from pathlib import Path

import pytest
import torch
from benchmark_tiny import configured
from conftest import Configure
from omegaconf import DictConfig

from trm_lightning.benchmarks import command, runs, timing, vocabulary
from trm_lightning.benchmarks.probes import peak_memory
from trm_lightning.errors import UserError
from trm_lightning.training.fit import train


@pytest.fixture
def cfg(tmp_path: Path) -> DictConfig:
    return configured(tmp_path)


def test_times_and_ratios_are_medians_over_rounds() -> None:
    cpu = torch.device("cpu")
    variants = [timing.Variant("a", lambda: None, 10), timing.Variant("b", lambda: None, 10)]
    variants[1] = timing.Variant("b", lambda: None, 20, references=("a",))
    rounds = {"a": [1.0, 2.0, 9.0], "b": [1.0, 4.0, 3.0]}
    row = timing.row("s", variants[1], rounds, variants)
    assert (row["seconds_low"], row["seconds_median"], row["seconds_high"]) == (1.0, 3.0, 4.0)
    assert row["tokens_per_second"] == 20 / 3
    assert row["times_reference"] == {"a": 2.0}  # of 2, 1 and 6
    measured = timing.measure("s", variants, cpu, 3, 0.0)
    assert [len(row["seconds"]) for row in measured] == [3, 3]


def test_a_benchmark_writes_everything(
    cfg: DictConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "PEAK_SIZE", 64)
    cfg.sections = ["training", "peer", "settings", "scoring", "generation", "data", "scaling"]
    command.benchmark(cfg)
    folder = Path(cfg.run_dir)
    content = json.loads((folder / "benchmark.json").read_text())
    rows = content["rows"]
    assert list(dict.fromkeys(row["section"] for row in rows)) == list(cfg.sections)
    assert len({(row["section"], row["name"]) for row in rows}) == len(rows)
    for row in rows:
        assert len(row["seconds"]) == 1 and row["seconds_median"] > 0, row
        if row["section"] in ("training", "peer", "scaling"):
            assert row["percent_of_peak"] > 0
    assert {row["panel"] for row in rows if "panel" in row} == set(cfg.scaling) - {
        "repetitions", "seconds_per_measurement", "window_batch",
    }  # fmt: skip
    table = (folder / "table.md").read_text()
    shown = capsys.readouterr().out
    assert all(line in shown for line in table.splitlines())
    assert all(f"| {row['name']} " in table for row in rows)
    for name in ("scaling.png", "scaling.svg"):
        assert (folder / name).stat().st_size > 10_000
    assert content["environment"]["threads"] == 1 and content["config"]["window"] == 8


def test_a_large_vocabulary_is_measured_beside_the_plain_loss_where_that_fits(
    cfg: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "MOST_PLAIN_LOGITS", 17 * 3 * 8)
    measured = []
    monkeypatch.setattr(
        vocabulary, "_in_a_process_of_its_own", lambda cfg, *of: measured.append(of) or 2**30
    )
    rows = vocabulary.vocabulary_rows(cfg, torch.device("cpu"))[1:]
    assert measured == [(17, True), (17, False), (300, False)]
    assert [list(row["times_reference"]) for row in rows] == [[], [rows[0]["name"]], []]
    assert {row["note"] for row in rows} == {"peak memory 1,024 MiB"}


@pytest.mark.slow
def test_memory_of_a_step_is_measured_in_a_process_of_its_own(cfg: DictConfig) -> None:
    cfg.net.width, cfg.window, cfg.batch = 16, 64, 32
    found = vocabulary._in_a_process_of_its_own(cfg, 30_000, False)
    head = 4 * 16 * 30_000
    assert found is not None and 4 * head < found < 2**28  # a plain loss holds logits of 2**28


@pytest.mark.slow
def test_start_of_a_real_run_is_measured(cfg: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ["data.corpus.train_words=3000", "+data.corpus.val_words=600", "model.width=8"]
    monkeypatch.setattr(runs, "_data_overrides", lambda: tiny)
    few = ["model=ar", "budget.steps=1"]
    found, started = runs._train(cfg, torch.device("cpu"), "Milestones, path: PATH", few)
    assert found["first_step"] > started and found["vocab_size"] > 100
    assert found["peak_bytes"] > 50 * 2**20


def test_steps_of_a_real_run_alternate_with_a_bare_loop(
    cfg: DictConfig, configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "probe.json"
    probe = f"{{_target_: trm_lightning.benchmarks.probes.Interleaved, path: {path}, steps: 2}}"
    train(configure("model=ar", "budget.steps=6", f"+callbacks.probe={probe}"))
    found = json.loads(path.read_text())
    monkeypatch.setattr(runs, "NETS", {"AR": []})
    monkeypatch.setattr(runs, "_train", lambda *arguments: (found, 0.0))
    bare, real = runs.lightning_rows(cfg, torch.device("cpu"))
    assert len(bare["seconds"]) == len(real["seconds"]) == 2  # the first turn warms up
    assert real["times_reference"].keys() == {bare["name"]} and "ms per step" in real["note"]


def test_a_run_that_fails_says_why(cfg: DictConfig) -> None:
    with pytest.raises(UserError, match="no model `nothing`"):
        runs._train(cfg, torch.device("cpu"), "Milestones, path: PATH", ["model=nothing"])


def test_peak_memory_is_at_least_what_is_held() -> None:
    before = peak_memory()
    held = torch.ones(30_000_000)
    after = peak_memory()
    assert before is not None and after is not None
    assert after >= before and after > held.numel() * 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("repetitions=0", "repetitions must be at least 1"),
        ("sections=[trainning]", "`trainning`; did you mean `training`"),
        ("sections=[]", "sections is empty"),
        ("batch=-1", "batch must be at least 1"),
        ("scaling.window=[64,0]", "scaling.window must be at least 1"),
        ("seconds_per_measurement=0", "seconds_per_measurement must be more than 0"),
        ("threads=0", "threads must be at least 1"),
        ("device=abacus", "no device 'abacus'"),
        ("scoring.strides=[9]", "scoring.strides"),
        ("net.n_heads=3", "n_heads"),
    ],
)
def test_bad_settings(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.benchmark(configured(tmp_path, "device=cpu", override))
    assert not (tmp_path / "benchmark.json").exists()
