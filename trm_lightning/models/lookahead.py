"""The states of a window: one for each token, and look-ahead states for the rest of its chunk.

The state of a position has read the tokens before it and predicts its token, as in an
autoregressive model. In addition, every token of a chunk but the first has a look-ahead state that
knows only the tokens before the chunk. All states of a chunk see its look-ahead states, so the
first token is predicted together with what may follow it, and one pass gives both factorizations:
left to right from the causal states, in parallel from the look-ahead states.

Shapes: B windows, T tokens, S look-ahead states, C chunk, D width.
"""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from trm_lightning.models.transformer import Transformer


class Pass(Protocol):
    """Runs a model's blocks once over the states of a window.

    Attributes:
        inputs: (B, T + S, D) x in the paper: what each state knows of its token.
    """

    inputs: Tensor

    @property
    def exit_groups(self) -> Tensor:
        """Return which states (T + S,) know the same tokens: they share a number, 0, 1, …."""
        ...

    def __call__(self, h: Tensor) -> Tensor:
        """Run all blocks over ``h`` (B, T + S, D)."""
        ...

    def skip(self, h: Tensor) -> None:
        """Do what later states need of a pass over ``h`` whose outcome nobody reads."""
        ...


@dataclass(frozen=True)
class Rows:
    """What the states of a window stand for.

    Attributes:
        positions: (N,) of the token that each predicts.
        ahead: (N,) True for a look-ahead state.
    """

    positions: Tensor
    ahead: Tensor

    @classmethod
    def of(cls, positions: Tensor, ahead: Tensor) -> "Rows":
        """Return causal states at ``positions`` (T,), then look-ahead states at ``ahead`` (S,)."""
        is_ahead = torch.ones(len(positions) + len(ahead), dtype=torch.bool, device=ahead.device)
        is_ahead[: len(positions)] = False
        return cls(torch.cat((positions, ahead)), is_ahead)

    def known_up_to(self, chunk_size: int) -> Tensor:
        """Return the last position (N,) whose input token each state knows.

        A causal state knows all up to its own; a look-ahead state what its chunk's first one does.
        """
        first = self.positions // chunk_size * chunk_size
        return torch.where(self.ahead, first, self.positions)

    def exit_groups(self, chunk_size: int) -> Tensor:
        """See :attr:`Pass.exit_groups`."""
        return self.known_up_to(chunk_size).unique(return_inverse=True)[1]

    def followed_by(self, other: "Rows") -> "Rows":
        """Return these rows, then the ``other`` ones."""
        return Rows(
            torch.cat((self.positions, other.positions)), torch.cat((self.ahead, other.ahead))
        )


def visible_rows(rows: Rows, others: Rows, chunk_size: int) -> Tensor:
    """Return which of the M ``others`` each of N ``rows`` may see, (N, M), True where it may.

    A causal state sees those up to its own. A look-ahead state sees what the first state of its
    chunk sees, so it knows only tokens before the chunk, and all states of the chunk may see it.
    """
    chunk, other_chunk = rows.positions // chunk_size, others.positions // chunk_size
    causal = others.positions <= rows.known_up_to(chunk_size)[:, None]
    return torch.where(others.ahead, chunk[:, None] == other_chunk, causal)


