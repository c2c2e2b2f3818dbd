"""Evaluation windows: their stride, and which tokens each of them scores.

Letters in shapes: B batch, L window, N tokens of the split, T tokens of an evaluation window.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from trm_lightning.data.train_batches import gather


def default_stride(window_size: int) -> int:
    """Return half a window, at least 1: the stride where none is given."""
    return max(1, window_size // 2)


@dataclass(frozen=True)
class EvalWindows:
    """Batches of windows that together score every token of a split once, in order.

    The first window is scored whole. Later windows start at multiples of the stride and score
    only their last ``stride`` tokens, which the window before does not hold, so each of them has
    at least L - stride tokens of context. The last window may be shorter. Windows of equal shape
    share a batch; nothing is padded and no token is scored twice.

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
        return gather(self.tokens, np.arange(first, last) * self.stride, length)

    @property
    def _n_full(self) -> int:
        """Number of full windows after the first."""
        return max(0, len(self.tokens) - self.window_size) // self.stride

    @property
    def _n_left(self) -> int:
        """Number of tokens left for the last, shorter window."""
        return max(0, len(self.tokens) - self.window_size) % self.stride

    @property
    def _n_full_batches(self) -> int:
        return -(-self._n_full // self.batch_size)
