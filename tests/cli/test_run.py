"""Run folders, exit statuses, what is kept of a failure, and resuming."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_toy import REPOSITORY, Run, call, runs, write_project
from omegaconf import OmegaConf
from warm import run_cold

from trm_lightning.cli.job import signal_behind
from trm_lightning.cli.sweep import SweepTable
from trm_lightning.errors import Stopped


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    folder = write_project(tmp_path_factory.mktemp("made"))
    assert run(folder, "seed=5", "act=checkpoint").returncode == 0
    return folder


@pytest.fixture
def stopped(made: Path, tmp_path: Path) -> Path:
    """A project with a run of `seed=5 act=checkpoint` that has not ended."""
    return Path(shutil.copytree(made, tmp_path / "stopped"))


def test_runs_of_one_second_have_folders_of_their_own(project: Path, run: Run) -> None:
    for _ in range(2):
        result = run(project, "hydra.run.dir=outputs/fixed-second_${run_id:}")
        assert result.returncode == 0, result.stderr
        assert "seed=0 context=3 width=4 resume=None" in result.stdout
    assert len(runs(project)) == 2


def test_default_folder_is_named_by_date_and_experiment(project: Path, run: Run) -> None:
    run(project, "model=large", "experiment_name=a/b c")
    (folder,) = runs(project)
    date, name = folder.relative_to(project / "outputs").parts
    assert len(date) == 10 and name.split("_")[1] == "a-b-c"
    assert (folder / "toy.log").is_file()


def test_exception_is_kept_and_shown(project: Path, run: Run) -> None:
    result = run(project, "act=crash")
    (folder,) = runs(project)
    assert result.returncode == 1
    for text in (result.stderr, (folder / "error.txt").read_text()):
        assert "RuntimeError: bad luck" in text
    assert str(folder / "error.txt") in result.stderr


def test_late_mistake_removes_the_folder_made_for_it(project: Path, run: Run) -> None:
    result = run(project, "model.width=666")  # raised by a constructor, inside instantiate
    assert result.returncode == 2
    assert "width=666 is cursed" in result.stderr and "Choose another." in result.stderr
    assert "Traceback" not in result.stderr
    assert list((project / "outputs").iterdir()) == []


def test_late_mistake_keeps_checkpoints_and_folders_of_others(project: Path, run: Run) -> None:
    assert run(project, "act=checkpoint_and_mistake").returncode == 2
    assert len(runs(project)) == 1
    (project / "mine").mkdir()
    (project / "mine" / "notes.txt").write_text("dear")
    assert run(project, "model.width=666", "hydra.run.dir=mine").returncode == 2
    assert (project / "mine" / "notes.txt").read_text() == "dear"


@pytest.mark.parametrize("act", ["interrupt", "interrupt_in_lightning"])
def test_interrupt_is_one_line(project: Path, act: str, run: Run) -> None:
    result = run(project, f"act={act}")
    assert result.returncode == 130
    assert result.stderr.strip() == "Interrupted"


def test_sweep_goes_on_after_a_failure(project: Path, run: Run) -> None:
    result = run(project, "act=crash,nothing,checkpoint", "model.width=8", "seed=3", "-m")
    assert result.returncode == 1
    assert "2 of 3 jobs completed" in result.stdout
    folders = runs(project)
    names = [folder.name for folder in folders]
    assert names == ["0_act=crash", "1_act=nothing", "2_act=checkpoint"]
    status = [json.loads((folder / "status.json").read_text()) for folder in folders]
    assert [job["status"] for job in status] == ["failed", "completed", "completed"]
    assert [job["value"] for job in status] == [None, 3.0, 3.0]
    assert "bad luck" in (folders[0] / "error.txt").read_text()
    table = [line for line in result.stdout.splitlines() if "act=crash" in line][-1]
    assert "failed" in table and "bad luck" in table and "seed=3" not in table


def test_sweep_that_completes_exits_with_0_and_jobs_leak_nothing(project: Path, run: Run) -> None:
    result = run(project, "seed=1,2", "hydra.sweeper.max_batch_size=1", "-m")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("PL_GLOBAL_SEED=None") == 2  # each job sets it to 17


@pytest.mark.parametrize(
    "launcher",
    ["joblib", *(pytest.param(name, marks=pytest.mark.slow) for name in ("submitit_local", "ray"))],
)
def test_sweeps_by_other_launchers_share_one_folder(project: Path, launcher: str) -> None:
    """In processes of their own, which must not make folders by their own clocks and ids."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    fail = "act=crash" if launcher == "joblib" else "act=nothing"
    words = ("--config-path", "conf", f"hydra/launcher={launcher}", "seed=1,2", fail, "-m")
    path = {"PYTHONPATH": f"{project}:{REPOSITORY}"}
    result = run_cold("toy", *words, folder=project, env=path)
    assert result.returncode == (launcher == "joblib"), result.stderr
    (sweep,) = (project / "outputs" / "sweeps").glob("*/*")
    assert len(list(sweep.glob("*/status.json"))) == 2
    assert f"{0 if launcher == 'joblib' else 2} of 2 jobs completed" in result.stdout