def embed_inputs(
    model: Transformer, query: Tensor | None, inputs: Tensor, positions: Tensor, ahead: Tensor
) -> Tensor:
    """Return x, what each state knows of its token, (B, T + S, D).

    Args:
        model: embeds the tokens.
        query: (C - 1, D) what tells the look-ahead states of a chunk apart; None without chunks.
        inputs: (B, T) the token before each position.
        positions: (T,) consecutive, of the causal states.
        ahead: (S,) positions of the look-ahead states, in chunks whose first position is among
            ``positions``.
    """
    x = model.embed(inputs, positions)
    if query is None or len(ahead) == 0:
        return x
    size = len(query) + 1
    last_known = inputs[:, ahead // size * size - positions[0]]
    looking = model.embed(last_known, ahead) + query[ahead % size - 1]
    return torch.cat((x, looking), dim=1)


class Window:
    """The states of a whole window.

    Args:
        model: whose blocks run.
        query: see :func:`embed_inputs`.
        tokens: (B, T) ids.
        first: tokens before this position are not predicted.
        factorization: which states predict a chunk's later tokens.
    """

    def __init__(
        self,
        model: Transformer,
        query: Tensor | None,
        tokens: Tensor,
        first: int,
        factorization: Literal["left_to_right", "parallel"],
    ) -> None:
        self.first, self.n_tokens = first, tokens.shape[1]
        self.size = size = 1 if query is None else len(query) + 1
        self.parallel = factorization == "parallel"
        # Whole chunks only: a token is scored the same whether its chunk is complete or not.
        tokens = nn.functional.pad(tokens, (0, -self.n_tokens % size), value=model.start_token)
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        # Of all chunks, wherever scoring begins: later tokens can see what they say.
        self.ahead = positions.view(-1, size)[:, 1:].flatten()
        # The row of the state that predicts each position in parallel with its chunk.
        self.parallel_rows = positions.clone()
        self.parallel_rows[self.ahead] = len(positions) + torch.arange(
            len(self.ahead), device=tokens.device
        )
        x = embed_inputs(model, query, model.shift_right(tokens), positions, self.ahead)
        self.blocks_pass = WindowPass(model, x, positions, self.ahead, size)

    def scored(self, y: Tensor) -> Tensor:
        """Return the states (B, T - first, D) that the factorization scores."""
        if self.parallel:
            return y[:, self.parallel_rows[self.first : self.n_tokens]]
        states = y[:, self.first : self.n_tokens]
        # Where states are cut off, no view: torch 2.11's compiler cannot return a state and a
        # part of it.
        return states if states.shape == y.shape else states.clone()

    def other_prediction(self, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return how the other factorization predicts a chunk's later tokens.

        Returns:
            States (B, n, D) and the columns (n,) they predict, counted from ``first``; None where
            there are none.
        """
        # All but the first position of each chunk. Counted, not selected by a mask, which would
        # require a host sync.
        begin, end = (n - -(-n // self.size) for n in (self.first, self.n_tokens))
        columns = self.ahead[begin:end]
        if len(columns) == 0:
            return None
        rows = columns if self.parallel else self.parallel_rows[columns]
        return y[:, rows], columns - self.first


class WindowPass:
    """See :class:`Pass`; all states run, nothing is kept.

    Args:
        model: whose blocks run.
        inputs: (B, T + S, D) what each state knows of its token.
        positions: (T,) of the causal states, each of which has read the tokens before its own.
        ahead: (S,) positions of the look-ahead states.
        chunk_size: C.
    """

    def __init__(
        self, model: Transformer, inputs: Tensor, positions: Tensor, ahead: Tensor, chunk_size: int
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.n_causal = len(positions)
        self.chunk_size = chunk_size
        self.rows = rows = Rows.of(positions, ahead)
        self.rotation = model.rotation(rows.positions)
        # None is plain causal attention, for which there are fast kernels.
        self.mask = None if len(ahead) == 0 else visible_rows(rows, rows, chunk_size)

    @cached_property
    def exit_groups(self) -> Tensor:
        """See :attr:`Pass.exit_groups`; computed on demand, since it requires a host sync."""
        return self.rows.exit_groups(self.chunk_size)

    def __call__(self, h: Tensor) -> Tensor:
        """See :class:`Pass`."""
        for block in self.model.layers:
            h, _ = block(h, None, self.mask, self.mask is None, self.rotation)
        return h

    def skip(self, h: Tensor) -> None:
        """See :class:`Pass`; nothing remains of a pass here."""

    def with_mask(self, mask: Tensor) -> "WindowPass":
        """Return this pass under another attention mask (T + S, T + S), True where visible."""
        other = copy.copy(self)
        other.mask = mask
        return other

    def isolated(self) -> "WindowPass":
        """Return this pass with look-ahead states that only see and are seen by themselves."""
        if self.mask is None:
            return self
        mask = self.mask.clone()
        mask[:, self.n_causal :] = False
        return self.with_mask(mask.fill_diagonal_(True))
