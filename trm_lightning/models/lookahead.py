"""The chunks of a window: how they start, and what they see.

Shapes: B windows, T tokens, C chunk, S states (T rounded up to whole chunks, less the chunks
before ``first``), D width; R rows and N context tokens with ``attention=joint``.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trm_lightning.models.context import CachedContext, Context, JointContext, RecursiveContext
from trm_lightning.models.transformer import KeysValues

if TYPE_CHECKING:
    from trm_lightning.models.trm import RecursiveNet


Pass = tuple[Tensor, Context, Tensor]


def open_chunks(net: "RecursiveNet", tokens: Tensor, first: int) -> "Chunks | RefinedWindow":
    """Return the chunks of ids (B, T) from position ``first`` on, as ``net.attention`` has them."""
    kind = RefinedWindow if net.attention == "recursive" else Chunks
    return kind(net, tokens, first)


class Chunks:
    """Chunks that are refined in view of a context that is encoded once.

    Attributes:
        encoded: (B, S', D) the encoder's states over the window (``cached``), entry t of which
            predicts token t; for ``joint`` (R, N, D), the contexts of the R chunks.
    """

    def __init__(self, net: "RecursiveNet", tokens: Tensor, first: int) -> None:
        self.net = net
        self.n_tokens = tokens.shape[1]
        self.first = first
        size = net.chunk_size
        self.begin = first // size * size
        # Whole chunks only: a token is scored the same whether its chunk is complete or not.
        padding = -self.n_tokens % size
        tokens = nn.functional.pad(tokens, (0, padding), value=net.start_token)
        self.n_windows, self.n_padded = tokens.shape
        self.positions = torch.arange(self.begin, self.n_padded, device=tokens.device)
        self.chunk_tokens = tokens[:, self.begin :].reshape(-1, size)
        self.kept: list[KeysValues] = []
        if net.attention == "cached":
            self.encoded, self.kept = net.encode(net.shift_right(tokens))
        else:
            self.encoded = self._encode_contexts(tokens)

    def passes(self) -> Iterator[Pass]:
        """Yield what it takes to score every token once.

        Columns (n,), counted from ``first``, that a pass scores; its context; its start.
        """
        offsets = torch.arange(self.first, self.n_tokens, device=self.positions.device)
        if self.net.factorization == "parallel":
            yield offsets - self.first, *self.open()
            return
        offsets = offsets % self.net.chunk_size
        for n_known in range(self.net.chunk_size):
            columns = (offsets == n_known).nonzero()[:, 0]
            if len(columns) > 0:
                yield columns, *self.open(n_known)

    def draft(self, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return another prediction of tokens, (B, n, D), and their columns (n,), if there is one.

        With ``chunk_start=draft`` it is what the encoder says, whatever the answer ``y``.
        """
        if self.net.chunk_start != "draft":
            return None
        columns = torch.arange(self.n_tokens - self.first, device=y.device)
        return self.encoded[:, self.first : self.n_tokens], columns

    def open(self, revealed: Tensor | int = 0) -> tuple[Context, Tensor]:
        """Return what the chunks see and the answers that they start from.

        Args:
            revealed: (B, number of chunks) known tokens at the head of each chunk; a number is
                the same for all.
        """
        size = self.net.chunk_size
        if isinstance(revealed, int):
            n_chunks = len(self.positions) // size
            revealed = torch.full((1, n_chunks), revealed, device=self.positions.device)
        per_state = revealed.repeat_interleave(size, dim=1)  # (1 or B, S)
        if self.net.attention == "cached":
            context: Context = CachedContext(self.net, self.kept, self.positions, size, per_state)
            return context, self._start(self.positions, per_state)
        offsets = torch.arange(size, device=revealed.device)
        positions = self.net.context_size + offsets
        known = self.net.embed(self.chunk_tokens, positions)
        is_known = offsets < revealed.expand(self.n_windows, -1).reshape(-1, 1)
        return JointContext(self.net, self.encoded, known, is_known), self._start(positions)

    def by_position(self, y: Tensor) -> Tensor:
        """Order states by the position they predict, (B, T - first, D)."""
        return self.cut(y.reshape(self.n_windows, len(self.positions), -1))

    def cut(self, x: Tensor) -> Tensor:
        """Drop the positions before ``first`` and the padding, (B, S, …) -> (B, T - first, …)."""
        return x[:, self.first - self.begin : self.n_tokens - self.begin]

    def _start(self, positions: Tensor, revealed: Tensor | None = None) -> Tensor:
        """Return the states that chunks start from, with positions (S,) or (C,) in the net."""
        net = self.net
        if net.chunk_start == "target":
            shape = (-1, len(positions))
            return net.embed(self.chunk_tokens.reshape(shape), positions)
        offsets = positions % net.chunk_size if net.attention == "cached" else None
        if net.chunk_start == "draft":
            assert offsets is not None and revealed is not None and net.query is not None
            # The last encoder state that has read known tokens only; beyond it, look ahead.
            ahead = (offsets - revealed).clamp(min=0)
            source = (positions - offsets + revealed)[:, :, None]
            source = source.expand(self.n_windows, -1, net.width)
            return self.encoded.gather(1, source) + net.query[ahead]
        start = self.encoded.new_zeros(len(positions), net.width)
        if net.query is not None:
            start = net.query if offsets is None else net.query[offsets]
        if net.position_embedding is not None:
            start = start + net.position_embedding(positions)
        n_rows = self.n_windows if offsets is not None else len(self.chunk_tokens)
        return start.expand(n_rows, -1, -1)

    def _encode_contexts(self, tokens: Tensor) -> Tensor:
        """Encode each chunk's ``context_size`` tokens causally; start tokens fill what lacks."""
        n_context, size = self.net.context_size, self.net.chunk_size
        filled = nn.functional.pad(tokens, (n_context, 0), value=self.net.start_token)
        rows = filled[:, self.begin :].unfold(1, n_context + size, size)
        return self.net.encode(rows[:, :, :n_context].reshape(-1, n_context))[0]


class RefinedWindow:
    """A window whose states are all refined: there is no context that stands apart.

    The state of each position has read the tokens before it and predicts its token, as in an
    autoregressive net. Beside it, every token of a chunk but the first has a state that looks
    ahead: it knows only the tokens before the chunk. All states of a chunk see those, so the first
    token is predicted together with what may follow it, and one pass gives both factorizations.
    """

    def __init__(self, net: "RecursiveNet", tokens: Tensor, first: int) -> None:
        self.net = net
        self.first, self.n_tokens = first, tokens.shape[1]
        size = net.chunk_size
        tokens = nn.functional.pad(tokens, (0, -self.n_tokens % size), value=net.start_token)
        self.inputs = net.shift_right(tokens)
        self.positions = torch.arange(tokens.shape[1], device=tokens.device)
        # Of all chunks, wherever scoring begins: what they say, later tokens can see.
        self.ahead = self.positions.view(-1, size)[:, 1:].flatten()
        # The row of the state that predicts each position in parallel with its chunk.
        self.parallel_rows = self.positions.clone()
        self.parallel_rows[self.ahead] = len(self.positions) + torch.arange(
            len(self.ahead), device=tokens.device
        )

    def passes(self) -> Iterator[Pass]:
        """See :meth:`Chunks.passes`; one pass scores all."""
        columns = torch.arange(self.n_tokens - self.first, device=self.inputs.device)
        yield columns, *self.open()

    def open(self, revealed: Tensor | int = 0) -> tuple[Context, Tensor]:
        """See :meth:`Chunks.open`; here states know the same whatever is ``revealed``."""
        known = embed_known(self.net, self.inputs, self.positions, self.ahead)
        context = RecursiveContext(self.net, known, self.positions, self.ahead, self.net.chunk_size)
        return context, torch.zeros_like(known)

    def by_position(self, y: Tensor) -> Tensor:
        """Return the states (B, T - first, D) that the factorization scores."""
        if self.net.factorization == "parallel":
            return y[:, self.parallel_rows[self.first : self.n_tokens]]
        states = y[:, self.first : self.n_tokens]
        # Where states are cut off, no view: torch 2.11's compiler cannot hand back a state and a
        # part of it.
        return states if states.shape == y.shape else states.clone()

    def draft(self, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """See :meth:`Chunks.draft`; here, how the other factorization predicts those tokens."""
        # Those before a position are all but the first of each chunk. Counted, not selected by a
        # mask: a GPU would have to be waited for.
        begin, end = (n - -(-n // self.net.chunk_size) for n in (self.first, self.n_tokens))
        columns = self.ahead[begin:end]
        if len(columns) == 0:
            return None
        rows = columns if self.net.factorization == "parallel" else self.parallel_rows[columns]
        return y[:, rows], columns - self.first


def embed_known(net: "RecursiveNet", inputs: Tensor, positions: Tensor, ahead: Tensor) -> Tensor:
    """Return what the states of ``attention=recursive`` know of their tokens, (B, T + S, D).

    Args:
        net: the net.
        inputs: (B, T) the token before each position.
        positions: (T,) consecutive ones, of the causal states.
        ahead: (S,) positions of the states that look ahead, in chunks whose first position is
            among ``positions``.
    """
    start = net.embed(inputs, positions)
    if len(ahead) == 0:
        return start
    assert net.query is not None
    size = net.chunk_size
    last_known = inputs[:, ahead // size * size - positions[0]]
    looking = net.embed(last_known, ahead) + net.query[ahead % size]
    return torch.cat((start, looking), dim=1)
