"""How ids are drawn from the distributions that a net gives.

Shapes: V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """Draws ids from log-probabilities.

    Args:
        generator: on the CPU, whatever device the net is on, so that a seed gives the same draws
            everywhere; torch's global generator is never touched.
        temperature: divides the log-probabilities; 0 takes the most probable token.
        top_k: draw among this many most probable tokens; None for all.
        top_p: draw among the fewest most probable tokens that hold this much probability, after
            temperature and ``top_k``; None for all.
    """

    generator: torch.Generator
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Draw one id from each distribution, (…, V) -> (…), both on the CPU."""
        if self.temperature == 0:
            return log_probs.argmax(dim=-1)
        return self.pick(self.probs(log_probs))

    def probs(self, log_probs: Tensor) -> Tensor:
        """Return the probabilities that ids are drawn with, (…, V) float64 of sum 1."""
        if self.temperature == 0:
            best = log_probs.argmax(dim=-1, keepdim=True)
            return torch.zeros_like(log_probs, dtype=torch.float64).scatter_(-1, best, 1)
        log_probs = log_probs.double()
        # Less the largest first: a small temperature must not make every entry -inf.
        scaled = (log_probs - log_probs.amax(dim=-1, keepdim=True)) / self.temperature
        probs = self._filter(scaled.softmax(dim=-1))
        return probs / probs.sum(dim=-1, keepdim=True)

    def pick(self, weights: Tensor) -> Tensor:
        """Draw one id from each row of weights, which need not sum to 1, (…, V) -> (…)."""
        rows = weights.reshape(-1, weights.shape[-1])
        if len(rows) == 0:
            return rows.new_empty(weights.shape[:-1], dtype=torch.long)
        return torch.multinomial(rows, 1, generator=self.generator).reshape(weights.shape[:-1])

    def _filter(self, probs: Tensor) -> Tensor:
        """Set what ``top_k`` and ``top_p`` rule out to 0; what is left need not sum to 1."""
        if self.top_k is None and self.top_p is None:
            return probs
        descending, order = probs.sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            descending[..., self.top_k :] = 0
        if self.top_p is not None:
            descending = descending / descending.sum(dim=-1, keepdim=True)
            mass_before = descending.cumsum(dim=-1) - descending
            descending[mass_before >= self.top_p] = 0
        return torch.zeros_like(probs).scatter(-1, order, descending)
