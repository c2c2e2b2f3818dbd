"""Controls of the leak audit: models that see the answer, each in a way real ones have gone wrong.

The audit must fail every one of them. ``conf/model/leaky_target_start.yaml`` is another: the notes'
own model, which starts from the answer.

Shapes: B windows, T tokens, C chunk, D width.
"""

import torch
from torch import Tensor

from trm_lightning.models.lookahead import Window
from trm_lightning.models.looped import Looped


class LeakyModel(Looped):
    """A looped Transformer whose numbers are not perplexities and are not called so."""

    is_likelihood = False
    text_only = True


class LeakyChunkMask(LeakyModel):
    """The attention mask is shifted by one: each state also sees the next one."""

    def _open_text(self, tokens: Tensor, first: int) -> Window:
        window = super()._open_text(tokens, first)
        n = len(window.blocks_pass.rows.positions)
        mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device).tril(1)
        window.blocks_pass = window.blocks_pass.with_mask(mask)
        return window


class LeakyContextMask(LeakyModel):
    """Attention is not causal: each state sees the whole window."""

    def _open_text(self, tokens: Tensor, first: int) -> Window:
        window = super()._open_text(tokens, first)
        n = len(window.blocks_pass.rows.positions)
        mask = torch.ones(n, n, dtype=torch.bool, device=tokens.device)
        window.blocks_pass = window.blocks_pass.with_mask(mask)
        return window


class LeakyPooledChunk(LeakyModel):
    """Each state is told the mean of its pair of positions, the later one included."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Add the mean over each pair of positions."""
        x = super().embed(tokens, positions)
        padded = torch.nn.functional.pad(x, (0, 0, 0, x.shape[1] % 2))
        pooled = padded.unflatten(1, (-1, 2)).mean(dim=2).repeat_interleave(2, dim=1)
        return x + pooled[:, : x.shape[1]]


class LeakyBatchStatistics(LeakyModel):
    """Embeddings are centred by their mean over the positions of all windows of a batch."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Subtract the mean over the batch."""
        x = super().embed(tokens, positions)
        return x - x.mean(dim=(0, 1))
