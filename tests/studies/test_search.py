"""A search for settings: with a stand-in for training, and with processes of which one dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from compare_folders import CALL
from conftest import SHORT_PLAY, TINY
from omegaconf import OmegaConf

from trm_lightning.errors import UserError
from trm_lightning.runs.results_file import read_results
from trm_lightning.studies import search as searching
from trm_lightning.studies import training_process
from trm_lightning.studies.cluster import TAKEN
from trm_lightning.studies.plan import PlannedRun
from trm_lightning.studies.search import Search, open_study, refuse_another_space, run_search
from trm_lightning.studies.search_space import read_space

SPACE = [
    {"key": "optimizer.lr", "low": 1e-4, "high": 1e-1, "log": True},
    {"key": "model.n_layers", "choices": [1, 2]},
]
# Writes what a run leaves: three validations and results, whose score the second word gives.
TRAINED = """
import json, math, pathlib, sys, time
folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True, exist_ok=True)
score, slow = float(sys.argv[2]), float(sys.argv[3])
with (folder / "metrics.jsonl").open("w") as file:
    for step in (1, 2, 3):
        line = {"step": step, "tokens": step, "seconds": 1.0, "val/ppl_nats_per_token": score}
        file.write(json.dumps(line) + chr(10))
        file.flush()
        time.sleep(slow)
"""


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-in does: the score by trial, seconds per validation, and what was started."""
    told: dict[str, Any] = {"of": lambda number: 1.0 + number, "slow": 0.0, "started": []}
    told["script"] = TRAINED

    def command(run: PlannedRun, flags: list[str]) -> list[str]:
        number = int(run.entry.rpartition("_")[2])
        told["started"].append(number)
        made = str(told["of"](number))
        return [sys.executable, "-c", told["script"], str(run.folder), made, str(told["slow"])]

    monkeypatch.setattr(training_process, "training_command", command)
    monkeypatch.setattr(training_process, "is_finished", lambda folder: False)
    monkeypatch.setattr(searching, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(
        searching, "TrainingProcess",
        lambda run, flags, workers, warm, cluster: training_process.TrainingProcess(
            run, flags, workers, cluster=cluster
        ),
    )  # fmt: skip
    monkeypatch.setattr(searching, "FILE", "metrics.jsonl")
    monkeypatch.setattr(
        searching, "best_nats",
        lambda folder: json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])[
            "val/ppl_nats_per_token"
        ],
    )  # fmt: skip
    return told


def made(
    folder: Path, trials: int, prune: bool = False, storage: str | None = None, **more: Any
) -> Search:
    study = open_study("test", storage, folder, 0, prune)
    space = read_space(OmegaConf.create(SPACE))
    search = Search(study, space, ["model=ar"], CALL, folder, trials, prune, **more)
    refuse_another_space(search)
    return search


def states(search: Search) -> Counter[str]:
    return Counter(trial.state.name for trial in search.study.trials)


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_a_search_goes_on_where_it_was(
    tmp_path: Path, score: dict[str, Any], storage: str | None
) -> None:
    url = None if storage is None else f"sqlite:///{tmp_path}/search.db"
    run_search(made(tmp_path, 3, storage=url), progress=False)
    again = made(tmp_path, 5, storage=url)
    run_search(again, progress=False)
    run_search(again, progress=False)
    assert score["started"] == [0, 1, 2, 3, 4]
    assert states(again) == {"COMPLETE": 5} and again.study.best_value == 1.0
    for trial in again.study.trials:
        assert 1e-4 <= trial.params["optimizer.lr"] <= 1e-1
        assert trial.intermediate_values == {s: 1.0 + trial.number for s in (1, 2, 3)}


def test_a_trial_that_a_killed_process_left_is_taken_up(
    tmp_path: Path, score: dict[str, Any]
) -> None:
    left = made(tmp_path, 3)
    trial, lock = searching._take(left) or (None, None)
    assert trial is not None and lock is not None
    other = made(tmp_path, 3)
    # As long as its process lives, nobody else touches it.
    taken = searching._take(other)
    assert taken is not None and taken[0].number == 1
    taken[1].release()
    lock.release()
    run_search(other, progress=False)
    assert sorted(score["started"]) == [0, 1, 2] and states(other) == {"COMPLETE": 3}


def test_what_is_worse_than_the_median_is_stopped(tmp_path: Path, score: dict[str, Any]) -> None:
    score["of"] = lambda number: 1.0 if number < 6 else 9.0
    run_search(made(tmp_path, 6, prune=True), progress=False)
    score["slow"] = 5.0
    start = time.monotonic()
    search = made(tmp_path, 7, prune=True)
    run_search(search, progress=False)
    assert time.monotonic() - start < 10
    assert states(search) == {"COMPLETE": 6, "PRUNED": 1}


def test_a_run_that_fails_is_told_and_the_search_goes_on(
    tmp_path: Path, score: dict[str, Any]
) -> None:
    score["of"] = lambda number: "broken" if number == 1 else 2.0
    search = made(tmp_path, 3)
    run_search(search, progress=False)
    assert states(search) == {"COMPLETE": 2, "FAIL": 1}
    assert "could not convert" in search.study.trials[1].user_attrs["failure"]


