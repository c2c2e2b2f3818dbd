"""What the model writes, and how it refines a chunk, after each validation."""

import re
from pathlib import Path

import lightning as L
import numpy as np
import torch

from trm_lightning.data import TextDataModule, Tokenizer
from trm_lightning.files import append_text, write_text
from trm_lightning.models import LanguageModel
from trm_lightning.printable import printable
from trm_lightning.reports.refinement_figure import refinement_figure
from trm_lightning.runs.stored_text import MOST_LINES_BYTES, read_text
from trm_lightning.sampling.methods import Sampler
from trm_lightning.sampling.sample import sample
from trm_lightning.training import TrainingModule
from trm_lightning.training.loggers import log_picture, log_sample, takes_pictures

N_COLUMNS = 4  # of the picture: its letters can be read in TensorBoard's small cards
SEED = 0  # the same draws at every validation: what changes is the model
_HEAD = re.compile(r"^--- step (\d{1,15}) ---$", re.MULTILINE | re.ASCII)
N_SHOWN = 16  # tokens of the prompt that stand before a sample


def drop_samples_after(path: Path, step: int) -> set[int]:
    """Keep the samples of a file up to optimizer step ``step``; return the steps of these."""
    parts = _HEAD.split(read_text(path, MOST_LINES_BYTES, errors="replace"))
    samples = {int(step): text for step, text in zip(parts[1::2], parts[2::2], strict=True)}
    kept = {k: text for k, text in samples.items() if k <= step}
    write_text(path, "".join(f"--- step {k} ---{text}" for k, text in kept.items()))
    return set(kept)


class Samples(L.Callback):
    """Continues the validation split's first window, with the weights that are validated.

    The text goes to ``path`` and to the loggers that take text; for a recursive model those that
    take pictures also get the refinement picture of that window. Draws come from a generator of
    its own and no weight is touched for good, so a run trains the same, bit for bit, with and
    without it.

    Args:
        path: text file that samples are added to; None for the loggers alone.
        n_tokens: length of a sample.
    """

    def __init__(self, path: Path | None, n_tokens: int) -> None:
        self.path = path
        self.n_tokens = n_tokens
        self._written: set[int] = set()  # optimizer steps

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop samples that a killed run wrote after its last checkpoint."""
        assert isinstance(pl_module, TrainingModule)
        if not trainer.is_global_zero or self.path is None or not self.path.is_file():
            return
        self._written = drop_samples_after(self.path, pl_module.optimizer_steps)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write a sample and a picture, in the first process."""
        if not trainer.is_global_zero or not (self.path or trainer.loggers):
            return
        assert isinstance(pl_module, TrainingModule)
        data: TextDataModule = trainer.datamodule  # type: ignore[attr-defined]
        step = pl_module.optimizer_steps
        if step in self._written:
            return
        self._written.add(step)
        with pl_module.scoring() as model:
            window = np.asarray(data.splits["val"].tokens[: model.window_size], dtype=np.int64)
            text = self._continue(model, data.tokenizer, window.tolist())
            for logger in trainer.loggers:
                log_sample(logger, text, step)
                if model.scoring_depth and takes_pictures(logger):
                    tokens = torch.from_numpy(window)
                    figure = refinement_figure(model, data.tokenizer, tokens, N_COLUMNS, False)
                    log_picture(logger, "refinement", figure, step)
        if self.path is not None:
            append_text(self.path, f"--- step {step} ---\n{text}\n\n")

    def _continue(self, model: LanguageModel, tokenizer: Tokenizer, prompt: list[int]) -> str:
        """Return the prompt's end and what the model adds to it."""
        sampler = Sampler(torch.Generator().manual_seed(SEED))
        ids = list(sample(model, prompt, self.n_tokens, sampler))
        shown = prompt[-N_SHOWN:]
        before = tokenizer.decode(shown)
        return printable(f"…{before} ▸{tokenizer.decode(shown + ids)[len(before) :]}")
