"""The learning-rate range test (Smith, arXiv 1506.01186): which rates train, in one short run.

Lightning's LearningRateFinder steps the optimizer itself, and so wants automatic optimization.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from trm_lightning.errors import TrainingError
from trm_lightning.reports.lr_range_figure import write_lr_range_figure
from trm_lightning.training import TrainingModule

SMOOTHING = 0.9  # of the loss, from batch to batch
TOO_HIGH = 0.5  # nats per token above the lowest loss, where the test ends
FEWEST = 10  # batches that say something
_log = logging.getLogger(__name__)


class LrRange(L.Callback):
    """Notes the loss after each batch of a run whose rate rises, and says where it falls fastest.

    It ends the run where the loss has risen again. The picture is ``lr_range.svg`` in the run's
    folder.

    Args:
        optimizer: the optimizer's config, built in part; its settings called ``lr`` or
            ``…_lr`` are told.
    """

    def __init__(self, optimizer: Any) -> None:
        given = getattr(optimizer, "keywords", {})
        self.settings = {k: float(v) for k, v in given.items() if k == "lr" or k.endswith("_lr")}
        self.ratios: list[float] = []
        self.losses: list[float] = []
        self._before: float | None = None  # rate of the batch before
        self._ratio: float | None = None  # rate of the present batch

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Note the rate, as a multiple of the optimizer's own."""
        group = pl_module.optimizers().param_groups[0]  # type: ignore[union-attr]
        self._before, self._ratio = self._ratio, group["lr"] / group["initial_lr"]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Note the loss, which the rate of the batch before has made."""
        assert isinstance(pl_module, TrainingModule) and pl_module.record is not None
        if self._before is None or not pl_module.record.nats:
            return
        self.ratios.append(self._before)
        self.losses.append(float(pl_module.record.nats[0]))
        smooth = smoothed(self.losses)
        if len(smooth) >= FEWEST and smooth[-1] > min(smooth) + TOO_HIGH:
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell and draw what was found."""
        self._tell(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Tell it too where the loss became no number."""
        if isinstance(exception, TrainingError):
            self._tell(trainer)

    def _tell(self, trainer: L.Trainer) -> None:
        found = steepest(self.ratios, self.losses)
        if not trainer.is_global_zero:
            return
        if found is None:
            _log.info("learning-rate range test: the loss did not fall, or too few batches.")
            return
        rates = " ".join(f"optimizer.{k}={rate * found:.2g}" for k, rate in self.settings.items())
        file = Path(trainer.default_root_dir) / "lr_range"
        write_lr_range_figure(self.ratios, self.losses, smoothed(self.losses), found, file)
        _log.info(
            "learning-rate range test: the loss falls fastest at %.2g x the optimizer's rates: %s "
            "(a first guess; see %s.svg)", found, rates, file.name,
        )  # fmt: skip


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return an exponential mean of the losses, corrected for its start."""
    mean, means = 0.0, []
    for n, loss in enumerate(losses, start=1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**n))
    return means


def steepest(ratios: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the rate at which the smoothed loss falls fastest over the logarithm of the rate.

    None where it does not fall, or there are too few batches.
    """
    if len(losses) < FEWEST:
        return None
    slopes = np.gradient(smoothed(losses), np.log(ratios))
    lowest = int(np.argmin(slopes))
    return float(ratios[lowest]) if slopes[lowest] < 0 and math.isfinite(slopes[lowest]) else None
