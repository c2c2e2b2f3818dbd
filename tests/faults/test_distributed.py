"""Two processes (DDP) train as one does, logged losses included; one that dies takes the other."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.faults
N_STEPS = 200
ARGUMENTS = [
    "logger=none", "progress=false", "threads=1", "data.corpus.train_words=3000", "audit=false",
    "+data.corpus.val_words=600", "+data.corpus.test_words=600", "data.window_size=16",
    "data.batch_size=8", "model.width=16", "model.n_heads=2", "model.dropout=0",
    "model.n_layers=1", "model.n_refinements=1", "model.factorization=parallel",
    "model.n_supervision=2", "optimizer=adamw", "optimizer.lr=0.001", "eval_every=100",
    "log_every=1", "checkpoint_every=10",
]  # fmt: skip


def command(trainer: str, run: Path, steps: int) -> list[str]:
    budget = f"budget={{steps:{steps},tokens:null,epochs:null,seconds:null}}"
    words = [f"trainer={trainer}", budget, f"hydra.run.dir={run}"]
    return [sys.executable, "-m", "trm_lightning.train", *words, *ARGUMENTS]


def test_loss_curves_are_equal(tmp_path: Path, tell: Any) -> None:
    curves = {}
    for trainer in ("cpu", "ddp_cpu"):
        run = tmp_path / trainer
        done = subprocess.run(command(trainer, run, N_STEPS), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        curves[trainer] = [
            {key: value for key, value in line.items() if "nats" in key or key == "step"}
            for line in lines
        ]
    one, two = curves["cpu"], curves["ddp_cpu"]
    assert len(one) == len(two) >= N_STEPS // 2
    differences = [
        abs(a[key] - b[key]) / abs(a[key]) for a, b in zip(one, two, strict=True) for key in a
    ]
    held = sum(difference <= 1e-5 for difference in differences)
    tell(
        "two processes against one, 200 steps: logged values equal to 1e-5", held, len(differences)
    )
    assert held == len(differences), max(differences)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("killed", ["the first", "the second"])
def test_a_killed_process_ends_the_other(tmp_path: Path, killed: str, tell: Any) -> None:
    run = tmp_path / "run"
    first = subprocess.Popen(
        command("ddp_cpu", run, 100_000), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.ckpt").is_file():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text()
    second = int(children.split()[0])
    victim, other = (first.pid, second) if killed == "the first" else (second, first.pid)
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    while time.monotonic() < start + 30 and is_running(other):
        first.poll()
        time.sleep(0.1)
    seconds = time.monotonic() - start
    if is_running(other):
        os.kill(other, signal.SIGKILL)
    first.wait()
    tell(f"a killed process of two ({killed}): the other ends within 10 s", int(seconds < 10), 1)
    assert seconds < 10


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.is_file() and status.read_text().rpartition(")")[2].split()[0] != "Z"
