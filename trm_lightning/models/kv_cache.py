"""A window of ``attention=recursive`` that is read in parts: only new states run.

Shapes: B sequences, n new tokens, N kept rows, R new rows, C chunk, D width.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trm_lightning.models.context import Rows, visible_rows
from trm_lightning.models.lookahead import embed_known
from trm_lightning.models.transformer import KeysValues, Rotation

if TYPE_CHECKING:
    from trm_lightning.models.trm import RecursiveNet


class GrowingContext:
    """Runs new states in view of the rows that earlier states left in the very same pass.

    Args:
        net: the net whose blocks run.
        rows: the R new ones.
        injected: (B, R, D) what the new rows know of their tokens; see :class:`RecursiveContext`.
        past: keys and values of N rows for each block of each pass, in the order in which they
            run; empty where nothing has run before.
        mask: (R, N + R) True where a new row may look; None for everywhere.
        rotation: of the new rows.

    Attributes:
        kept: as ``past``, with the new rows behind, once all passes have run.
    """

    def __init__(
        self,
        net: "RecursiveNet",
        rows: Rows,
        injected: Tensor,
        past: list[KeysValues],
        mask: Tensor | None,
        rotation: Rotation | None,
    ) -> None:
        self.net = net
        self.rows = rows
        self.injected = injected
        self.past: Iterator[KeysValues] = iter(past)
        self.mask = mask
        self.rotation = rotation
        self.kept: list[KeysValues] = []

    @cached_property
    def units(self) -> Tensor:
        """See :attr:`Context.units`."""
        return self.rows.units(self.net.chunk_size)

    def __call__(self, x: Tensor) -> Tensor:
        """Run all blocks over ``x`` (B, R, D), as the pass that comes next."""
        x = x + self.injected
        for block in self.net.layers:
            x, keys_values = block(x, next(self.past, None), self.mask, False, self.rotation)
            self.kept.append(keys_values)
        return x

    def skip(self, x: Tensor) -> None:
        """Keep what later states see of a pass over ``x``, and compute no more than that."""
        x = x + self.injected
        for block in self.net.layers[:-1]:
            x, keys_values = block(x, next(self.past, None), self.mask, False, self.rotation)
            self.kept.append(keys_values)
        k, v = self.net.layers[-1].keys_values(x, self.rotation)
        past = next(self.past, None)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        self.kept.append((k, v))


class GrowingWindow:
    """:class:`RefinedWindow` for generation, with keys and values of every pass and block kept.

    Of the look-ahead states only those of the chunk that is being written are kept: nothing
    after the chunk sees them.

    Attributes:
        n_read: causal states that have run; as many tokens are known, the start token included.
        last: (B, 1, D) refined state of the last causal row, which predicts the next token.
        look_ahead: (B, C - 1, D) refined states of the present chunk's look-ahead, whose entry
            j predicts the chunk's token j + 1 from the tokens before the chunk.
    """

    last: Tensor
    look_ahead: Tensor

    def __init__(self, net: "RecursiveNet") -> None:
        self.net = net
        self.n_read = 0
        device = net.token_embedding.weight.device
        nothing = torch.empty(0, dtype=torch.long, device=device)
        self._rows = Rows(nothing, nothing.bool())
        self._kept: list[KeysValues] = []

    def read(self, inputs: Tensor) -> Tensor:
        """Run the states that read ``inputs`` (B, n), the start token being the first of all.

        Returns:
            (B, n, D) refined states, each of which predicts the token after the one it has read.
        """
        net, size = self.net, self.net.chunk_size
        first, n_new = self.n_read, inputs.shape[1]
        if first + n_new > net.window_size:
            raise ValueError(f"{first + n_new} tokens do not fit into {net.window_size}")
        self._select(~self._rows.ahead | (self._rows.positions // size == first // size))
        positions = torch.arange(first, first + n_new, device=inputs.device)
        opened = positions[positions % size == 0]
        ahead = (opened[:, None] + torch.arange(1, size, device=inputs.device)).flatten()
        new = Rows.of(positions, ahead)
        rows = self._rows.followed_by(new)
        mask = visible_rows(new, rows, size)
        seen = None if bool(mask.all()) else mask
        known = embed_known(net, inputs, positions, ahead)
        rotation = net.rotation(new.positions)
        context = GrowingContext(net, new, known, self._kept, seen, rotation)
        y = torch.zeros_like(known)
        for y, _ in net.unroll(context, y, torch.zeros_like(y), net.scoring_depth):  # noqa: B007, B020
            pass
        self.n_read, self._rows, self._kept = first + n_new, rows, context.kept
        if len(opened):
            self.look_ahead = y[:, n_new:][:, 1 - size :]
        self.last = y[:, n_new - 1 : n_new]
        return y[:, :n_new]

    def forget(self, n_read: int) -> None:
        """Drop the causal states after the first ``n_read``, and what looks ahead from there.

        ``look_ahead`` and ``last`` stay as they were: they are of the next :meth:`read`.
        """
        rows, size = self._rows, self.net.chunk_size
        present = (n_read - 1) // size
        self._select(
            torch.where(rows.ahead, rows.positions // size <= present, rows.positions < n_read)
        )
        self.n_read = min(self.n_read, n_read)

    def _select(self, wanted: Tensor) -> None:
        """Keep the ``wanted`` (N,) rows."""
        if bool(wanted.all()):
            return
        index = wanted.nonzero()[:, 0]
        self._rows = Rows(self._rows.positions[index], self._rows.ahead[index])
        self._kept = [(k[:, :, index], v[:, :, index]) for k, v in self._kept]
