"""What is measured of trained runs, against what the runs themselves say."""

import json
import math
import threading
import time
from pathlib import Path

import pytest
import torch
from compare_folders import SMALL
from conftest import SHORT_PLAY, Configure
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure

from trm_lightning.analysis.puzzles import by_depth, by_threshold
from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import conf_dir
from trm_lightning.errors import UserError
from trm_lightning.models import AR, LanguageModel
from trm_lightning.reports.colors import series_styles
from trm_lightning.reports.studies import study_section
from trm_lightning.runs.load import load_run, open_data
from trm_lightning.studies import measures, probes
from trm_lightning.studies.entries import Entry
from trm_lightning.studies.measures import MEASURES, measure_all, measured
from trm_lightning.studies.probes import (
    EXIT_CHANGES,
    OFFSETS,
    LinearProbe,
    depth_probe,
    exits,
    memory,
    readout,
    solved,
)
from trm_lightning.studies.run_records import Group, read_record
from trm_lightning.studies.study_table import study_parts
from trm_lightning.training.fit import train


def test_a_probe_reads_what_is_there_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(6000, 8, generator=random)
    there = (features @ torch.randn(8, 5, generator=random)).argmax(1)
    chance = torch.randint(5, (6000,), generator=random)
    monkeypatch.setattr(probes, "LEAST_STEPS", 1500)
    nats, accuracy = LinearProbe(features[:5000], there[:5000], 5, 0).score(
        features[5000:], there[5000:]
    )
    assert accuracy > 0.95 and nats < 0.25
    nats, accuracy = LinearProbe(features[:5000], chance[:5000], 5, 0).score(
        features[5000:], chance[5000:]
    )
    assert abs(accuracy - 0.2) < 0.05 and nats > math.log(5) - 0.01


@pytest.fixture(autouse=True)
def few_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure on less text than a study does."""
    monkeypatch.setattr(probes, "N_TRAIN", 8000)
    monkeypatch.setattr(probes, "LEAST_STEPS", 200)


def trained_run(folder: Path, *words: str) -> Path:
    """Train a run of a few steps in a new folder."""
    resolvers.register()
    folder.mkdir()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = compose("train", [f"run_dir={folder}", "experiment_name=x", "progress=false", *words])
    train(cfg)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of AR and one of TRM with a halting head."""
    root = tmp_path_factory.mktemp("measured")
    common = [
        "data=builtin_char", *SMALL, *SHORT_PLAY, "data.corpus.train_words=1500", "eval_every=30",
        "budget={steps:30,tokens:null,epochs:null,seconds:null}",
    ]  # fmt: skip
    trained_run(root / "ar", *common, "model=ar")
    halting = ["model=trm", "model.n_recursions=2", "model.halt_loss_weight=0.5"]
    trained_run(root / "trm", *common, *halting)
    return root


def nats_of(folder: Path) -> float:
    return float(
        json.loads((folder / "results.json").read_text())["final"]["val/ppl"]["nats_per_token"]
    )


def test_memory_scores_as_the_run_did(trained: Path) -> None:
    found = memory(load_run(trained / "ar"))
    assert found["held_out"] == pytest.approx(nats_of(trained / "ar"), abs=0.05)
    assert found["score"] == "ppl" and found["trained_text"] > 0


def test_the_readout_stands_beside_held_out_text(trained: Path) -> None:
    found = readout(load_run(trained / "ar"))
    for head in ("own_head", "fresh_head"):
        assert all(0 < found[head][part] < math.log(70) for part in ("training_tenth", "held_out"))
    # Positions at the ends of windows are left out, so it is close and not equal.
    assert found["own_head"]["held_out"] == pytest.approx(nats_of(trained / "ar"), abs=0.1)


def test_states_of_training_text_are_of_what_the_run_was_trained_on(trained: Path) -> None:
    run = load_run(trained / "ar")
    run.config.data.train_tokens = 300
    data = open_data(run)
    found = probes.collect(run.model, data, "train", 2000, False).targets
    triples = zip(
        *(found[what].tolist() for what in sorted(OFFSETS, key=OFFSETS.__getitem__)), strict=True
    )
    ids = data.splits["train"].tokens[:300].tolist()
    assert {*triples} <= {*zip(ids, ids[1:], ids[2:], strict=False)}


def test_every_state_of_every_pass_is_probed(trained: Path) -> None:
    found = depth_probe(load_run(trained / "trm"))
    read = [(r["symbol"], r["refinement"], r["recursion"]) for r in found["readings"]]
    assert [r for r in read if r[0] == "y"] == [("y", 1, 2), ("y", 2, 2)]
    assert [r for r in read if r[0] == "z"] == [("z", t, n) for t in (1, 2) for n in (1, 2)]
    assert sorted({r["pass"] for r in found["readings"]}) == [1, 2, 3, 4, 5, 6]
    for reading in found["readings"]:
        for score in reading["scores"].values():
            assert 0 < score["nats"] < math.log(70) and 0 <= score["accuracy"] <= 1


