"""Mistakes in a call: one screen, exit status 2, and no run folder."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_toy import Run, call, runs, write_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param(["modle=large"], "did you mean `model`?", id="unknown key"),
        pytest.param(["model.wdith=3"], "did you mean `model.width`?", id="unknown nested key"),
        pytest.param(["width=3"], "did you mean `model.width`?", id="key without its group"),
        pytest.param(["~sede"], "did you mean `seed`?", id="unknown key deleted"),
        pytest.param(["model.norm=post"], "set with +key=value", id="parameter not in the config"),
        pytest.param(["model=lagre"], "did you mean `large`?", id="unknown choice"),
        pytest.param(["seed"], "cannot read the override `seed`", id="no value"),
        pytest.param(["seed=1,2"], "--multirun", id="several values to one run"),
        pytest.param(["--config-name=tyo"], "did you mean `toy`?", id="unknown config"),
        pytest.param(["--config-dir=nowhere"], "--config-dir=nowhere: there is no", id="no folder"),
        pytest.param(["+model.widht=3"], "did you mean `width`?", id="added key"),
        pytest.param(["model.width=wide"], "model.width should be int, not 'wide'", id="type"),
        pytest.param(["budget.steps=1.5"], "budget.steps should be int or null", id="nested type"),
        pytest.param(["experiment=typo"], "did you mean `seed`?", id="unknown key in YAML"),
        pytest.param(["experiment=broken"], "broken.yaml", id="invalid YAML"),
        pytest.param(["model=open"], "model.width must be given", id="no mandatory value"),
        pytest.param(["experiment=lost"], "'sead' not found", id="lost interpolation"),
        pytest.param(["experiment=target"], "toy has no `Modle`; did you mean `Model`", id="class"),
        pytest.param(["hydra.run.dir=${sead}"], "hydra.run.dir:", id="folder's name"),
        pytest.param(["modle=a,b", "-m"], "did you mean `model`?", id="sweep over unknown key"),
        pytest.param(["model=small,lagre", "-m"], "did you mean `large`?", id="choice in sweep"),
        pytest.param(["seed=1,x", "-m"], "seed should be int, not 'x'", id="type in sweep"),
        pytest.param(["resume=nowhere"], "there is no such run folder", id="no run to resume"),
        pytest.param(["resume=auto", "seed=1,2", "-m"], "--multirun", id="resumed sweep"),
    ],
)
def test_mistake_is_told_and_leaves_nothing(project: Path, args: list[str], expected: str) -> None:
    result = call(project, *args)
    assert result.returncode == 2, result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) < 20
    assert result.stdout == ""
    assert not (project / "outputs").exists()


def test_all_problems_are_told_at_once(project: Path) -> None:
    result = call(project, "experiment=typo", "budget.epochs=many", "+model.norm=mid")
    for expected in ("model.widht", "sede", "budget.epochs", "one of 'pre', 'post'", "4 problems"):
        assert expected in result.stderr


def test_help_tells_choices_examples_settings_and_place(project: Path) -> None:
    result = call(project, "--help", "model=large")
    assert result.returncode == 0, result.stderr
    for expected in (
        "Do what `act` says, in two lines.",
        "-m trm_lightning.toy model=large",
        "model=large* | open | small",
        "budget.steps=10",
        "outputs/",
    ):
        assert expected in result.stdout
    assert not runs(project)


def test_hydras_own_screens_are_reached(project: Path, run: Run) -> None:
    shown = run(project, "--cfg", "job", "model=large")
    assert shown.returncode == 0 and "width: 64" in shown.stdout
    assert "Config search path" in run(project, "--info", "searchpath").stdout
    completed = run(project, "-sc", "query=bash", COMP_LINE="trm-toy model=")
    assert completed.stdout.split() == ["model=large", "model=open", "model=small"]
    assert not runs(project)


def test_own_config_folder_adds_choices(project: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("{_target_: toy.Model, width: 5}")
    mine = ["--config-dir", str(tmp_path)]
    assert "large | mine | open | small*" in call(project, *mine, "--help").stdout
    result = run(project, *mine, "model=mine", f"hydra.run.dir={tmp_path}/run")
    assert "width=5" in result.stdout, result.stderr


def test_start_does_not_wait_for_torch() -> None:
    code = "import sys, trm_lightning.cli; print({'torch', 'lightning'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr
