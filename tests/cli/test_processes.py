"""Several processes at once: Lightning's own DDP launcher, and torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_toy import REPOSITORY, runs, write_project

pytestmark = pytest.mark.slow

DDP = """
from trm_lightning.cli import command


@command("ddp")
def main(cfg):
    import lightning as L
    from hydra.core.hydra_config import HydraConfig
    from lightning.pytorch.demos.boring_classes import BoringModel

    folder = HydraConfig.get().runtime.output_dir
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", max_steps=2, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, default_root_dir=folder,
    )
    trainer.fit(BoringModel())
    print(f"rank {trainer.global_rank} of {trainer.world_size} in {folder}")


if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--nproc-per-node=2"]])
def test_two_processes_share_one_run_folder(tmp_path: Path, launcher: list[str]) -> None:
    write_project(tmp_path)
    (tmp_path / "ddp.py").write_text(DDP)
    (tmp_path / "conf" / "ddp.yaml").write_text("defaults: [_self_, {hydra: default}]")
    result = subprocess.run(
        [sys.executable, *launcher, "-m", "ddp", "--config-path", "conf"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    (folder,) = runs(tmp_path)
    for rank in (0, 1):
        assert f"rank {rank} of 2 in {folder}" in result.stdout
    assert sorted(path.name for path in (folder / ".hydra").iterdir()) == [
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    ]
