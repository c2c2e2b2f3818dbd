"""Exact perplexity: every token of a split scored once, summed in float64."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from trm_lightning.data import TextCounts
from trm_lightning.evaluation.metrics import Score
from trm_lightning.models.base import LogProbs


class ScoreSum(Protocol):
    """Adds up the scores of batches."""

    def update(self, log_probs: Tensor, tokens: Tensor, first: int) -> None:
        """Add a batch: (B, T - first, V) distributions of the ids (B, T) from ``first`` on."""
        ...


Total = TypeVar("Total", bound=ScoreSum)


class LikelihoodSum:
    """Sums nats in float64 and counts tokens in integers, over any batches in any order."""

    def __init__(self) -> None:
        self.nats = 0.0
        self.tokens = 0

    def update(self, log_probs: Tensor, tokens: Tensor, first: int) -> None:
        """Add a batch.

        Args:
            log_probs: (B, T - first, V) distributions of the tokens from ``first`` on.
            tokens: (B, T) ids.
            first: tokens before this position are context.
        """
        targets = tokens[:, first:]
        picked = log_probs.gather(2, targets[:, :, None]).cpu().double()
        self.nats -= float(picked.sum())
        self.tokens += targets.numel()

    def as_tensor(self) -> Tensor:
        """Return (nats, tokens) in float64, to be summed over processes."""
        return torch.tensor([self.nats, self.tokens], dtype=torch.float64)

    def take(self, sums: Tensor) -> None:
        """Replace the sums by those of all processes; see :meth:`as_tensor`."""
        nats, tokens = sums.tolist()
        self.nats, self.tokens = nats, int(tokens)

    def score(self, counts: TextCounts) -> Score:
        """Return the split's score.

        Raises:
            RuntimeError: where not every token was scored exactly once.
        """
        if self.tokens != counts.tokens:
            raise RuntimeError(f"scored {self.tokens} tokens of a split of {counts.tokens}")
        return Score(self.nats, counts)


@torch.no_grad()
def score_windows(
    log_probs: LogProbs, windows: Iterable[tuple[Tensor, int]], device: torch.device
) -> LikelihoodSum:
    """Score evaluation windows: (tokens (B, T), first scored position) each."""
    return sum_windows(LikelihoodSum(), log_probs, windows, device)


@torch.no_grad()
def sum_windows(
    total: Total, log_probs: LogProbs, windows: Iterable[tuple[Tensor, int]], device: torch.device
) -> Total:
    """Add evaluation windows to a sum of scores; see :func:`score_windows`."""
    for tokens, first in windows:
        tokens = tokens.to(device)
        total.update(log_probs(tokens, first), tokens, first)
    return total
