"""A comparison that is killed in the middle, with the run that it is training, goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY

pytestmark = pytest.mark.slow
STEPS = 400


def test_a_killed_comparison_goes_on_where_it_was(tmp_path: Path) -> None:
    small = [override for override in TINY if not override.startswith(("budget", "progress"))]
    command = [
        sys.executable, "-m", "trm_lightning.compare", "name=tiny", "seeds=2", "models=[ar]",
        *small, f"budget.steps={STEPS}", "eval_every=20",
    ]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    runs = tmp_path / "outputs" / "comparisons" / "tiny" / "runs"
    first, second = runs / "ar_seed1337", runs / "ar_seed1338"

    comparison = subprocess.Popen(
        command, cwd=tmp_path, env=env, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (second / "checkpoints" / "last.ckpt").is_file():
        assert comparison.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(comparison.pid, signal.SIGKILL)  # the comparison and the run that it trains
    comparison.wait()
    assert (first / "results.json").is_file() and not (second / "results.json").is_file()
    finished = (first / "results.json").stat().st_mtime_ns

    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (first / "results.json").stat().st_mtime_ns == finished
    resumed = json.loads((second / "results.json").read_text())
    assert resumed["optimizer_steps"] == STEPS
    assert resumed["config"]["resume"] is not None
    lines = [json.loads(line) for line in (second / "metrics.jsonl").open()]
    trained = [line["step"] for line in lines if "train/nats_per_token" in line]
    assert trained == list(range(1, STEPS + 1))  # nothing twice, nothing left out
    summary = json.loads((runs.parent / "comparison.json").read_text())
    assert summary["entries"][0]["figures"]["best"]["n"] == 2
