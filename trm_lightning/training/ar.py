"""Training of the autoregressive baseline."""

from typing import Any

from torch import Tensor

from trm_lightning.training.module import LanguageModule, Supervised


class ARModule(LanguageModule):
    """Next-token cross-entropy; one supervision step per batch."""

    def supervision_step(self, tokens: Tensor, state: Any) -> Supervised:
        """See :meth:`LanguageModule.supervision_step`."""
        first = tokens.shape[1] - self.supervised_tokens
        states = self.net(tokens, first)
        loss = self.net.cross_entropy(states.flatten(0, 1), tokens[:, first:].flatten())
        return Supervised(loss, loss)
