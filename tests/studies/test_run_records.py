"""Comparisons of run folders that are there already."""

import json
from pathlib import Path
from typing import Any

import pytest
from compare_folders import config, make_run
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from trm_lightning.errors import UserError
from trm_lightning.studies import comparison
from trm_lightning.studies.entries import Entry
from trm_lightning.studies.run_records import Group, group_folders, read_record


def compared(monkeypatch: pytest.MonkeyPatch, folder: Path, *runs: Path) -> bool:
    cfg = config("name=test")
    cfg.runs = [str(run) for run in runs]
    stored = OmegaConf.create(
        {"runtime": {"output_dir": str(folder)}, "overrides": {"task": ["runs=…"]}}
    )
    monkeypatch.setattr(HydraConfig, "get", lambda: stored)
    return comparison.compare(cfg)


def test_given_runs_become_entries_with_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (make_run(tmp_path / f"a{seed}", seed, (100.0, 110.0)) for seed in (1, 2))
    other = make_run(tmp_path / "other", 1, (80.0, 90.0))
    change_config(other, experiment_name="better")
    half = make_run(tmp_path / "half", 2, (80.0, 90.0), finished=False)
    assert compared(monkeypatch, tmp_path, a, b, other, half) is False
    comparison = json.loads((tmp_path / "comparison.json").read_text())
    found = {entry["name"]: len(entry["runs"]) for entry in comparison["entries"]}
    assert found == {"toy": 2, "better": 1, "half": 1}
    assert comparison["status"] == "unfinished" and comparison["parity"] is None
    assert comparison["entries"][1]["figures"]["best_difference"]["mean"] == -20
    shown = capsys.readouterr().out
    assert "unfinished at step 20" in shown and "80 / 90" in shown
    with pytest.raises(UserError, match="same settings and seed"):
        compared(monkeypatch, tmp_path, a, other, a)
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="name="):
        compared(monkeypatch, tmp_path, a)


@pytest.mark.parametrize(
    ("facts", "said"),
    [({"data_fingerprint": "xyz"}, "text, split or vocabulary"), ({"vocab_size": 51}, "50 and 51")],
)
def test_runs_on_other_data_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], said: str
) -> None:
    a = make_run(tmp_path / "a", 1, (100.0, 110.0))
    b = make_run(tmp_path / "b", 2, (100.0, 110.0), **facts)
    with pytest.raises(UserError, match=f"cannot be compared.*{said}"):
        compared(monkeypatch, tmp_path, a, b)
    assert not (tmp_path / "comparison.json").exists()


def test_folders_without_results_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no results"):
        group_folders([tmp_path / "empty"])
    with pytest.raises(UserError, match="lost does not exist"):
        group_folders([tmp_path / "lost"])


def test_damaged_results_and_unknown_metrics_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1, (100.0, 110.0))
    group = Group(Entry("a", metric="val/pppl"), [read_record(run)])
    with pytest.raises(UserError, match="no score 'val/pppl'; did you mean `val/ppl`"):
        _ = group.metric
    (run / "results.json").write_text('{"final": ')
    with pytest.raises(UserError, match="cannot be read"):
        read_record(run)


def change_config(run: Path, **changes: Any) -> None:
    results = json.loads((run / "results.json").read_text())
    results["config"] |= changes
    (run / "results.json").write_text(json.dumps(results))


def test_runs_of_an_earlier_version_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 1, (100.0, 110.0), format=2)
    with pytest.raises(UserError, match=r"has format 2, which trm_lightning 0\.1\.0 \(commit 6b1"):
        read_record(run)
