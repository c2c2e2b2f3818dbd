"""Negative controls: nets that see the answer, each in a way in which real ones have gone wrong.

They are here to show that the leak audit finds them. The fifth control needs no class of its own:
it is :class:`RecursiveNet` with ``chunk_start=target``.

Shapes: B windows, T tokens, C chunk, D width.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from trm_lightning.models.context import CachedContext, Context
from trm_lightning.models.transformer import KeysValues
from trm_lightning.models.trm import RecursiveNet, State


class LeakyNet(RecursiveNet):
    """A recursive net whose numbers are no perplexities, and are not called so."""

    is_likelihood = False


class LeakyChunkMask(LeakyNet):
    """A chunk's states look one token too far: the mask of the context is shifted by one."""

    def unroll(self, context: Context, y: Tensor, z: Tensor, depth: int) -> Iterator[State]:
        """See :meth:`RecursiveNet.unroll`."""
        assert isinstance(context, CachedContext)
        n_context = context.kept[0][0].shape[2]
        visible = context.visible.clone()
        visible[..., 1:n_context] |= context.visible[..., : n_context - 1]
        return super().unroll(context.seeing(visible), y, z, depth)


class LeakyContextMask(LeakyNet):
    """The context's encoder is not causal: each of its states sees the whole window."""

    def encode(
        self, inputs: Tensor, past: list[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """See :meth:`LanguageNet.encode`."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        x, rotation = self.embed(inputs, positions), self.rotation(positions)
        kept = []
        for block in self.layers:
            x, keys_values = block(x, rotation=rotation)
            kept.append(keys_values)
        return x, kept


class LeakyPooledChunk(LeakyNet):
    """Each state is told the mean of its chunk, of which it is a part; so are those after it."""

    def encode(
        self, inputs: Tensor, past: list[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """See :meth:`LanguageNet.encode`; T is a multiple of C here."""
        states, kept = super().encode(inputs, past)
        pooled = states.unflatten(1, (-1, self.chunk_size)).mean(dim=2)
        return states + pooled.repeat_interleave(self.chunk_size, dim=1), kept


class LeakyBatchStatistics(LeakyNet):
    """States are centred by their mean over the positions of all windows of a batch."""

    def encode(
        self, inputs: Tensor, past: list[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """See :meth:`LanguageNet.encode`."""
        states, kept = super().encode(inputs, past)
        return states - states.mean(dim=(0, 1)), kept
