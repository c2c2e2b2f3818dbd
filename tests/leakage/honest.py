"""Models that look at no token too early, each in a way that a careless audit takes for a leak.

Shapes: B windows, T tokens, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from offenders import L, V, make
from torch import Tensor, nn

from trm_lightning.models import AR, TRM, LanguageModel, Looped, SourceTRM


class LSTM(LanguageModel):
    """Predicts each token from the LSTM's state after the tokens before it."""

    def __init__(self) -> None:
        super().__init__(V, 0, L)
        self.embedding = nn.Embedding(V, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, V)

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        before = torch.cat((torch.zeros_like(tokens[:, :1]), tokens[:, :-1]), dim=1)
        states, _ = self.lstm(self.embedding(before))
        return torch.log_softmax(self.head(states[:, first:]), dim=-1)


class FromScores(AR):
    """Writes text from its log_probs, not from kept keys and values, which know less."""

    def open_window(self) -> None:  # type: ignore[override]
        return None


class SlidingWindow(FromScores):
    """Each position attends to itself and the seven before it."""

    def encode(self, inputs: Tensor) -> Tensor:
        n = inputs.shape[1]
        mask = torch.ones(n, n, dtype=torch.bool).tril().triu(-7)
        x = self.embed(inputs, torch.arange(n))
        for block in self.layers:
            x, _ = block(x, mask=mask)
        return x


class BigramMixture(FromScores):
    """Half of each probability comes from a fixed table of bigrams."""

    table: Tensor

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        draws = torch.rand(V, V, generator=torch.Generator().manual_seed(1))
        self.register_buffer("table", draws / draws.sum(dim=1, keepdim=True))

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        bigram = self.table[self.shift_right(tokens)[:, first:]]
        return torch.log(0.5 * bigram + 0.5 * super().log_probs(tokens, first).exp())


class CacheThatScoresFirst(FromScores):
    """Half of each probability comes from counts of the window's tokens before it."""

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        hot = nn.functional.one_hot(tokens, V).float()
        counts = hot.cumsum(dim=1) - hot + 1
        cache = counts / counts.sum(dim=-1, keepdim=True)
        return torch.log(0.5 * cache[:, first:] + 0.5 * super().log_probs(tokens, first).exp())


class LearnsAfterScoring(FromScores):
    """Test-time training: after each block of 16 is scored, a bias takes a gradient step on it."""

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        logits = super().log_probs(tokens)
        bias = torch.zeros(len(tokens), 1, V)
        found = []
        for part, ids in zip(logits.split(16, dim=1), tokens.split(16, dim=1), strict=True):
            found.append(torch.log_softmax(part + bias, dim=-1))
            slope = found[-1].exp() - nn.functional.one_hot(ids, V)
            bias = bias - 0.1 * slope.sum(dim=1, keepdim=True)
        return torch.cat(found, dim=1)[:, first:]


class PadsBatches(AR):
    """Fills a batch up to a multiple of 8 windows, and a window to a multiple of 8 tokens."""

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        (b, t), padding = tokens.shape, (0, -tokens.shape[1] % 8, 0, -len(tokens) % 8)
        return super().log_probs(nn.functional.pad(tokens, padding), first)[:b, : t - first]


HONEST: dict[str, Callable[[], LanguageModel]] = {
    "AR": make,
    "LSTM": lambda: LSTM().eval(),
    **{
        f"TRM, chunks of {size}": lambda size=size: make(TRM, chunk_size=size)  # type: ignore[misc]
        for size in (1, 2, 4, 16)
    },
    "TRM, parallel chunks": lambda: make(TRM, factorization="parallel"),
    "looped": lambda: make(Looped),
    "looped, early exit": lambda: make(Looped, exit_threshold=0.2),
    "source_trm, queries": lambda: make(SourceTRM, start="query", n_supervision=1),
    "sliding-window attention": lambda: make(SlidingWindow),
    "mixture with a bigram": lambda: make(BigramMixture),
    "cache that scores first": lambda: make(CacheThatScoresFirst),
    "test-time training that scores first": lambda: make(LearnsAfterScoring),
    "pads batches": lambda: make(PadsBatches),
    "bfloat16 weights": lambda: make().bfloat16(),
}