def test_settings_that_training_refuses_fail_once(tmp_path: Path, score: dict[str, Any]) -> None:
    """Exit status 2 before a checkpoint ends a comparison; of a search it is one trial's answer."""
    score["script"] = "import sys; print('too large'); sys.exit(2)"
    search = made(tmp_path, 2)
    run_search(search, progress=False)
    assert states(search) == {"FAIL": 2} and score["started"] == [0, 1]
    assert "too large" in search.study.trials[0].user_attrs["failure"]


def test_another_space_under_the_same_name_is_refused(tmp_path: Path, score: Any) -> None:
    search = made(tmp_path, 1)
    other = Search(search.study, search.space[:1], search.fixed, CALL, tmp_path, 1, False)
    with pytest.raises(UserError, match="another space"):
        refuse_another_space(other)
    with pytest.raises(UserError, match="storage=nonsense"):
        made(tmp_path, 1, storage="nonsense")


def test_trials_are_trained_at_a_time(tmp_path: Path, score: dict[str, Any]) -> None:
    """Each writes for longer than it takes to start the others, so all three overlap."""
    score["slow"] = 1.0
    search = made(tmp_path, 4, workers=3)
    run_search(search, progress=False)
    assert sorted(score["started"]) == [0, 1, 2, 3] and states(search) == {"COMPLETE": 4}
    began = sorted(trial.datetime_start for trial in search.study.trials)
    first_end = min(trial.datetime_complete for trial in search.study.trials)
    assert began[2] < first_end <= began[3]


def test_trials_are_sent_to_a_cluster_and_come_back_from_it(
    tmp_path: Path, score: dict[str, Any]
) -> None:
    """A job that finds its run taken is sent again; what ends with status 1 failed."""
    sent: list[str] = []

    def submit(job: Any) -> Any:
        sent.append(job.name)
        if sent.count(job.name) == 1 and job.name.endswith("1"):
            return Ended(TAKEN)
        return Ended(1 if job.name.endswith("2") else run_job(job))

    def run_job(job: Any) -> int:
        words = training_process.training_command(job.run, job.flags)
        return subprocess.run(words, check=True).returncode

    cluster: Any = SimpleNamespace(submit=submit, per_machine=1)
    search = made(tmp_path, 3, workers=2, cluster=cluster)
    run_search(search, progress=False)
    assert sorted(sent) == ["trial_0000", "trial_0001", "trial_0001", "trial_0002"]
    assert states(search) == {"COMPLETE": 2, "FAIL": 1}
    assert search.study.trials[2].state.name == "FAIL"


class Ended:
    """A job that has ended."""

    def __init__(self, status: int) -> None:
        self.status = status

    def poll(self) -> int:
        return self.status

    def wait(self, timeout: float | None = None) -> int:
        return self.status

    def terminate(self) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ([], "at least one setting"),
        ([{"low": 1}], "has no key"),
        ([{"key": "a", "low": 1}], "needs choices, or low and high"),
        ([{"key": "a", "choices": []}], "needs choices, or low and high"),
        ([{"key": "a", "low": 2, "high": 1}], "space: a: "),
        ([{"key": "a", "low": 1, "high": 2, "bas": 10}], "needs choices, or low and high"),
    ],
)
def test_spaces_that_are_none_are_refused(space: list[Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_space(OmegaConf.create(space))


def whole(low: float, high: float) -> str:
    [setting] = read_space(OmegaConf.create([{"key": "a", "low": low, "high": high}]))
    return type(setting.distribution).__name__


def test_what_is_whole_at_both_ends_stays_whole() -> None:
    assert whole(1, 4) == "IntDistribution" and whole(1.0, 4.0) == "FloatDistribution"


@pytest.mark.slow
def test_two_processes_share_a_search_and_one_is_killed(tmp_path: Path) -> None:
    """20 trials, none lost, none doubled; the report names the best."""
    small = [word for word in TINY if not word.startswith(("progress", "budget"))]
    command = [
        sys.executable, "-m", "trm_lightning.tune", "trials=20", "name=shared", "progress=false",
        "space=[{key:optimizer.lr,low:1e-4,high:1e-1,log:true}]", "model=ar", "audit=false",
        "budget={steps:60,tokens:null,epochs:null,seconds:null}", *small, *SHORT_PLAY,
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command, cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    folder = tmp_path / "outputs" / "searches" / "shared"
    first, second = start(), start()
    wait_until(lambda: len(list(folder.glob("runs/*/metrics.jsonl"))) >= 5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    said, _ = second.communicate(timeout=300)
    assert second.returncode == 0, said
    content = json.loads((folder / "search.json").read_text())
    assert [trial["number"] for trial in content["trials"]] == list(range(20))
    ended = Counter(trial["state"] for trial in content["trials"])
    assert ended["completed"] + ended["pruned"] == 20 and ended["completed"] >= 5, ended
    for trial in content["trials"]:
        if trial["state"] == "completed":
            assert read_results(tmp_path / trial["folder"])["optimizer_steps"] == 60
    assert "To train it:" in said and (folder / "report.html").is_file()


def wait_until(condition: Callable[[], bool], limit: float = 120.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
