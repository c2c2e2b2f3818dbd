"""Training a plan's runs, with a stand-in for training: resume, parallel runs, failures, stops."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compare_folders import CALL, SMALL, config, make_run
from training_stand_in import FINISH, small_plan, stand_in

from trm_lightning.errors import Stopped, UserError, raise_stopped
from trm_lightning.studies.plan import make_plan
from trm_lightning.studies.run_records import read_record
from trm_lightning.studies.training_process import training_command
from trm_lightning.studies.workers import train_all


def test_a_finished_run_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_plan(tmp_path)
    make_run(made.runs[0].folder, 1, (10.0, 9.0), overrides=made.runs[0].overrides)
    started = stand_in(monkeypatch, FINISH)
    assert train_all(made, lambda failures: None) == {}
    assert [run.seed for run in started] == [2]
    train_all(made, lambda failures: None)
    assert len(started) == 1


def test_a_run_goes_on_from_its_checkpoint_or_starts_anew(tmp_path: Path) -> None:
    run = small_plan(tmp_path).runs[0]
    assert training_command(run, [])[3:5] == ["model=ar", "seed=1"]
    make_run(run.folder, 1, (10.0, 9.0), finished=False)
    assert "seed=1" in training_command(run, [])
    assert not run.folder.exists()  # nothing to go on from
    make_run(run.folder, 1, (10.0, 9.0), finished=False)
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints" / "last.ckpt").write_text("weights")
    assert training_command(run, [])[3:] == [f"resume='{run.folder}'"]
    assert (run.folder / "metrics.jsonl").exists()
    logged = replace(run, overrides=["logger.csv.name=x", *run.overrides, "logger=csv"])
    assert training_command(logged, [])[4:] == ["logger=csv", "logger.csv.name=x"]


def test_a_crash_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_plan(tmp_path)
    crash = "import sys\nif '1' in sys.argv[1][-1]: raise RuntimeError('bad luck')\n" + FINISH
    stand_in(monkeypatch, crash)
    failures = train_all(made, lambda failures: None)
    assert list(failures) == [made.runs[0].folder]
    assert failures[made.runs[0].folder].endswith("RuntimeError: bad luck")
    assert read_record(made.runs[0].folder, 1, "bad luck").status == "not started"


def test_a_mistake_before_training_ends_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = stand_in(monkeypatch, "import sys; print('no such text'); sys.exit(2)")
    with pytest.raises(UserError, match="no such text"):
        train_all(small_plan(tmp_path), lambda failures: None)
    assert len(started) == 1


MEET = """
import os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.with_suffix(".started").write_text(os.environ["OMP_NUM_THREADS"])
deadline = time.monotonic() + float(PATIENCE)
while len(list(folder.parent.glob("*.started"))) < 2:
    if time.monotonic() > deadline: sys.exit("alone")
    time.sleep(0.01)
"""


def test_workers_train_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_plan(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    stand_in(monkeypatch, MEET.replace("PATIENCE", "60") + FINISH)
    told: list[dict[Path, str]] = []
    assert train_all(made, told.append, workers=2) == {}
    assert told == [{}, {}]
    marks = list((tmp_path / "runs").glob("*.started"))
    assert [mark.read_text() for mark in marks] == ["3", "3"]


def test_one_worker_trains_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_plan(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    stand_in(monkeypatch, MEET.replace("PATIENCE", "0.5") + FINISH)
    assert train_all(made, lambda failures: None) == {made.runs[0].folder: "alone"}
    assert (tmp_path / "runs" / "ar_seed1.started").read_text() == "5"  # as the user has it


SAVE = """
import signal
def save(*_): folder.with_suffix(".saved").touch(); sys.exit(3)
signal.signal(signal.SIGTERM, save)
folder.with_suffix(".ready").touch()
"""
WAIT = "time.sleep(60); sys.exit('never stopped')"


def test_a_mistake_lets_the_other_worker_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistaken = """
if "1" in folder.name:
    while not list(folder.parent.glob("*.ready")): time.sleep(0.01)
    print("no such text"); sys.exit(2)
"""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stand_in(monkeypatch, MEET.replace("PATIENCE", "60") + mistaken + SAVE + WAIT)
    with pytest.raises(UserError, match="no such text"):
        train_all(small_plan(tmp_path), lambda failures: None, workers=2)
    assert (tmp_path / "runs" / "ar_seed2.saved").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM")
def test_when_stopped_all_workers_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = """
while len(list(folder.parent.glob("*.ready"))) < 2: time.sleep(0.01)
if "1" in folder.name: os.kill(os.getppid(), signal.SIGTERM)
"""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stand_in(monkeypatch, MEET.replace("PATIENCE", "60") + SAVE + stop + WAIT)
    before = signal.signal(signal.SIGTERM, raise_stopped)  # as every command does
    try:
        with pytest.raises(Stopped):
            train_all(small_plan(tmp_path), lambda failures: None, workers=2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(list((tmp_path / "runs").glob("*.saved"))) == 2
    assert "goes on from here" in capsys.readouterr().err


def test_training_that_fails_is_no_mistake_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_plan(tmp_path)
    killed = "import os, sys; print('audit passed', flush=True); os.kill(os.getpid(), 9)"
    stand_in(monkeypatch, killed)
    failures = train_all(made, lambda failures: None)
    assert list(failures.values()) == ["audit passed\nkilled by SIGKILL"] * 2


@pytest.mark.slow
def test_a_loss_that_became_nan_is_told(tmp_path: Path) -> None:
    diverging = [*SMALL, "model=ar", "optimizer.lr=1e30", "optimizer.matrix_lr=1e30"]
    cfg = config("seeds=1", "models=[ar]", "budget.steps=30")
    diverged = make_plan(cfg, tmp_path / "nan", diverging, CALL)
    (said,) = train_all(diverged, lambda failures: None).values()
    assert "The loss became nan at optimizer step" in said


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_training_that_goes_on_alone_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    made = small_plan(tmp_path)
    started = stand_in(monkeypatch, FINISH)
    first = made.runs[0].folder
    first.parent.mkdir()
    lock = first.with_name(f"{first.name}.log").open("ab")
    fcntl.flock(lock, fcntl.LOCK_EX)

    def end_the_other(failures: dict[Path, str]) -> None:
        if not first.exists():  # the other run has ended; the worker was not held up
            make_run(first, 1, (10.0, 9.0), overrides=made.runs[0].overrides)
            lock.close()

    assert train_all(made, end_the_other, workers=2) == {}
    assert [run.seed for run in started] == [2]
    assert "ar_seed1 is trained by another process" in capsys.readouterr().err
