"""Sampling methods: how ids are drawn from a model's distributions. A new method goes here.

Shapes: V vocabulary.
"""

from typing import ClassVar

import torch
from torch import Tensor

from trm_lightning.models.arguments import raise_problems


class Sampler:
    """Draws ids from log-probabilities; ``conf/generate.yaml`` gives the settings.

    Args:
        generator: on the CPU, whatever device the model is on, so that a seed gives the same draws
            everywhere; torch's global generator is never touched.
        temperature: divides the log-probabilities; 0 takes the most probable token.
        top_k: draw among this many most probable tokens; None for all.
        top_p: draw among the fewest most probable tokens that hold this much probability, after
            temperature and ``top_k``; None for all.

    Raises:
        UserError: naming every setting out of range.
    """

    runtime_arguments: ClassVar[frozenset[str]] = frozenset({"generator"})

    def __init__(
        self,
        generator: torch.Generator,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> None:
        problems = []
        if not 0 <= temperature < float("inf"):
            problems.append(f"temperature must be 0 or more (is {temperature})")
        if top_k is not None and top_k < 1:
            problems.append(f"top_k must be at least 1, or null for all (is {top_k})")
        if top_p is not None and not 0 < top_p <= 1:
            problems.append(f"top_p must lie in (0, 1], or be null for all (is {top_p})")
        raise_problems(problems, "sampling")
        self.generator = generator
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p

    def __call__(self, log_probs: Tensor) -> Tensor:
        """Draw one id from each distribution, (…, V) -> (…), both on the CPU."""
        if self.temperature == 0:
            return log_probs.argmax(dim=-1)
        return self.draw(self.probs(log_probs))

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

    def draw(self, weights: Tensor) -> Tensor:
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
