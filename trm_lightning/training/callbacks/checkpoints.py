"""Checkpoints counted in optimizer steps: ``last`` to resume from, ``best`` to use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from trm_lightning.errors import UserError
from trm_lightning.files import write_atomically
from trm_lightning.runs.load import FORMAT
from trm_lightning.training import TrainingModule
from trm_lightning.training.callbacks.stop import TrainingStop


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
        self._rng: dict[str, Any] | None = None

    @property
    def last(self) -> Path:
        """Path of the checkpoint to resume from."""
        return self.folder / "last.ckpt"

    @property
    def best(self) -> Path:
        """Path of the checkpoint with the best validation score."""
        return self.folder / "best.ckpt"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put random number generators where the checkpoint left them."""
        assert isinstance(pl_module, TrainingModule)
        self._next_save = pl_module.optimizer_steps + self.every
        if self._rng is not None:
            torch.set_rng_state(self._rng["cpu"].cpu())
            if torch.cuda.is_available() and self._rng["cuda"]:
                torch.cuda.set_rng_state_all([state.cpu() for state in self._rng["cuda"]])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Save ``last`` when ``every`` steps have gone by."""
        assert isinstance(pl_module, TrainingModule)
        if pl_module.optimizer_steps >= self._next_save:
            self._next_save = pl_module.optimizer_steps + self.every
            self.save(trainer, self.last)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save ``best`` when the validation score is the lowest so far."""
        assert isinstance(pl_module, TrainingModule)
        # The first score is the one the net is trained for; see LanguageModel.scorers.
        score = next(iter(pl_module.scores.values())).perplexity
        if score < self.best_score:
            self.best_score, self.best_step = score, pl_module.optimizer_steps
            self.save(trainer, self.best)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save ``last`` as training ends by its budget or an early stop."""
        self.save(trainer, self.last)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save ``last`` after a stop by signal; after any other error its state is not whole."""
        if isinstance(exception, TrainingStop):
            self.save(trainer, self.last)

    def save(self, trainer: L.Trainer, path: Path) -> None:
        """Write a checkpoint beside ``path`` and move it there, so that none is ever half-written.

        Raises:
            UserError: when the disk is full or cannot be written; the checkpoint before stays.
            TrainingError: when the loss is not finite; likewise.
        """
        self.check()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if trainer.is_global_zero:
                with write_atomically(path) as temporary:
                    trainer.save_checkpoint(temporary, weights_only=False)  # with the optimizer
            else:  # every process takes part in saving
                trainer.save_checkpoint(path, weights_only=False)
        except OSError as error:
            raise UserError(
                f"The checkpoint {path} could not be written: {error}.",
                "Make room or choose another folder (hydra.run.dir=…), then go on with "
                f"resume={self.folder.parent}. The checkpoint from before is kept.",
            ) from error

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
