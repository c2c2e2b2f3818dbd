"""The chunks of a window: how they start, and what they see.

Shapes: B windows, T tokens, C chunk, S states (T rounded up to whole chunks, less the chunks
before ``first``), D width; R rows and N context tokens with ``attention=joint``.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trm_lightning.nets.blocks import KeysValues
from trm_lightning.nets.context import CachedContext, Context, JointContext

if TYPE_CHECKING:
    from trm_lightning.nets.trm import RecursiveNet


class Chunks:
    """The chunks of a window from position ``first`` on: how they start and what they see.

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

    def reveal(self, n_known: int) -> Tensor:
        """Return the same number of known tokens for every chunk, (B, number of chunks)."""
        shape = (self.n_windows, len(self.positions) // self.net.chunk_size)
        return torch.full(shape, n_known, device=self.positions.device)

    def open(self, revealed: Tensor | None) -> tuple[Context, Tensor]:
        """Return what the chunks see and the answers that they start from.

        Args:
            revealed: (B, number of chunks) known tokens at the head of each chunk.
        """
        revealed = self.reveal(0) if revealed is None else revealed
        size = self.net.chunk_size
        per_state = revealed.repeat_interleave(size, dim=1)  # (B, S)
        if self.net.attention == "cached":
            context: Context = CachedContext(self.net, self.kept, self.positions, size, per_state)
            return context, self._start(self.positions, per_state)
        offsets = torch.arange(size, device=revealed.device)
        positions = self.net.context_size + offsets
        known = self.net.embed(self.chunk_tokens, positions)
        is_known = offsets < revealed.reshape(-1, 1)
        return JointContext(self.net, self.encoded, known, is_known), self._start(positions)

    def by_position(self, y: Tensor) -> Tensor:
        """Order states by the position they predict, (B, T - first, D)."""
        return self.cut(y.reshape(self.n_windows, len(self.positions), -1))

    def by_chunk(self, y: Tensor) -> Tensor:
        """Order states by chunk, (B, number of chunks, C, D)."""
        return y.reshape(self.n_windows, -1, self.net.chunk_size, y.shape[-1])

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
            source = (positions - offsets + revealed)[:, :, None].expand(-1, -1, net.width)
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
