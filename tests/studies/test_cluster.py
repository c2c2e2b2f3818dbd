"""Runs as jobs of a cluster, with stand-ins for submitit and for training."""

import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from compare_folders import make_run
from omegaconf import OmegaConf
from training_stand_in import FINISH, small_plan, stand_in

from trm_lightning.errors import UserError
from trm_lightning.studies.cluster import Cluster, cluster_of, workers_of
from trm_lightning.studies.training_process import TrainingJob
from trm_lightning.studies.workers import train_all

PLUGIN = "hydra_plugins.hydra_{}_launcher.launcher.{}"


class InThreads:
    """Runs jobs as submitit's executor does, in threads of this process."""

    def __init__(self, before: Callable[[Any], None] = lambda job: None) -> None:
        self.names: list[str] = []
        self._before = before
        self._pool = ThreadPoolExecutor(2)

    def update_parameters(self, name: str) -> None:
        self.names.append(name)

    def submit(self, job: Any) -> "Future[int]":
        def called() -> int:
            self._before(job)
            return int(job())

        return self._pool.submit(called)


def cluster(executor: InThreads) -> Cluster:
    return Cluster(executor, at_once=2, per_machine=1)


def test_jobs_train_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, executor = small_plan(tmp_path), InThreads()
    make_run(made.runs[0].folder, 1, (10.0, 9.0), overrides=made.runs[0].overrides)
    started = stand_in(monkeypatch, FINISH)
    assert train_all(made, lambda failures: None, cluster=cluster(executor)) == {}
    assert [run.seed for run in started] == [2] and executor.names == ["ar_seed2"]


def test_a_job_leaves_a_run_to_the_process_that_trains_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is taken between the job's start in the queue and its start on a machine."""
    fcntl = pytest.importorskip("fcntl")
    made = small_plan(tmp_path)
    first = made.runs[0].folder
    locks: list[Any] = []

    def take_the_first(job: Any) -> None:
        if job.name == first.name:
            lock = job.log_file.open("ab")
            fcntl.flock(lock, fcntl.LOCK_EX)
            locks.append(lock)
        while not locks:  # the other job
            time.sleep(0.01)

    def end_the_other(failures: dict[Path, str]) -> None:
        if not first.exists():
            make_run(first, 1, (10.0, 9.0), overrides=made.runs[0].overrides)
            locks[0].close()

    started = stand_in(monkeypatch, FINISH)
    executor = InThreads(take_the_first)
    assert train_all(made, end_the_other, cluster=cluster(executor)) == {}
    assert [run.seed for run in started] == [2]
    assert executor.names.count("ar_seed1") == 1


def test_a_lost_job_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(job: Any) -> None:
        raise RuntimeError("node unplugged")

    stand_in(monkeypatch, FINISH)
    made = small_plan(tmp_path)
    failures = train_all(made, lambda failures: None, cluster=cluster(InThreads(lose)))
    assert list(failures.values()) == ["node unplugged"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="SIGUSR2")
def test_a_job_saves_and_starts_again_at_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As submitit does: in the signal's handler, while the job waits for its run."""
    pytest.importorskip("submitit")
    warn_and_wait = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def save(*_): folder.with_suffix(".saved").touch(); sys.exit(3)
signal.signal(signal.SIGTERM, save)
os.kill(os.getppid(), signal.SIGUSR2)
time.sleep(60)
"""
    stand_in(monkeypatch, warn_and_wait)
    run = small_plan(tmp_path).runs[0]
    job, again = TrainingJob(run, [], 1), []
    before = signal.signal(signal.SIGUSR2, lambda *_: again.append(job.checkpoint()))
    try:
        assert job() == 3
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert run.folder.with_suffix(".saved").exists()
    assert isinstance(again[0].function, TrainingJob) and again[0].function.run == run


@pytest.mark.parametrize(
    ("given", "n"),
    [
        ({"_target_": PLUGIN.format("joblib", "JoblibLauncher"), "n_jobs": 3}, 3),
        ({"_target_": PLUGIN.format("joblib", "JoblibLauncher"), "n_jobs": -1}, os.cpu_count()),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 5),
    ],
)
def test_launchers_of_this_machine(given: dict[str, Any], n: int, tmp_path: Path) -> None:
    launcher = OmegaConf.create(given)
    assert workers_of(launcher, 5) == n
    assert cluster_of(launcher, 5, tmp_path) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"_target_": "my_plugins.MyLauncher"}, "MyLauncher"),
        ({"_target_": PLUGIN.format("submitit", "LocalLauncher"), "nodes": 2}, "one task"),
    ],
)
def test_launchers_that_train_no_comparison(
    given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        cluster_of(OmegaConf.create(given), 1, tmp_path)


def test_slurm_needs_its_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = {"_target_": PLUGIN.format("submitit", "SlurmLauncher"), "max_num_timeout": 0}
    with pytest.raises(UserError, match="srun"):
        cluster_of(OmegaConf.create(launcher), 1, tmp_path)
