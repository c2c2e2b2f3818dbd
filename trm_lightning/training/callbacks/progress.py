"""A progress bar that counts optimizer steps."""

from typing import Any

import lightning as L
from tqdm import tqdm

from trm_lightning.evaluation.metrics import ALL_MEANINGS
from trm_lightning.optim.schedules import UNLIMITED
from trm_lightning.training import TrainingModule
from trm_lightning.training.callbacks.train_log import TrainLog


class Progress(L.Callback):
    """Shows steps, time left, tokens/s, train loss, and the last validation.

    Lightning's own bar counts batches against ``max_steps``, which deep supervision makes wrong,
    and reads the loss from the device at every batch.

    Args:
        train_log: where the numbers come from; the bar shows what was logged last.
    """

    def __init__(self, train_log: TrainLog) -> None:
        self.train_log = train_log
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar at the step where training starts."""
        assert isinstance(pl_module, TrainingModule)
        if trainer.is_global_zero:
            self.bar = tqdm(
                total=pl_module.total_steps if pl_module.total_steps < UNLIMITED else None,
                initial=pl_module.optimizer_steps,
                unit="step",
                mininterval=0.5,
                dynamic_ncols=True,
                desc="training",
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Move on by the steps of one batch."""
        assert isinstance(pl_module, TrainingModule)
        if self.bar is not None:
            self.bar.set_postfix_str(self._numbers(), refresh=False)
            self.bar.update(pl_module.optimizer_steps - self.bar.n)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that the bar stands still because the model is being scored."""
        if self.bar is not None:
            self.bar.set_description("validating")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the new score."""
        if self.bar is not None:
            self.bar.set_description("training", refresh=False)
            self.bar.set_postfix_str(self._numbers())

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar before the error is shown."""
        self._close()

    def _numbers(self) -> str:
        shown = []
        for name, value in self.train_log.latest.items():
            if name.partition("/")[2] in ALL_MEANINGS:
                shown.append(f"{name} {value:.4g}")
        if "train/nats_per_token" in self.train_log.latest:
            shown.insert(0, f"loss {self.train_log.latest['train/nats_per_token']:.3f}")
            shown.append(f"{self.train_log.latest['train/tokens_per_second']:,.0f} tokens/s")
        return ", ".join(shown)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
