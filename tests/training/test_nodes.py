"""Two machines as torchrun and srun start them, both on this one: they train as one process."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_ddp import ARGUMENTS

pytestmark = pytest.mark.slow
TWO_MACHINES = ("trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2")
Starts = Callable[[Path, int], list[tuple[list[str], dict[str, str]]]]


def by_torchrun(folder: Path, port: int) -> list[tuple[list[str], dict[str, str]]]:
    """Return the agents of two machines, which meet at a port."""
    agent = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
        "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=job",
        "--local-addr=127.0.0.1", "-m", "trm_lightning.train",
    ]  # fmt: skip
    return [(agent, {}), (agent, {})]


def by_srun(folder: Path, port: int) -> list[tuple[list[str], dict[str, str]]]:
    """Return the tasks of `srun --nodes=2 --ntasks-per-node=1`, with what Slurm tells them."""
    shared = {
        "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    task = [sys.executable, "-m", "trm_lightning.train"]
    return [
        (task, shared | {"SLURM_PROCID": str(i), "SLURM_NODEID": str(i), "SLURM_LOCALID": "0"})
        for i in range(2)
    ]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def results(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    (file,) = folder.rglob("results.json")
    content: dict[str, dict[str, dict[str, float]]] = json.loads(file.read_text())
    return content


@pytest.mark.parametrize("starts", [by_torchrun, by_srun])
def test_two_machines_train_as_one_process(tmp_path: Path, starts: Starts) -> None:
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    command = [sys.executable, "-m", "trm_lightning.train", "trainer=cpu", *ARGUMENTS]
    alone = subprocess.run(command, cwd=one, env=env, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr
    machines = [
        subprocess.Popen(
            [*words, *TWO_MACHINES, *ARGUMENTS], cwd=two, env=env | told, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for words, told in starts(tmp_path, free_port())
    ]  # fmt: skip
    said = [machine.communicate(timeout=600)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(said)
    assert sum(text.count("val perplexity") for text in said) == 1  # the first one speaks
    wanted, got = results(one), results(two)
    assert got["optimizer_steps"] == wanted["optimizer_steps"]
    for name in ("final", "test"):
        for key, score in wanted[name].items():
            assert got[name][key]["tokens"] == score["tokens"]
            assert got[name][key]["total_nats"] == pytest.approx(score["total_nats"], rel=1e-5)