def test_a_sweep_that_ran_nothing_has_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    with pytest.raises(SystemExit) as stop:
        SweepTable().on_multirun_end(config)
    assert stop.value.code == 1
    said = capsys.readouterr()
    assert "0 of 0 jobs" in said.out and "has not run any" in said.err


def test_sweep_refuses_several_devices(project: Path, run: Run) -> None:
    result = run(project, "seed=1,2", "trainer.devices=2", "-m")
    assert result.returncode == 1
    assert result.stderr.count("Set trainer.devices=1") == 2


def test_resume_goes_on_in_place_with_stored_and_new_overrides(project: Path, run: Run) -> None:
    run(project, "model=large", "seed=5", "act=checkpoint")
    (folder,) = runs(project)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    for place in (folder.relative_to(project), checkpoint):
        result = run(project, f"resume={place}", "act=nothing", "trust=toy")
        assert f"seed=5 context=63 width=64 resume={checkpoint}" in result.stdout, result.stderr
    assert runs(project) == [folder]


def test_mistake_in_a_resumption_is_not_stored(stopped: Path, run: Run) -> None:
    (folder,) = runs(stopped)
    stored = (folder / ".hydra" / "overrides.yaml").read_text()
    result = run(stopped, f"resume={folder}", "model.width=666", "trust=toy")
    assert result.returncode == 2 and "is cursed" in result.stderr
    assert (folder / ".hydra" / "overrides.yaml").read_text() == stored
    assert (folder / "checkpoints" / "last.ckpt").is_file()


def test_resume_keeps_group_given_again(project: Path, run: Run) -> None:
    run(project, "model=large", "act=checkpoint")
    (folder,) = runs(project)
    result = run(project, f"resume={folder}", "model=small", "trust=[toy]")
    assert "width=4" in result.stdout, result.stderr


def test_resume_needs_no_config_of_the_run_but_trust_in_its_classes(
    project: Path, run: Run
) -> None:
    (project / "mine" / "model").mkdir(parents=True)
    (project / "mine" / "model" / "mine.yaml").write_text("{_target_: toy.Model, width: 5}")
    run(project, "--config-dir", "mine", "model=mine", "act=checkpoint")
    (folder,) = runs(project)
    for refused in ([], ["trust=other"], ["trust=to"]):
        result = call(project, f"resume={folder}", *refused)
        assert result.returncode == 2 and "width" not in result.stdout
        assert "model is toy.Model, which is not of trm_lightning" in result.stderr
        assert "trust=toy" in result.stderr
    for trusted in (["trust=toy"], ["--config-dir", "mine"]):
        result = run(project, f"resume={folder}", *trusted)
        assert "width=5" in result.stdout, result.stderr


def test_resume_goes_on_with_the_stored_config_when_conf_has_changed(
    stopped: Path, run: Run
) -> None:
    (folder,) = runs(stopped)
    (stopped / "conf/model/small.yaml").write_text("{_target_: toy.Model, width: 9}")
    result = run(stopped, f"resume={folder}", "trust=toy")
    assert "seed=5 context=3 width=4" in result.stdout, result.stderr
    assert "model.width=4 (9 in conf/)" in result.stderr
    (stopped / "conf/model/small.yaml").unlink()  # and so would every new run
    (stopped / "conf/toy.yaml").write_text(
        (stopped / "conf/toy.yaml").read_text().replace("model: small", "model: large")
    )
    assert "width=4" in run(stopped, f"resume={folder}", "trust=toy").stdout


