"""Training batches: which windows of the text a batch holds, in which order.

Letters in shapes: B batch, L window, N tokens of the split.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

Order = Literal["sliding", "random"]


def gather(tokens: np.ndarray, starts: np.ndarray, length: int) -> torch.Tensor:
    """Return windows (len(starts), length) as int64, in one vectorised indexing."""
    rows = tokens[starts[:, None] + np.arange(length)]
    return torch.from_numpy(rows.astype(np.int64))


def windows_per_epoch(n_tokens: int, window_size: int) -> int:
    """Return how many non-overlapping windows fit at any offset of the epoch; needs N >= L."""
    return max(1, (n_tokens - window_size + 1) // window_size)


class TrainBatches:
    """Batches ``start_batch`` to ``n_batches - 1`` of an endless stream of training windows.

    Batch i is a function of (seed, i) alone, so a resumed run, and any number of processes, see
    the same tokens in the same order. Windows are numbered 0, 1, 2, ... along the stream; batch i
    holds windows iB to iB + B - 1.

    - "sliding": an epoch is a random permutation of the split's non-overlapping windows, starting
      at a random offset in [0, L): each epoch shows each token once, at new window borders.
    - "random": every window starts at a uniformly random position.

    Args:
        tokens: ids, shape (N,), N >= L.
        window_size: L.
        batch_size: B, over all processes together; a multiple of ``world_size``.
        order: "sliding" or "random".
        seed: of the stream.
        n_batches: the number of batches of the whole run. It is the length also if the start is
            not 0, since Lightning counts a resumed epoch from its beginning.
        start_batch: the first batch to yield.
        rank: this process takes windows rank, rank + world_size, ... of each batch.
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
            yield gather(self.tokens, self._starts(batch)[self._mine], self.window_size)

    def state_dict(self) -> dict[str, int]:
        """Return nothing: ``start_batch`` is the state. Lightning resumes if the method exists."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """See ``state_dict``."""

    def _random_starts(self, batch: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, batch))
        return generator.integers(len(self.tokens) - self.window_size + 1, size=self.batch_size)

    def _sliding_starts(self, batch: int) -> np.ndarray:
        n_windows = windows_per_epoch(len(self.tokens), self.window_size)
        rows = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        epochs, positions = np.divmod(rows, n_windows)
        starts = [
            self._epoch_starts(epoch)[positions[epochs == epoch]]
            for epoch in range(epochs[0], epochs[-1] + 1)
        ]
        return np.concatenate(starts)

    def _draw_epoch(self, epoch: int) -> np.ndarray:
        """Return the window starts of one epoch in the order of training, (n_windows,)."""
        generator = np.random.default_rng((self.seed, epoch))
        n_offsets = min(self.window_size, len(self.tokens) - self.window_size + 1)
        offset = generator.integers(n_offsets)
        n_windows = windows_per_epoch(len(self.tokens), self.window_size)
        return offset + self.window_size * generator.permutation(n_windows)
