"""Three ways in which the states of a chunk attend to the tokens before it.

All are called with states and run all blocks once; what depends on the context alone is computed
when the object is made, once per supervision step, not once per pass.

Shapes: B windows, T tokens, S states, C chunk, D width; R rows, N context tokens.
"""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from trm_lightning.models.attention import bias
from trm_lightning.models.base import LanguageNet
from trm_lightning.models.transformer import KeysValues


class Context(Protocol):
    """Runs the net's blocks once over chunk states, in view of their context."""

    @property
    def units(self) -> Tensor:
        """Return which states (S,) know the same tokens: they have the same number, 0, 1, …."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Return the states after one pass through all blocks, of the shape of ``x``."""
        ...

    def skip(self, x: Tensor) -> None:
        """Take note of a pass over ``x`` whose outcome nobody needs."""
        ...


class CachedContext:
    """The context's keys and values are kept; only chunk states run, all chunks at once.

    Args:
        net: the net whose blocks run.
        kept: per block, keys and values of the encoded window ``[start, x_0 … x_{T-2}]``.
        positions: (S,) the position of the token that each state predicts.
        chunk_size: C.
        revealed: (1 or B, S) how many tokens of the state's chunk are known; they are context.
    """

    def __init__(
        self,
        net: LanguageNet,
        kept: list[KeysValues],
        positions: Tensor,
        chunk_size: int,
        revealed: Tensor,
    ) -> None:
        self.net = net
        self.kept = kept
        self.rotation = net.rotation(positions)
        self.visible = chunk_mask(positions, chunk_size, revealed, kept[0][0].shape[2])
        self.units = (positions - positions[0]) // chunk_size

    def __call__(self, x: Tensor) -> Tensor:
        """Run all blocks over ``x`` (B, S, D)."""
        for block, kept in zip(self.net.layers, self.kept, strict=True):
            x = block.forward_in_groups(x, kept, self.bias, self.rotation)
        return x

    def skip(self, x: Tensor) -> None:
        """See :meth:`Context.skip`; nothing remains of a pass here."""

    @cached_property
    def bias(self) -> Tensor:
        """What is added to attention's scores for ``visible``."""
        return bias(self.visible, self.kept[0][0])

    def seeing(self, visible: Tensor) -> "CachedContext":
        """Return this context under another mask."""
        other = copy.copy(self)
        other.visible = visible
        other.__dict__.pop("bias", None)
        return other


