"""Slurm warns a job before it ends it: the run saves its state, the job is requeued and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import slurm_stand_in as slurm
import torch
from conftest import SHORT_PLAY, TINY

from trm_lightning.cli.requeue import requeue_after
from trm_lightning.errors import Stopped
from trm_lightning.runs.checkpoint_file import read_checkpoint

STEPS = 200
SETTINGS = (
    *(word for word in TINY if not word.startswith("budget")), *SHORT_PLAY,
    f"budget={{steps:{STEPS},tokens:null,epochs:null,seconds:null}}", "model.dropout=0.1",
    "model=ar", "audit=false", "checkpoint_every=20", "eval_every=40",
)  # fmt: skip


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    env = slurm.install(tmp_path / "slurm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    return env


def requeued(env: dict[str, str]) -> list[str]:
    return sorted(file.stem for file in Path(env["STAND_IN"]).glob("*.requeue"))


def test_a_warning_requeues_the_job(
    stand_in: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert requeue_after(Stopped(signal.SIGUSR1)) == ""  # no job
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert requeue_after(Stopped(signal.SIGTERM)) == requeue_after(KeyboardInterrupt()) == ""
    assert requeued(stand_in) == []
    assert "job 7 is back" in requeue_after(Stopped(signal.SIGUSR1))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    requeue_after(Stopped(signal.SIGUSR2))
    assert requeued(stand_in) == ["5_2", "7"]


def test_a_queue_that_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stand_in: dict[str, str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "could not be requeued" in requeue_after(Stopped(signal.SIGUSR1))


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    state: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return state


def assert_as_undisturbed(run: Path, folder: Path) -> None:
    """Compare a run's weights and log with those of a run that nothing stopped."""
    straight = folder / "straight"
    done = subprocess.run(
        [sys.executable, "-m", "trm_lightning.train", *SETTINGS, f"hydra.run.dir={straight}"],
        cwd=folder, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wanted, got = weights(straight), weights(run)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[key], got[key]) for key in wanted)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    trained = [line["step"] for line in lines if "train/nats_per_token" in line]
    assert trained == list(range(1, STEPS + 1))


def environment() -> dict[str, str]:
    path = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def wait_for_checkpoint(folder: Path, pattern: str) -> Path:
    """Return the first run that has saved something."""
    end = time.monotonic() + 200
    while not (found := list(folder.glob(f"{pattern}/checkpoints/last.ckpt"))):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found[0].parents[1]


@pytest.mark.slow
def test_a_batch_script_goes_on_after_a_warning(tmp_path: Path, stand_in: dict[str, str]) -> None:
    words = " ".join(f"'{word}'" for word in (*SETTINGS, "hydra.run.dir=run", "resume=auto"))
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\nsrun {sys.executable} -m trm_lightning.train {words}\n")
    subprocess.run(["sbatch", script], cwd=tmp_path, env=environment(), check=True)
    run = wait_for_checkpoint(tmp_path, "run")
    slurm.signal_job(stand_in, 1, signal.SIGUSR1)
    slurm.wait_for(stand_in, 1, "COMPLETED")
    assert slurm.starts(stand_in, 1) == 2
    said = (Path(stand_in["STAND_IN"]) / "1.out").read_text()
    assert "Slurm job 1 is back in the queue" in said and "resume=auto continues run" in said
    assert_as_undisturbed(run, tmp_path)


@pytest.mark.slow
def test_a_job_of_a_sweep_goes_on_after_a_warning(tmp_path: Path, stand_in: dict[str, str]) -> None:
    """By submitit, which puts its own job back."""
    sweep = subprocess.Popen(
        [sys.executable, "-m", "trm_lightning.train", "--multirun", "launcher=slurm",
         "hydra.launcher.gpus_per_node=0", *SETTINGS, "seed=1337"],
        cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    run = wait_for_checkpoint(tmp_path / "outputs" / "sweeps", "*/*/*")
    slurm.signal_job(stand_in, 1, signal.SIGUSR2)
    out, err = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, out + err
    assert "1 of 1 jobs completed" in out
    assert slurm.starts(stand_in, 1) == 2
    assert_as_undisturbed(run, tmp_path)
