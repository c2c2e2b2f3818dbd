"""Checkpoints counted in optimizer steps: ``last`` to resume from, ``best`` to use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.trainer.states import TrainerFn

from trm_lightning.runs.checkpoint_file import FORMAT, read_checkpoint, write_checkpoint
from trm_lightning.runs.find import BEST, LAST
from trm_lightning.training import TrainingModule
from trm_lightning.training.callbacks.finite_loss import check_finite_state
from trm_lightning.training.callbacks.stop import TrainingStop


class CheckpointFiles(TorchCheckpointIO):
    """Writes and reads checkpoints for Lightning, by this package's own functions."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None
    ) -> None:
        """See :func:`write_checkpoint`."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(
        self, path: _PATH, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See :func:`read_checkpoint`; tensors come on the CPU and are copied where they go."""
        return read_checkpoint(Path(path))


class Checkpoints(L.Callback):
    """Saves ``last.ckpt`` regularly and at the end, ``best.ckpt`` at the best validation score.

    Lightning's ModelCheckpoint fires only where the global step is a multiple of its interval at
    the end of a batch, which may never happen when a batch takes several steps.

    Args:
        folder: where the checkpoints go.
        every: optimizer steps between two savings of ``last.ckpt``.
        run: plain containers saved with every checkpoint: what is needed to use it elsewhere.
        check: called before each save; raises where the weights must not be saved.
    """

    def __init__(
        self, folder: Path, every: int, run: dict[str, Any], check: Callable[[], None]
    ) -> None:
        self.folder = folder
        self.check = check
        self.every = every
        self.run = run
        self.best_score = float("inf")
        self.best_step = -1
        self._next_save = 0
        self._saved_step = -1
        self._rng: dict[str, Any] | None = None

    @property
    def last(self) -> Path:
        """Path of the checkpoint to resume from."""
        return self.folder / LAST

    @property
    def best(self) -> Path:
        """Path of the checkpoint with the best validation score."""
        return self.folder / BEST

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put random number generators where the checkpoint left them."""
        self._next_save = self._multiple_after(_training_module(pl_module).optimizer_steps)
        if self._rng is not None:
            torch.set_rng_state(self._rng["cpu"].cpu())
            if torch.cuda.is_available() and self._rng["cuda"]:
                torch.cuda.set_rng_state_all([state.cpu() for state in self._rng["cuda"]])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Save ``last`` when due. Before a validation, not yet: a resumed run would skip that."""
        if not _training_module(pl_module).validation_is_due:
            self._save_if_due(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save ``best`` when the validation score is the lowest so far, and ``last`` when due."""
        module = _training_module(pl_module)
        # The first score is the one the net is trained for; see LanguageModel.scorers.
        score = next(iter(module.scores.values())).cost
        if score < self.best_score:
            self.best_score, self.best_step = score, module.optimizer_steps
            self.save(trainer, module, self.best)
        if trainer.state.fn == TrainerFn.FITTING:
            self._save_if_due(trainer, module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save ``last`` as training ends by its budget or an early stop."""
        if self._saved_step != _training_module(pl_module).optimizer_steps:
            self.save(trainer, pl_module, self.last)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save ``last`` after a stop by signal; after any other error its state is not whole."""
        if isinstance(exception, TrainingStop):
            self.save(trainer, pl_module, self.last)

    def _save_if_due(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps = _training_module(pl_module).optimizer_steps
        if steps >= self._next_save:
            self._next_save = self._multiple_after(steps)
            self.save(trainer, pl_module, self.last)

    def _multiple_after(self, steps: int) -> int:
        return (steps // self.every + 1) * self.every

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule, path: Path) -> None:
        """Write a checkpoint, see :func:`write_checkpoint`.

        Raises:
            UserError: when the disk is full or cannot be written; the checkpoint before stays.
            TrainingError: when loss, weights or optimizer state are not finite; likewise.
        """
        self.check()
        check_finite_state(_training_module(pl_module))
        trainer.save_checkpoint(path, weights_only=False)  # with the optimizer
        if path == self.last:
            self._saved_step = _training_module(pl_module).optimizer_steps

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the run's description and the generators' states, which Lightning leaves out."""
        checkpoint["format"] = FORMAT
        checkpoint["run"] = self.run
        checkpoint["rng"] = {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the generators' states until everything else that draws from them is done."""
        self._rng = checkpoint["rng"]

    def state_dict(self) -> dict[str, Any]:
        """Return which score was best, and when."""
        return {"best_score": self.best_score, "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's best score."""
        self.best_score = state_dict["best_score"]
        self.best_step = state_dict["best_step"]


def _training_module(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