def chunk_mask(positions: Tensor, chunk_size: int, revealed: Tensor, n_context: int) -> Tensor:
    """Say what each state may see: (1 or B, 1, S, n_context + G), True where it may look.

    A state of chunk b sees the encoder's positions up to the last known token (encoder position
    p holds token p - 1, so p <= C b + revealed), and the states of its own chunk that stand for
    tokens still unknown. Never a later chunk, never an unknown token. The last G columns are the
    states of its group of whole chunks: a matrix library is slow at very small products.
    """
    n_known = positions // chunk_size * chunk_size + revealed  # tokens before this one are known
    context = torch.arange(n_context, device=positions.device) <= n_known[:, :, None]
    group = chunk_size * chunks_in_group(len(positions) // chunk_size, chunk_size)
    of_group = positions.view(-1, group).repeat_interleave(group, dim=0)  # (S, G)
    same_chunk = of_group // chunk_size == positions[:, None] // chunk_size
    unknown = of_group >= n_known[:, :, None]
    return torch.cat((context, same_chunk & unknown), dim=2)[:, None]


def chunks_in_group(n_chunks: int, chunk_size: int) -> int:
    """Return how many chunks attend together: as many as divide all and have 8 states at most."""
    fitting = range(1, max(8 // chunk_size, 1) + 1)
    return max(n for n in fitting if n_chunks % n == 0)


class JointContext:
    """The sources' way: context and chunk run through the blocks together, unmasked.

    The first block's projections of the context and, in the last block, everything but the
    chunk's own rows are not computed again or not at all; the chunk's states are the same.

    Args:
        net: the net whose blocks run.
        states: (R, N, D) the encoded context.
        known: (R, C, D) embeddings of the chunk's tokens.
        revealed: (R, C) True where a token is known and its embedding stands for its state.
    """

    def __init__(self, net: LanguageNet, states: Tensor, known: Tensor, revealed: Tensor) -> None:
        self.net = net
        self.states = states
        self.known = known
        self.revealed = revealed[:, :, None]
        self.units = torch.zeros_like(revealed[0], dtype=torch.long)
        n_context, n_rows = states.shape[1], states.shape[1] + known.shape[1]
        positions = torch.arange(n_rows, device=states.device)
        self.rotation_context = net.rotation(positions[:n_context])
        self.rotation_chunk = net.rotation(positions[n_context:])
        self.rotation_all = net.rotation(positions)
        self.projected = net.layers[0].project(states, self.rotation_context)

    def __call__(self, x: Tensor) -> Tensor:
        """Run all blocks over context and ``x`` (R, C, D) together; return the chunk's rows."""
        x = torch.where(self.revealed, self.known, x)
        blocks = self.net.layers
        if len(blocks) == 1:
            return blocks[0](x, self.projected[1:], rotation=self.rotation_chunk)[0]
        n_context = self.states.shape[1]
        rows = self._first_block(x)
        for block in blocks[1:-1]:
            rows, _ = block(rows, rotation=self.rotation_all)
        past = blocks[-1].keys_values(rows[:, :n_context], self.rotation_context)
        return blocks[-1](rows[:, n_context:], past, rotation=self.rotation_chunk)[0]

    def skip(self, x: Tensor) -> None:
        """See :meth:`Context.skip`; nothing remains of a pass here."""

    def _first_block(self, x: Tensor) -> Tensor:
        block = self.net.layers[0]
        chunk = block.project(x, self.rotation_chunk)
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(self.projected, chunk, strict=True))
        return block.finish(torch.cat((self.states, x), dim=1), block.attention.attend(q, k, v))


class RecursiveContext:
    """Nothing is kept: the states of the tokens before a chunk are refined along with its own.

    Args:
        net: the net whose blocks run.
        injected: (B, T + S, D) what states know of their tokens, x in the paper; it is added to
            them before every pass, so that no depth forgets it.
        positions: (T,) of the causal states, each of which has read the tokens before its own.
        ahead: (S,) positions of the states that look ahead, of tokens that are not a chunk's first.
        chunk_size: C.
    """

    def __init__(
        self,
        net: LanguageNet,
        injected: Tensor,
        positions: Tensor,
        ahead: Tensor,
        chunk_size: int,
    ) -> None:
        self.net = net
        self.injected = injected
        self.n_causal = len(positions)
        self.chunk_size = chunk_size
        self.rows = rows = Rows.of(positions, ahead)
        self.rotation = net.rotation(rows.positions)
        self.mask = None if len(ahead) == 0 else visible_rows(rows, rows, chunk_size)

    @cached_property
    def units(self) -> Tensor:
        """See :attr:`Context.units`; only halting asks, and a GPU has to be waited for."""
        return self.rows.units(self.chunk_size)

    def __call__(self, x: Tensor) -> Tensor:
        """Run all blocks over ``x`` (B, T + S, D)."""
        x = x + self.injected
        for block in self.net.layers:
            x, _ = block(x, None, self.mask, self.mask is None, self.rotation)
        return x

    def skip(self, x: Tensor) -> None:
        """See :meth:`Context.skip`; nothing remains of a pass here."""

    def isolated(self) -> "RecursiveContext":
        """Return this context with look-ahead states that nothing sees but themselves."""
        other = copy.copy(self)
        if self.mask is not None:
            other.mask = self.mask.clone()
            other.mask[:, self.n_causal :] = False
            other.mask.fill_diagonal_(True)
        return other


@dataclass(frozen=True)
class Rows:
    """What the states of ``attention=recursive`` stand for.

    Attributes:
        positions: (N,) of the token that each predicts.
        ahead: (N,) True for a state that looks ahead.
    """

    positions: Tensor
    ahead: Tensor

    @classmethod
    def of(cls, positions: Tensor, ahead: Tensor) -> "Rows":
        """Return causal states at ``positions`` (T,), then states that look ``ahead`` (S,)."""
        is_ahead = torch.ones(len(positions) + len(ahead), dtype=torch.bool, device=ahead.device)
        is_ahead[: len(positions)] = False
        return cls(torch.cat((positions, ahead)), is_ahead)

    def known_up_to(self, chunk_size: int) -> Tensor:
        """Return the last position (N,) whose input token each state knows.

        A causal state knows all up to its own, one that looks ahead what its chunk's first does.
        """
        first = self.positions // chunk_size * chunk_size
        return torch.where(self.ahead, first, self.positions)

    def units(self, chunk_size: int) -> Tensor:
        """See :attr:`Context.units`."""
        return self.known_up_to(chunk_size).unique(return_inverse=True)[1]

    def followed_by(self, other: "Rows") -> "Rows":
        """Return these rows, then the ``other`` ones."""
        return Rows(
            torch.cat((self.positions, other.positions)), torch.cat((self.ahead, other.ahead))
        )


def visible_rows(rows: Rows, others: Rows, chunk_size: int) -> Tensor:
    """Say which of the M ``others`` each of N ``rows`` may see, (N, M), True where it may look.

    A causal state sees those up to its own. A state that looks ahead sees what the first state of
    its chunk sees, hence knows only tokens before the chunk, so all states of the chunk may see it.
    """
    chunk, other_chunk = rows.positions // chunk_size, others.positions // chunk_size
    causal = others.positions <= rows.known_up_to(chunk_size)[:, None]
    return torch.where(others.ahead, chunk[:, None] == other_chunk, causal)
