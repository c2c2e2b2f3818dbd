"""Ctrl-C, SIGTERM and the like end a run between two batches, where its state is whole."""

import signal
from types import FrameType
from typing import Any

import lightning as L

from trm_lightning.errors import STOP_SIGNALS, Stopped
from trm_lightning.training import TrainingModule


class TrainingStop(Exception):  # noqa: N818 -- a request, not an error
    """Training was asked to stop, and did so after a whole batch.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class StopCleanly(L.Callback):
    """Stops after the present batch at the first signal; a second Ctrl-C stops at once.

    It leaves by an exception: Lightning's own ``should_stop`` validates once more, for which a
    job that is being evicted has no time.
    """

    def __init__(self) -> None:
        self._asked: int | None = None  # the signal
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals for the time of training."""
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Stop here, unless a validation is due: a resumed run would leave it out."""
        assert isinstance(pl_module, TrainingModule)
        if not pl_module.validation_is_due:
            self._stop_if_asked(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after the validation."""
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back; stop where one came since the last batch, as in an audit."""
        self._restore()
        self._stop_if_asked(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        """End training if any process was asked to; all of them leave at the same place."""
        stop = self._asked is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            raise TrainingStop(self._asked or signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None and number == signal.SIGINT:
            raise Stopped
        self._asked = self._asked or number

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
