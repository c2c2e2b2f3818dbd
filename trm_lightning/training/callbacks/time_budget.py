"""The clock of a training run, and its end by a budget in seconds."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn


class TimeBudget(L.Callback):
    """Counts the seconds of training, without validation, and ends it when they are used up.

    Args:
        max_seconds: training ends after the batch in which it is reached; None for no limit.

    Attributes:
        seconds: spent so far, over all resumes.
    """

    def __init__(self, max_seconds: float | None = None) -> None:
        self.max_seconds = max_seconds
        self.seconds = 0.0
        self._clock: float | None = None  # None while the clock stands still

    def share(self) -> float:
        """Return how much of the budget is used up, 0 to 1; 0 without a limit."""
        return self.seconds / self.max_seconds if self.max_seconds else 0.0

    def tick(self) -> float:
        """Bring :attr:`seconds` up to now and return it."""
        if self._clock is not None:
            now = time.perf_counter()
            self.seconds += now - self._clock
            self._clock = now
        return self.seconds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """End training when the budget is used up."""
        self.tick()
        if self.max_seconds is not None:
            # Clocks differ, and all processes must leave together.
            over = trainer.strategy.reduce_boolean_decision(self.share() >= 1, all=False)
            trainer.should_stop = trainer.should_stop or over

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self.tick()
        self._clock = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock again."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._clock = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock for good."""
        self.tick()
        self._clock = None

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds trained so far."""
        return {"seconds": self.tick()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint's seconds."""
        self.seconds = state_dict["seconds"]
