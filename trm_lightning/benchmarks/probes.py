"""Callbacks that measure a real training run from inside; see ``runs.py``."""

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from torch import Tensor

from trm_lightning.benchmarks.subjects import loss_of, training_step
from trm_lightning.training import TrainingModule


class Interleaved(L.Callback):
    """Times some steps of the run, then as many of a bare loop over a copy of its model, in turn.

    A step of the run includes data, Lightning, callbacks and logs. The bare loop repeats one
    batch. The first turn is a warm-up and is not counted.

    Args:
        path: file for the seconds of a step, as JSON.
        steps: in each turn.
    """

    def __init__(self, path: str, steps: int) -> None:
        self.path = Path(path)
        self.steps = steps
        self.turns: list[tuple[float, float]] = []
        self._bare: TrainingModule | None = None
        self._clock = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copy the model."""
        assert isinstance(pl_module, TrainingModule)
        self._bare = type(pl_module)(
            copy.deepcopy(pl_module.model), pl_module.make_optimizer, pl_module.make_schedule,
            pl_module.supervised_tokens,
        )  # fmt: skip
        self._optimizer = pl_module.make_optimizer(self._bare.model)
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Tensor,
        batch_idx: int,
    ) -> None:
        """Run the bare loop's turn after each turn of the run."""
        if (batch_idx + 1) % self.steps:
            return
        assert self._bare is not None
        real = time.perf_counter() - self._clock
        step = training_step(self._bare.model, loss_of(self._bare), self._optimizer, batch)
        start = time.perf_counter()
        for _ in range(self.steps):
            step()
        _wait(batch)
        bare = time.perf_counter() - start
        self.turns.append((real / self.steps, bare / self.steps))
        self._clock = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the seconds."""
        real, bare = zip(*self.turns[1:], strict=True)
        self.path.write_text(json.dumps({"real": real, "bare": bare}), encoding="utf-8")


class Milestones(L.Callback):
    """Records the time of the first optimizer step and the peak memory of the run.

    Args:
        path: file for both, as JSON.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.first_step: float | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Tensor, i: int
    ) -> None:
        """Record the time of the first step."""
        if self.first_step is None:
            _wait(batch)
            self.first_step = time.time()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write both; called after training, and again after a separate validation."""
        assert isinstance(pl_module, TrainingModule)
        found = {
            "first_step": self.first_step,
            "peak_bytes": peak_memory(),
            "vocab_size": pl_module.model.vocab_size,
        }
        self.path.write_text(json.dumps(found), encoding="utf-8")


def peak_memory() -> int | None:
    """Return this process's peak resident memory in bytes; None where unknown."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage, in which a forked process starts with its parent's peak.
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _wait(batch: Tensor) -> None:
    """Wait for the device by reading from it."""
    batch.flatten()[0].item()
