"""A window that is read in parts, for generation: only the states of new tokens run.

Shapes: B sequences, n new tokens, N kept rows, R new rows, C chunk, D width.
"""

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from trm_lightning.models.blocks import KeysValues, Rotation
from trm_lightning.models.lookahead import Rows, embed_inputs, visible_rows
from trm_lightning.models.transformer import Transformer


class CachedPass:
    """See :class:`Pass`; new states see the keys and values that earlier states left in this pass.

    Args:
        model: whose blocks run.
        rows: the R new ones.
        inputs: (B, R, D) what the new rows know of their tokens.
        past: keys and values of N rows for each block of each pass, in the order in which they
            run; empty where nothing has run before.
        mask: (R, N + R) True where a new row may look; None for everywhere.
        rotation: of the new rows.
        chunk_size: C.

    Attributes:
        kept: as ``past``, with the new rows appended, once all passes have run.
    """

    def __init__(
        self,
        model: Transformer,
        rows: Rows,
        inputs: Tensor,
        past: list[KeysValues],
        mask: Tensor | None,
        rotation: Rotation | None,
        chunk_size: int,
    ) -> None:
        self.model = model
        self.rows = rows
        self.inputs = inputs
        self.past: Iterator[KeysValues] = iter(past)
        self.mask = mask
        self.rotation = rotation
        self.chunk_size = chunk_size
        self.kept: list[KeysValues] = []

    @cached_property
    def exit_groups(self) -> Tensor:
        """See :attr:`Pass.exit_groups`."""
        return self.rows.exit_groups(self.chunk_size)

    def __call__(self, h: Tensor) -> Tensor:
        """Run all blocks over ``h`` (B, R, D), as the pass that comes next."""
        for block in self.model.layers:
            h, keys_values = block(h, next(self.past, None), self.mask, False, self.rotation)
            self.kept.append(keys_values)
        return h

    def skip(self, h: Tensor) -> None:
        """Keep the keys and values of a pass over ``h``; the last block computes nothing else."""
        for block in self.model.layers[:-1]:
            h, keys_values = block(h, next(self.past, None), self.mask, False, self.rotation)
            self.kept.append(keys_values)
        k, v = self.model.layers[-1].keys_values(h, self.rotation)
        past = next(self.past, None)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        self.kept.append((k, v))


class CachedWindow:
    """See :class:`IncrementalWindow`.

    Of the look-ahead states only those of the chunk that is being written are kept: nothing
    after the chunk sees them.

    Args:
        model: whose blocks run.
        refine: runs all passes of a prediction and returns the refined states (B, R, D).
        query: see :func:`embed_inputs`.
    """

    last: Tensor
    look_ahead: Tensor

    def __init__(
        self,
        model: Transformer,
        refine: Callable[[CachedPass], Tensor],
        query: Tensor | None = None,
    ) -> None:
        self.model = model
        self.refine = refine
        self.query = query
        self.size = 1 if query is None else len(query) + 1
        self.n_read = 0
        nothing = torch.empty(0, dtype=torch.long, device=model.token_embedding.weight.device)
        self._rows = Rows(nothing, nothing.bool())
        self._kept: list[KeysValues] = []

    def read(self, inputs: Tensor) -> Tensor:
        """Read ids (B, n), the start token being the first of all.

        Returns:
            (B, n, D) refined states, each of which predicts the token after the one it has read.

        Raises:
            ValueError: when the window is full.
        """
        model, size = self.model, self.size
        first, n_new = self.n_read, inputs.shape[1]
        if first + n_new > model.window_size:
            raise ValueError(f"{first + n_new} tokens do not fit into {model.window_size}")
        self._select(~self._rows.ahead | (self._rows.positions // size == first // size))
        positions = torch.arange(first, first + n_new, device=inputs.device)
        opened = positions[positions % size == 0]
        ahead = (opened[:, None] + torch.arange(1, size, device=inputs.device)).flatten()
        new = Rows.of(positions, ahead)
        rows = self._rows.followed_by(new)
        mask = visible_rows(new, rows, size)
        seen = None if bool(mask.all()) else mask
        x = embed_inputs(model, self.query, inputs, positions, ahead)
        rotation = model.rotation(new.positions)
        cached = CachedPass(model, new, x, self._kept, seen, rotation, size)
        y = self.refine(cached)
        self.n_read, self._rows, self._kept = first + n_new, rows, cached.kept
        if len(opened):
            self.look_ahead = y[:, n_new:][:, 1 - size :]
        self.last = y[:, n_new - 1 : n_new]
        return y[:, :n_new]

    def distribution(self, states: Tensor) -> Tensor:
        """Map states (…, D) to float32 log-probabilities (…, V)."""
        return self.model.distribution(states)

    def truncate(self, n_read: int) -> None:
        """Drop the causal states after the first ``n_read``, and what looks ahead from there.

        ``look_ahead`` and ``last`` stay as they were until the next :meth:`read`.
        """
        rows = self._rows
        present = (n_read - 1) // self.size
        self._select(
            torch.where(rows.ahead, rows.positions // self.size <= present, rows.positions < n_read)
        )
        self.n_read = min(self.n_read, n_read)

    def _select(self, wanted: Tensor) -> None:
        """Keep the ``wanted`` (N,) rows."""
        if bool(wanted.all()):
            return
        index = wanted.nonzero()[:, 0]
        self._rows = Rows(self._rows.positions[index], self._rows.ahead[index])
        self._kept = [(k[:, :, index], v[:, :, index]) for k, v in self._kept]
