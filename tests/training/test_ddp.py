"""Two processes on the CPU train as one does, and score every token once between them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ARGUMENTS = [
    "logger=none", "progress=false", "threads=1", "data.corpus.train_words=3000",
    "+data.corpus.val_words=600", "+data.corpus.test_words=600", "data.window_size=16",
    "data.batch_size=8", "model.width=16", "model.n_heads=2", "model.dropout=0",
    "model.factorization=parallel", "model.n_supervision=2", "ema_decay=0.9",
    "budget={steps:6,tokens:null,epochs:null,seconds:null}", "eval_every=4", "log_every=2",
]  # fmt: skip


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    results = {}
    for trainer in ("cpu", "ddp_cpu"):
        run = tmp_path / trainer
        done = subprocess.run(
            [sys.executable, "-m", "trm_lightning.train", f"trainer={trainer}", *ARGUMENTS,
             f"hydra.run.dir={run}"],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("val perplexity") == 1
        results[trainer] = json.loads((run / "results.json").read_text())
    one, two = results["cpu"], results["ddp_cpu"]
    assert one["optimizer_steps"] == two["optimizer_steps"] == 6
    assert one["tokens_seen"] == two["tokens_seen"]
    for name in ("final", "test"):
        for key, score in one[name].items():
            other = two[name][key]
            assert score["tokens"] == other["tokens"]
            assert other["total_nats"] == pytest.approx(score["total_nats"], rel=1e-5)
