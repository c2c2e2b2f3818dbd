"""The autoregressive baseline: one causal pass predicts every next token of a window."""

import torch
from torch import Tensor

from trm_lightning.models.base import LanguageNet


class AutoregressiveNet(LanguageNet):
    """A causal Transformer; see :class:`LanguageNet` for its arguments."""

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Return the states (B, T - first, D) that predict ``tokens[:, first:]`` (B, T)."""
        states, _ = self.encode(self.shift_right(tokens))
        return states[:, first:]

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        """See :meth:`LanguageNet.log_probs`."""
        return torch.log_softmax(self.logits(self(tokens, first)).float(), dim=-1)
