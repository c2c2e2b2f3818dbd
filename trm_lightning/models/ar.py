"""The autoregressive baseline: one causal pass predicts every next token of a window."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from trm_lightning.models.base import Reading, SupervisionStep
from trm_lightning.models.kv_cache import CachedPass, CachedWindow
from trm_lightning.models.transformer import Transformer


class AR(Transformer):
    """A causal Transformer; see :class:`Transformer` for its arguments."""

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Return the states (B, T - first, D) that predict ``tokens[:, first:]`` (B, T)."""
        return self.encode(self.shift_right(tokens))[:, first:]

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        """See :meth:`LanguageModel.log_probs`."""
        return self.distribution(self(tokens, first))

    def supervision_step(
        self, tokens: Tensor, first: int = 0, state: Any = None
    ) -> SupervisionStep:
        """See :meth:`LanguageModel.supervision_step`."""
        nll = self.nll(self(tokens, first), tokens[:, first:])
        return SupervisionStep(nll, nll)

    def trace(
        self, tokens: Tensor, first: int = 0, depth: int = 0, by_recursion: int = 0
    ) -> Iterator[Reading]:
        """See :meth:`LanguageModel.trace`; the one reading has the states ``y`` that predict."""
        states = self(tokens, first)
        yield Reading(0, 0, self.distribution(states), {"y": states})

    def open_window(self) -> CachedWindow:
        """See :meth:`LanguageModel.open_window`."""
        return CachedWindow(self, _one_pass)


def _one_pass(run: CachedPass) -> Tensor:
    """Run the blocks once over the embeddings."""
    return run(run.inputs)