def test_resume_refuses_what_the_run_has_not(stopped: Path) -> None:
    (folder,) = runs(stopped)
    for override in ("sede=7", "model.widht=3", "experiment=typo", "~model.nothing"):
        result = call(stopped, f"resume={folder}", "trust=toy", override)
        assert result.returncode == 2 and override in result.stderr
        assert "Traceback" not in result.stderr and "seed=" not in result.stdout


def test_a_kill_while_hydra_starts_leaves_the_run_resumable(stopped: Path, run: Run) -> None:
    """Hydra used to rewrite .hydra/*.yaml in place: a kill left them empty."""
    (folder,) = runs(stopped)
    before = {file: file.read_bytes() for file in (folder / ".hydra").iterdir()}
    assert run(stopped, f"resume={folder}", "seed=6", "trust=toy").returncode == 0
    assert {file: file.read_bytes() for file in (folder / ".hydra").iterdir()} == before
    for file in before:
        file.write_text("")
    result = run(stopped, f"resume={folder}", "trust=toy")
    assert "seed=6" in result.stdout and result.returncode == 0, result.stderr


def test_resume_without_checkpoint_says_so(project: Path, run: Run) -> None:
    run(project)
    (folder,) = runs(project)
    result = run(project, f"resume={folder}")
    assert result.returncode == 2
    assert "has no checkpoints/last.ckpt" in result.stderr


def test_resume_auto_takes_the_unfinished_run_with_equal_overrides(stopped: Path, run: Run) -> None:
    (folder,) = runs(stopped)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    same = run(stopped, "act=checkpoint", "seed=5", "resume=auto", "trust=toy")
    assert f"resume={checkpoint}" in same.stdout, same.stderr
    assert "resume=None" in run(stopped, "seed=6", "act=checkpoint", "resume=auto").stdout
    assert len(runs(stopped)) == 2
    (folder / "results.json").write_text("{}")
    assert "resume=None" in run(stopped, "seed=5", "act=checkpoint", "resume=auto").stdout
    assert len(runs(stopped)) == 3


def test_second_process_of_a_launch_stays_silent(project: Path) -> None:
    """As Lightning starts it: the same command with LOCAL_RANK set and the first one's folder."""
    (project / "first").mkdir()
    extra = ['hydra.run.dir="first"', "hydra.job.name=train_ddp_process_1"]
    words = ("--config-path", "conf", "model.width=666", *extra, "hydra.output_subdir=null")
    result = run_cold("toy", *words, folder=project, env={"LOCAL_RANK": "1"})
    assert result.returncode == 2
    assert result.stderr == ""
    assert (project / "first").is_dir() and not (project / "outputs").exists()


def test_ranks_of_torchrun_share_a_folder(project: Path, run: Run) -> None:
    shared = {
        "TORCHELASTIC_RUN_ID": "job7",
        "MASTER_ADDR": "node0",
        "MASTER_PORT": "29500",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
    }
    for rank in "01":
        result = run(project, RANK=rank, LOCAL_RANK="0", **shared)
        assert result.returncode == 0, result.stderr
    (folder,) = runs(project)
    assert (folder / "toy_rank1.log").is_file()


def test_a_reader_who_leaves_early_gets_no_stack_trace(tmp_path: Path) -> None:
    write_project(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    call = [sys.executable, "-m", "toy", "--config-path", "conf", "--help"]
    done = subprocess.run(call, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.stderr, done.returncode) == ("", 141)


def test_a_signal_hidden_by_what_failed_in_its_wake_is_found() -> None:
    def fail_in_cleanup() -> None:
        try:
            raise Stopped(15)
        finally:
            raise KeyError("half-made")

    with pytest.raises(KeyError) as hidden:
        fail_in_cleanup()
    found = signal_behind(hidden.value)
    assert found is not None and found.number == 15
    assert signal_behind(KeyError("alone")) is None
