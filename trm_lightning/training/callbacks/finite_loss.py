"""A loss that is not finite ends the run, before its weights are saved."""

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from trm_lightning.errors import TrainingError
from trm_lightning.training import TrainingModule

ADVICE = (
    "The checkpoints from before are kept. Go on from the last one with a lower learning rate "
    "(resume=<run folder> optimizer.lr=…), or start again with more warm-up "
    "(schedule.warmup_steps=…) or precision=32-true."
)


class FiniteLoss(L.Callback):
    """Checks every loss, but reads them from the device only now and then.

    Args:
        every: optimizer steps between two checks; :class:`Checkpoints` asks for one before it
            saves.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._losses: list[Tensor] = []
        self._last_step = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Collect the batch's losses."""
        assert isinstance(pl_module, TrainingModule) and pl_module.record is not None
        self._losses += pl_module.record.nats
        self._last_step = pl_module.optimizer_steps
        if len(self._losses) >= self.every:
            self.check()

    def check(self) -> None:
        """Read and check the losses since the last check.

        Raises:
            TrainingError: when one is NaN or infinite, naming its optimizer step.
        """
        losses = torch.stack(self._losses).tolist() if self._losses else []
        self._losses.clear()
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                step = self._last_step - len(losses) + i + 1
                raise TrainingError(f"The loss became {loss} at optimizer step {step}.", ADVICE)


def check_finite_state(module: TrainingModule) -> None:
    """Check the weights, their average and the optimizer's state.

    A loss is computed before the step that may spoil the weights, so finite losses do not do.

    Raises:
        TrainingError: naming what is not finite.
    """
    average = module.ema.average if module.ema else {}
    states = module.optimizers().optimizer.state.values()  # type: ignore[union-attr]
    parts: dict[str, list[Tensor]] = {
        "weights": list(module.model.parameters()),
        "averaged weights": list(average.values()),
        "optimizer's state": [v for s in states for v in s.values() if isinstance(v, Tensor)],
    }
    for name, tensors in parts.items():
        floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
        if floating and not torch.stack([t.isfinite().all() for t in floating]).all():
            step = module.optimizer_steps
            raise TrainingError(f"The {name} became NaN or infinite by step {step}.", ADVICE)
