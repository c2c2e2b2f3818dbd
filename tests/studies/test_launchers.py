"""Runs of comparisons and searches by every launcher, shared by processes, killed and requeued."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import slurm_stand_in as slurm
import torch
from conftest import SHORT_PLAY, TINY

from trm_lightning.runs.checkpoint_file import read_checkpoint

pytestmark = pytest.mark.slow
LAUNCHERS = ["local", "joblib", "slurm_local", "slurm", *(["ray"] if find_spec("ray") else [])]
SETTINGS = (
    *(word for word in TINY if not word.startswith("budget")), *SHORT_PLAY,
    "models=[ar]", "seeds=2", "checkpoint_every=20", "eval_every=40", "audit=false",
    "model.dropout=0.1",
)  # fmt: skip


def command(name: str, launcher: str, steps: int, *more: str) -> list[str]:
    words = (f"name={name}", f"launcher={launcher}", f"budget.steps={steps}", *SETTINGS, *more)
    if launcher == "slurm":
        words = (*words, "hydra.launcher.gpus_per_node=0")
    return [sys.executable, "-m", "trm_lightning.compare", *words]


def environment(**more: str) -> dict[str, str]:
    path = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


def runs(folder: Path, name: str) -> dict[str, Path]:
    found = (folder / "outputs" / "comparisons" / name / "runs").glob("*/results.json")
    return {file.parent.name: file.parent for file in found}


def weights(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(run / "checkpoints" / "last.ckpt")
    state: dict[str, torch.Tensor] = checkpoint["state_dict"]
    return state


def assert_equal_runs(some: Mapping[str, Path], others: Mapping[str, Path]) -> None:
    """Compare weights and scores bit for bit."""
    assert some.keys() == others.keys() and len(some) == 2
    for name, run in some.items():
        wanted, got = weights(run), weights(others[name])
        assert wanted.keys() == got.keys()
        assert all(torch.equal(wanted[key], got[key]) for key in wanted)
        one, other = (json.loads((r / "results.json").read_text()) for r in (run, others[name]))
        assert one["final"] == other["final"] and one["test"] == other["test"]


def test_every_launcher_trains_the_same_runs(tmp_path: Path) -> None:
    env = environment(**slurm.install(tmp_path / "slurm"))
    for launcher in LAUNCHERS:
        done = subprocess.run(
            command(launcher, launcher, 8), cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert_equal_runs(runs(tmp_path, "local"), runs(tmp_path, launcher))


def test_every_launcher_trains_the_trials_of_a_search(tmp_path: Path) -> None:
    """One at a time they are the same trials with the same scores; two at a time none is lost."""
    env = environment(**slurm.install(tmp_path / "slurm"))
    found = {}
    for name, launcher, workers in (*((x, x, 1) for x in LAUNCHERS), ("two", "slurm_local", 2)):
        words = [
            sys.executable, "-m", "trm_lightning.tune", f"name={name}", "trials=3", "model=ar",
            "space=[{key:optimizer.lr,low:1e-4,high:1e-1,log:true}]", "prune=false", "audit=false",
            f"workers={workers}", f"launcher={launcher}", "budget.steps=8", *SHORT_PLAY,
            *(word for word in TINY if not word.startswith("budget")),
            *(["hydra.launcher.gpus_per_node=0"] if launcher == "slurm" else []),
            *(["hydra.launcher.n_jobs=1"] if launcher == "joblib" else []),
        ]  # fmt: skip
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        text = (tmp_path / "outputs" / "searches" / name / "search.json").read_text()
        found[name] = [(t["settings"], t["nats_per_token"]) for t in json.loads(text)["trials"]]
        assert len(found[name]) == 3 and all(value for _, value in found[name])
    assert all(found[launcher] == found["local"] for launcher in LAUNCHERS)


@pytest.fixture
def long_runs(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """What an undisturbed comparison of 200 steps leaves."""
    done = subprocess.run(
        command("straight", "local", 200), cwd=tmp_path, env=environment(), capture_output=True
    )
    assert done.returncode == 0
    yield runs(tmp_path, "straight")


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "last.ckpt").is_file():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_two_processes_share_a_comparison_and_a_killed_one_loses_nothing(
    tmp_path: Path, long_runs: dict[str, Path]
) -> None:
    """The first is killed with all that it started; the second, at the other run, does the rest."""
    shared = tmp_path / "outputs" / "comparisons" / "shared" / "runs"
    words = command("shared", "local", 200)
    first = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), start_new_session=True, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_checkpoint(shared / "ar_seed1337", first)
    second = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for_checkpoint(shared / "ar_seed1338", second)
    at_first = not (shared / "ar_seed1337" / "results.json").is_file()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    said = second.communicate(timeout=600)[1]
    assert second.returncode == 0, said
    assert not at_first or "ar_seed1337 is trained by another process" in said
    assert_equal_runs(long_runs, runs(tmp_path, "shared"))
    for run in runs(tmp_path, "shared").values():
        lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        trained = [line["step"] for line in lines if "train/nats_per_token" in line]
        assert trained == list(range(1, 201))  # nothing twice, nothing left out


def test_a_requeued_job_goes_on(tmp_path: Path, long_runs: dict[str, Path]) -> None:
    """Slurm warns the first run's job: it saves, is requeued, and ends as if undisturbed."""
    env = environment(**slurm.install(tmp_path / "slurm"))
    comparison = subprocess.Popen(
        command("requeued", "slurm", 200), cwd=tmp_path, env=env, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    run = tmp_path / "outputs" / "comparisons" / "requeued" / "runs" / "ar_seed1337"
    wait_for_checkpoint(run, comparison)
    slurm.signal_job(env, 1, signal.SIGUSR2)
    said = comparison.communicate(timeout=600)[1]
    assert comparison.returncode == 0, said
    assert (slurm.starts(env, 1), slurm.starts(env, 2)) == (2, 1)
    assert_equal_runs(long_runs, runs(tmp_path, "requeued"))
