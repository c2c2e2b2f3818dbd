"""The states of a puzzle: one for each cell, which reads the question and predicts the answer.

The whole answer is one chunk: every cell is predicted in sight of all others, and no state ever
reads a cell of the answer. It stands beside :mod:`trm_lightning.models.lookahead`, the states of a
window of text, and runs the same blocks.

Shapes: B puzzles, C cells, D width.
"""

import torch
from torch import Tensor

from trm_lightning.models.transformer import Transformer


class BoardWindow:
    """A puzzle in the place of a window of text; see :class:`Window`.

    Args:
        model: whose blocks run.
        tokens: (B, 2 C) ids of the question, then of the answer; the latter is not read.
        first: tokens before this position are not predicted; at least C.
        size: C.

    Raises:
        ValueError: something else than answers is to be predicted.
    """

    def __init__(self, model: Transformer, tokens: Tensor, first: int, size: int) -> None:
        if first < size or tokens.shape[1] > 2 * size:
            raise ValueError(f"a board of {size} cells predicts the tokens {size} to {2 * size}")
        self.columns = slice(first - size, tokens.shape[1] - size)
        positions = torch.arange(size, device=tokens.device)
        question = model.embed(tokens[:, :size], positions)
        self.blocks_pass = BoardPass(model, question, positions)

    def scored(self, y: Tensor) -> Tensor:
        """Return the states (B, T - first, D) that predict the cells from ``first`` on."""
        return y[:, self.columns]

    def other_prediction(self, y: Tensor) -> None:
        """Return nothing: there is no other factorization."""


class BoardPass:
    """See :class:`trm_lightning.models.lookahead.Pass`; every cell sees every other.

    Args:
        model: whose blocks run.
        inputs: (B, C, D) what each cell knows of the question.
        positions: (C,) of the cells.
    """

    def __init__(self, model: Transformer, inputs: Tensor, positions: Tensor) -> None:
        self.model = model
        self.inputs = inputs
        self.rotation = model.rotation(positions)
        self.mixes_cells = model.mixing != "attention"

    @property
    def exit_groups(self) -> Tensor:
        """The cells of a board stop together."""
        return torch.zeros(self.inputs.shape[1], dtype=torch.long, device=self.inputs.device)

    def __call__(self, h: Tensor) -> Tensor:
        """See :class:`Pass`."""
        for block in self.model.layers:
            h = block.mix_cells(h) if self.mixes_cells else block(h, rotation=self.rotation)[0]
        return h

    def skip(self, h: Tensor) -> None:
        """See :class:`Pass`; nothing remains of a pass here."""
