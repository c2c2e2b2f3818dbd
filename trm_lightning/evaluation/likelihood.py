"""Exact perplexity: every token of a split scored once, summed in float64."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

LogProbs = Callable[[Tensor, int], Tensor]  # see LanguageModel.log_probs


@dataclass(frozen=True)
class TextCounts:
    """What a split of text holds; turns nats per token into units that tokenizers share.

    Attributes:
        tokens: scored tokens.
        words: white-space words of the text.
        characters: characters of the text.
        unknown: tokens that stand for something outside the vocabulary.
    """

    tokens: int
    words: int
    characters: int
    unknown: int


@dataclass(frozen=True)
class Score:
    """A split's summed surprise in nats, and the text it was summed over."""

    nats: float
    counts: TextCounts

    @property
    def nats_per_token(self) -> float:
        """Mean surprise of a token, in nats."""
        return self.nats / self.counts.tokens

    @property
    def perplexity(self) -> float:
        """exp(total nats / tokens scored); infinite where it overflows."""
        return safe_exp(self.nats_per_token)

    @property
    def bits_per_character(self) -> float:
        """Mean surprise of a character, in bits."""
        return self.nats / math.log(2) / self.counts.characters

    def as_dict(self) -> dict[str, float | int]:
        """Return everything a reader needs to compare the number with another."""
        return {
            "perplexity": self.perplexity,
            "nats_per_token": self.nats_per_token,
            "bits_per_character": self.bits_per_character,
            "word_perplexity": safe_exp(self.nats / max(1, self.counts.words)),
            "total_nats": self.nats,
            "tokens": self.counts.tokens,
            "words": self.counts.words,
            "characters": self.counts.characters,
            "unknown_share": self.counts.unknown / self.counts.tokens,
        }


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
    total = LikelihoodSum()
    for tokens, first in windows:
        tokens = tokens.to(device)
        total.update(log_probs(tokens, first), tokens, first)
    return total


def safe_exp(x: float) -> float:
    """Return e to the x, infinity where a float cannot hold it."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
