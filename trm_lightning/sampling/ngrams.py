"""Tokens drafted from n-grams of a text, for a model to verify; see :mod:`.speculative`.

Shapes: V vocabulary, N tokens of the text, m drafted tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trm_lightning.models.arguments import least_problems, raise_problems
from trm_lightning.sampling.methods import Sampler

ORDER = 5  # tokens that a draft looks back on
MOST_TOKENS = 4_000_000  # of a longer text the last ones are counted


class NgramDrafts:
    """How often each token follows each context of up to ``ORDER`` tokens in a text.

    A context of k tokens is a number: the place of (number of its first k - 1, last token) among
    all such pairs, sorted. So the pairs that begin with a context's number are what follows it.

    Args:
        tokens: (N,) ids.
        vocab_size: V.
        n_drafts: m, tokens to draft at a time.

    Raises:
        UserError: for less than one draft.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int, n_drafts: int) -> None:
        raise_problems(least_problems({"n_drafts": (n_drafts, 1)}), "sampling")
        self.n_drafts = n_drafts
        self.vocab_size = vocab_size
        tokens = np.asarray(tokens[-MOST_TOKENS:]).astype(np.int64)
        self._pairs: list[np.ndarray] = []
        self._counts: list[np.ndarray] = []
        contexts = np.zeros(len(tokens), dtype=np.int64)
        for _ in range(ORDER + 1):
            pairs, numbers, counts = np.unique(
                contexts * vocab_size + tokens, return_inverse=True, return_counts=True
            )
            self._pairs.append(pairs)
            self._counts.append(counts)
            contexts, tokens = numbers[:-1], tokens[1:]

    def probs(self, context: Sequence[int]) -> np.ndarray:
        """Return the probabilities (V,) of what follows, all over 0, by Witten-Bell smoothing.

        Each order's share is n / (n + u) for a context that was seen n times before u different
        tokens; the rest is left to the order below, and under one token to all alike.
        """
        probs = np.full(self.vocab_size, 1 / self.vocab_size)
        for length in range(min(len(context), ORDER) + 1):
            number = self._number(context[len(context) - length :])
            if number is None:
                break
            pairs = self._pairs[length]
            first, last = np.searchsorted(
                pairs, (number * self.vocab_size, (number + 1) * self.vocab_size)
            )
            counts = self._counts[length][first:last]
            if len(counts) == 0:  # seen at the end of the text alone
                break
            probs *= len(counts) / (counts.sum() + len(counts))
            probs[pairs[first:last] - number * self.vocab_size] += counts / (
                counts.sum() + len(counts)
            )
        return probs

    def draft(self, context: Sequence[int], most: int, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """Draw tokens that continue a text, at most so many.

        Returns:
            The ids (m,), and the distribution (m, V) that each was drawn from.
        """
        n = min(self.n_drafts, most)
        text, start = list(context[-ORDER:]), min(len(context), ORDER)
        proposed = torch.empty(n, self.vocab_size, dtype=torch.float64)
        for i in range(n):
            proposed[i] = sampler.probs(torch.from_numpy(self.probs(text[-ORDER:])).log())
            text.append(int(sampler.draw(proposed[i])))
        return torch.tensor(text[start:], dtype=torch.long), proposed

    def _number(self, context: Sequence[int]) -> int | None:
        number = 0
        for pairs, token in zip(self._pairs, context, strict=False):
            pair = number * self.vocab_size + token
            number = int(np.searchsorted(pairs, pair))
            if number == len(pairs) or pairs[number] != pair:
                return None
        return number