def test_exits_lie_on_the_curve_of_fixed_depths_at_its_ends(trained: Path) -> None:
    found = exits(load_run(trained / "trm"))
    assert found["rule"] == "a learned head"
    assert [point["depth"] for point in found["fixed"]] == [1.0, 2.0]
    assert found["fixed"][-1]["nats"] == pytest.approx(nats_of(trained / "trm"), abs=0.05)
    assert all(1 <= point["depth"] <= 2 for point in found["early"])


@pytest.fixture(scope="module")
def puzzle_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of TRM on small puzzles, trained with a depth of 4."""
    return trained_run(
        tmp_path_factory.mktemp("puzzles") / "trm",
        "data=parity", "data.corpus.train=60", "data.corpus.val=40", "data.corpus.test=40",
        "data.corpus.test_length=8", "data.corpus.train_length=6", "data.puzzle_size=8",
        "data.columns=8", "data.window_size=16", "model=trm", "model.width=16",
        "model.n_refinements=2", "optimizer=adamw", "logger=none", "eval_every=60",
        "budget={steps:120,tokens:null,epochs:null,seconds:null}",
    )  # fmt: skip


def test_puzzles_are_scored_over_depth_and_a_depth_is_chosen_on_val(puzzle_run: Path) -> None:
    run = load_run(puzzle_run)
    found = solved(run)
    assert [point["depth"] for point in found["curve"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert found["trained"] == found["curve"][3]
    told = json.loads((puzzle_run / "results.json").read_text())["test"]["test/solved"]
    assert found["trained"]["percent"] == pytest.approx(100 * told["solved"])
    val = [row["solved"] for row in by_depth(run.model, open_data(run), "val", 8)]
    chosen = next(i for i in range(8) if val[i] == max(val))  # the shallowest of the best
    assert found["chosen"] == found["curve"][chosen]
    # Halting: the threshold chosen on val, scored on test.
    rows = {s: by_threshold(run.model, open_data(run), s, EXIT_CHANGES) for s in ("val", "test")}
    solved_most = max(row["solved"] for row in rows["val"])
    least = min(
        (row["mean_depth"], i) for i, row in enumerate(rows["val"]) if row["solved"] == solved_most
    )[1]
    test = rows["test"][least]
    assert found["halting"] == {"depth": test["mean_depth"], "percent": 100 * test["solved"]}
    assert found["rule"] == "a fixed point"


def test_text_has_no_puzzles_to_solve(trained: Path) -> None:
    with pytest.raises(UserError, match="measure=solved is of puzzles"):
        solved(load_run(trained / "ar"))


@pytest.mark.parametrize("name", MEASURES)
def test_a_measurement_is_taken_once_and_told(trained: Path, puzzle_run: Path, name: str) -> None:
    folder = puzzle_run if name == "solved" else trained / "trm"
    measure_all(name, [folder], [], progress=False)
    before = (folder / f"{name}.json").stat().st_mtime_ns
    measure_all(name, [folder], [], progress=False)
    assert (folder / f"{name}.json").stat().st_mtime_ns == before
    group = Group(Entry("trm", series="trm", at=1), [read_record(folder)])
    study = {"kind": name, **measured(name, [group], "size")}
    assert len(study["verdict"]) == (2 if name == "memory" else 1)
    assert "| trm" in "\n".join(study_parts(study))
    section = study_section(study, series_styles({"trm": "trm"}))
    [picture] = section.pictures
    assert isinstance(picture.source, Figure)
    picture.source.draw_without_rendering()
    if name != "memory":
        (folder / f"{name}.json").write_text("{}")
        with pytest.raises(UserError, match="Delete it"):
            measured(name, [group], "size")
        (folder / f"{name}.json").unlink()


def test_two_that_measure_share_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / f"run_{i}" for i in range(6)]
    for folder in folders:
        folder.mkdir()
    at = []

    def slow(folder: Path) -> dict[str, str]:
        at.append((threading.current_thread().name, folder))
        time.sleep(0.2)
        return {"by": threading.current_thread().name}

    monkeypatch.setitem(MEASURES, "memory", slow)
    monkeypatch.setattr(measures, "load_run", lambda folder, trust: folder)
    threads = [
        threading.Thread(target=measure_all, args=("memory", folders, [], False), name=name)
        for name in ("one", "other")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folder for _, folder in at) == folders  # each once
    assert {name for name, _ in at} == {"one", "other"}
    for name, folder in at:  # each had its result when the last thread came back
        assert json.loads((folder / "memory.json").read_text())["by"] == name


def test_a_model_without_states_is_refused(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configure("model=ar")
    train(cfg)
    monkeypatch.setattr(AR, "trace", LanguageModel.trace)
    with pytest.raises(UserError, match="no states"):
        readout(load_run(cfg.run_dir))
