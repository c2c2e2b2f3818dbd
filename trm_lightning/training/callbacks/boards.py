"""What a model answers to a few puzzles, and how it refines an answer, after each validation."""

from pathlib import Path

import lightning as L

from trm_lightning.data import PuzzleDataModule
from trm_lightning.files import append_text
from trm_lightning.reports.board_figure import board_figure
from trm_lightning.sampling.boards import shown_answers
from trm_lightning.training import TrainingModule
from trm_lightning.training.callbacks.samples import drop_samples_after
from trm_lightning.training.loggers import log_picture, log_sample, takes_pictures

N_SHOWN = 2  # puzzles


class Boards(L.Callback):
    """Answers the validation split's first puzzles, with the weights that are validated.

    What :class:`Samples` is for text: boards go to ``path`` and to the loggers that take text, and
    pictures of the board after each refinement to those that take pictures.

    Args:
        path: text file that boards are added to; None for the loggers alone.

    Attributes:
        latest: the boards that were written last.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.latest = ""
        self._written: set[int] = set()  # optimizer steps

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop boards that a killed run wrote after its last checkpoint."""
        assert isinstance(pl_module, TrainingModule)
        if trainer.is_global_zero and self.path is not None and self.path.is_file():
            self._written = drop_samples_after(self.path, pl_module.optimizer_steps)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write boards and a picture, in the first process."""
        assert isinstance(pl_module, TrainingModule)
        step = pl_module.optimizer_steps
        if not trainer.is_global_zero or step in self._written:
            return
        self._written.add(step)
        data: PuzzleDataModule = trainer.datamodule  # type: ignore[attr-defined]
        with pl_module.scoring() as model:
            self.latest = shown_answers(model, data, "val", N_SHOWN)
            for logger in trainer.loggers:
                log_sample(logger, self.latest, step)
                if model.puzzle_size is not None and takes_pictures(logger):
                    log_picture(logger, "refinement", board_figure(model, data, "val"), step)
        if self.path is not None:
            append_text(self.path, f"--- step {step} ---\n{self.latest}\n\n")
