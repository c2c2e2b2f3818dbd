"""Windows of token ids as batches: each batch is one vectorised gather from the memory map.

Letters in shapes: B batch, L window, N tokens of the split, T tokens of an evaluation window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

Order = Literal["sliding", "random"]


def _gather(tokens: np.ndarray, starts: np.ndarray, length: int) -> torch.Tensor:
    """Windows (len(starts), length) as int64."""
    rows = tokens[starts[:, None] + np.arange(length)]
    return torch.from_numpy(rows.astype(np.int64))


def windows_per_epoch(n_tokens: int, window_size: int) -> int:
    """Non-overlapping windows that fit whatever the epoch's offset is; needs N >= L."""
    return max(1, (n_tokens - window_size + 1) // window_size)


class TrainBatches:
    """Batches `start_batch` to `n_batches - 1` of an endless stream of training windows.

    Batch i is a function of (seed, i) alone, so a run that is stopped and resumed, and any number
    of processes, see the same tokens in the same order. The stream's rows are numbered
    0, 1, 2, ...; batch i holds rows iB to iB + B - 1.

    - "sliding": an epoch is a random permutation of the split's non-overlapping windows, laid from
      a random offset in [0, L), so each epoch shows each token once, and other window borders.
    - "random": every window starts at a uniformly random place.

    Args:
        tokens: ids, shape (N,), N >= L.
        window_size: L.
        batch_size: B, over all processes together; a multiple of `world_size`.
        order: "sliding" or "random".
        seed: of the stream.
        n_batches: the number of batches of the whole run. It is the length also if the start is
            not 0, since Lightning counts a resumed epoch from its beginning.
        start_batch: the first batch to give.
        rank: this process takes rows rank, rank + world_size, ... of each batch.
        world_size: number of processes.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        window_size: int,
        batch_size: int,
        order: Order,
        seed: int,
        n_batches: int,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.tokens = tokens
        self.window_size = window_size
        self.batch_size = batch_size
        self.seed = seed
        self.n_batches = n_batches
        self.start_batch = start_batch
        self._mine = slice(rank, None, world_size)
        self._starts = self._sliding_starts if order == "sliding" else self._random_starts
        self._epoch_starts = lru_cache(maxsize=2)(self._draw_epoch)

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield int64 tensors (B / world_size, L)."""
        for batch in range(self.start_batch, self.n_batches):
            yield _gather(self.tokens, self._starts(batch)[self._mine], self.window_size)

    def state_dict(self) -> dict[str, int]:
        """Nothing: `start_batch` says all. That the method is there tells Lightning to resume."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """See `state_dict`."""

    def _random_starts(self, batch: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, batch))
        return generator.integers(len(self.tokens) - self.window_size + 1, size=self.batch_size)

    def _sliding_starts(self, batch: int) -> np.ndarray:
        n_windows = windows_per_epoch(len(self.tokens), self.window_size)
        rows = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        epochs, places = np.divmod(rows, n_windows)
        starts = [
            self._epoch_starts(epoch)[places[epochs == epoch]]
            for epoch in range(epochs[0], epochs[-1] + 1)
        ]
        return np.concatenate(starts)

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        """Window starts of one epoch in the order in which they are shown, (n_windows,)."""
        generator = np.random.default_rng((self.seed, epoch))
        n_offsets = min(self.window_size, len(self.tokens) - self.window_size + 1)
        offset = generator.integers(n_offsets)
        n_windows = windows_per_epoch(len(self.tokens), self.window_size)
        return offset + self.window_size * generator.permutation(n_windows)


@dataclass(frozen=True)
class EvalWindows:
    """Batches of windows that together score every token of a split once, in order.

    The first window is scored whole. Later windows start at multiples of the stride and score
    what the window before has not: their last `stride` tokens, so that each of those has at least
    L - stride tokens of context. The last window may be shorter. Windows of equal shape share a
    batch; nothing is padded and nothing comes twice.

    Args:
        tokens: ids, shape (N,), N >= 1.
        window_size: L.
        stride: 1 to L.
        batch_size: most windows in a batch.
        rank: this process takes batches rank, rank + world_size, ...
        world_size: number of processes.
    """

    tokens: np.ndarray
    window_size: int
    stride: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return len(range(self.rank, 1 + self._n_full_batches + bool(self._n_left), self.world_size))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        """Yield (tokens (B, T) int64, first_scored): positions first_scored to T - 1 count."""
        length, stride = self.window_size, self.stride
        overlap = length - stride
        n_batches = 1 + self._n_full_batches + bool(self._n_left)
        for batch in range(self.rank, n_batches, self.world_size):
            if batch == 0:
                yield self._windows(0, 1, min(length, len(self.tokens))), 0
            elif batch <= self._n_full_batches:
                first = 1 + (batch - 1) * self.batch_size
                last = min(first + self.batch_size, 1 + self._n_full)
                yield self._windows(first, last, length), overlap
            else:
                last = 1 + self._n_full
                yield self._windows(last, last + 1, overlap + self._n_left), overlap

    def _windows(self, first: int, last: int, length: int) -> torch.Tensor:
        return _gather(self.tokens, np.arange(first, last) * self.stride, length)

    @property
    def _n_full(self) -> int:
        """Full windows after the first."""
        return max(0, len(self.tokens) - self.window_size) // self.stride

    @property
    def _n_left(self) -> int:
        """Tokens that the full windows leave for the last one."""
        return max(0, len(self.tokens) - self.window_size) % self.stride

    @property
    def _n_full_batches(self) -> int:
        return -(-self._n_full // self.batch_size)
