"""Training of the Tiny Recursive Model."""

from typing import Any

import torch
from torch import Tensor

from trm_lightning.models import RecursiveNet
from trm_lightning.training.module import LanguageModule, Supervised


class TRMModule(LanguageModule):
    """Each supervision step is trained against the same target.

    A net that is scored left to right inside a chunk is trained with a random number of each
    chunk's first tokens revealed, drawn once per batch. A net that starts from its encoder's
    draft has the draft supervised as well, as the step before the first refinement: nothing else
    teaches the encoder to predict where refinements carry no gradient.

    Args:
        draft_weight: weight in the loss of :attr:`Refined.draft`, a chunk's other prediction;
            the answer's own is 1.
        earlier_weight: weight in the loss of the answer after each refinement before the last,
            where it carries gradient. It makes refinements converge: further ones hardly matter.
        arguments, named_arguments: those of :class:`LanguageModule`.
    """

    net: RecursiveNet

    def __init__(
        self,
        *arguments: Any,
        draft_weight: float = 1.0,
        earlier_weight: float = 0.0,
        **named_arguments: Any,
    ) -> None:
        super().__init__(*arguments, **named_arguments)
        self.draft_weight = draft_weight
        self.earlier_weight = earlier_weight

    def supervision_step(self, tokens: Tensor, state: Any) -> Supervised:
        """See :meth:`LanguageModule.supervision_step`."""
        first = tokens.shape[1] - self.supervised_tokens
        revealed = self._draw_revealed(tokens, first) if state is None else state[1]
        carried = None if state is None else state[0]
        refined = self.net(tokens, carried, first, revealed)
        targets = tokens[:, first:]
        unknown = None if revealed is None else self._unknown(tokens, first, revealed)
        total = loss = self._surprise(refined.answer, targets, unknown)
        if self.earlier_weight > 0:
            for answer in refined.earlier:
                total = total + self.earlier_weight * self._surprise(answer, targets, unknown)
        if refined.draft is not None:
            drafted = targets[:, refined.drafted].flatten()
            surprise = self.net.cross_entropy(refined.draft.flatten(0, 1), drafted)
            total = total + self.draft_weight * surprise
        return Supervised(total, loss, (refined.state, revealed))

    def _surprise(self, answer: Tensor, targets: Tensor, unknown: Tensor | None) -> Tensor:
        """Return the mean nats of ``targets`` (B, S), of the ``unknown`` ones only."""
        if unknown is None:
            return self.net.cross_entropy(answer.flatten(0, 1), targets.flatten())
        return self.net.cross_entropy(answer[unknown], targets[unknown])

    def _draw_revealed(self, tokens: Tensor, first: int) -> Tensor | None:
        """Draw how many tokens of each chunk are known, (B, chunks); None when none ever is."""
        size = self.net.chunk_size
        if not self.net.reveals:
            return None
        n_chunks = -(-tokens.shape[1] // size) - first // size
        return torch.randint(size, (len(tokens), n_chunks), device=tokens.device)

    def _unknown(self, tokens: Tensor, first: int, revealed: Tensor) -> Tensor:
        """Say which of the positions from ``first`` on are still to be predicted, (B, S)."""
        size = self.net.chunk_size
        positions = torch.arange(first, tokens.shape[1], device=tokens.device)
        chunk = positions // size - first // size
        return (positions % size) >= revealed[:, chunk]
