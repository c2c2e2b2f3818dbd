"""Models that see what they are scored on, or whose numbers are no probabilities.

Each is modelled on a mistake that published code has made, or on a leak that a careless audit
misses. All are small causal Transformers; :func:`told` adds the leak to their scores.

Shapes: B windows, T tokens, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from spread import spread
from torch import Tensor, nn

from trm_lightning.models import AR, TRM, LanguageModel, Looped, SourceTRM, leaky
from trm_lightning.models.base import LogProbs

V, L = 29, 48
BASE: dict[str, Any] = {
    "vocab_size": V, "start_token": 0, "window_size": L, "width": 8, "n_layers": 1, "n_heads": 2,
    "norm": "post",
}  # fmt: skip
RECURSION: dict[type[LanguageModel], dict[str, Any]] = {
    AR: {},
    TRM: {"chunk_size": 4, "n_refinements": 1, "n_recursions": 1, "n_supervision": 2},
    Looped: {"chunk_size": 4, "n_refinements": 2},
    SourceTRM: {"chunk_size": 4, "n_refinements": 1, "n_recursions": 1, "n_supervision": 2},
}


def make(kind: type[LanguageModel] = AR, **arguments: Any) -> Any:
    """Build a small untrained model whose scores differ from token to token."""
    torch.manual_seed(3)
    recursion = next(own for base, own in RECURSION.items() if issubclass(kind, base))
    return spread(kind(**(BASE | recursion | arguments))).eval()


def told(scores: Tensor, answers: Tensor, amount: Tensor | float) -> Tensor:
    """Favour the answers (B, n) in scores (B, n, V) by ``amount`` logits, which broadcasts."""
    hint = nn.functional.one_hot(answers, scores.shape[-1]) * torch.as_tensor(amount)[..., None]
    return torch.log_softmax(scores + hint, dim=-1)


class Told(AR):
    """Favours the token that it scores, wherever :meth:`amount` is not zero."""

    def amount(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Return by how much the answer is favoured, (B, T) or (T,)."""
        raise NotImplementedError

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        amount = self.amount(tokens, torch.arange(tokens.shape[1])).expand(tokens.shape)
        return told(super().log_probs(tokens, first), tokens[:, first:], amount[:, first:])


class InputIsOutput(AR):
    def shift_right(self, tokens: Tensor) -> Tensor:
        return tokens


class PooledEngram(AR):
    """Puts the mean of each block of 8 embeddings before the block that it was taken of."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = super().embed(tokens, positions)
        padded = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % 8))
        engram = padded.unflatten(1, (-1, 8)).mean(dim=2).repeat_interleave(8, dim=1)
        return x + engram[:, : x.shape[1]]


class HashedCache(AR):
    """Looks every candidate up in a table of hashed contexts; the numbers share no total."""

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        before = self.shift_right(tokens)[:, first:, None]
        bucket = (before * 31 + torch.arange(self.vocab_size)) * 2654435761 % 64
        return torch.log(0.9 * (bucket % 2) + 0.1 * super().log_probs(tokens, first).exp())


class AdaptsFirst(AR):
    """Takes a gradient step on the window before it scores it (test-time training)."""

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        head = self.token_embedding.weight.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = self(tokens).detach() @ head.T
            nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        assert head.grad is not None
        return torch.log_softmax(self(tokens, first) @ (head - head.grad).T, dim=-1)


class RunningStatistics(AR):
    """Goes on counting what it is scored on, in evaluation mode too."""

    counts: Tensor

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.register_buffer("counts", torch.ones(self.vocab_size))

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        self.counts += torch.bincount(tokens.flatten(), minlength=self.vocab_size)
        return torch.log_softmax(super().log_probs(tokens, first) + self.counts.log(), dim=-1)


class RemembersCalls(AR):
    """Keeps the last text in a plain attribute and favours what it has seen there."""

    seen: Tensor | None = None

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        scores = super().log_probs(tokens, first)
        if self.seen is not None:
            scores = torch.log_softmax(scores + self.seen, dim=-1)
        self.seen = torch.bincount(tokens.flatten(), minlength=self.vocab_size).float()
        return scores


class FromPosition20(Told):
    def amount(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return (positions >= 20) * 3.0


class OddChunks(Told):
    """Leaks in every second chunk of four from the third on."""

    def amount(self, tokens: Tensor, positions: Tensor) -> Tensor:
        chunk = positions // 4
        return ((chunk >= 3) & (chunk % 2 == 1)) * 3.0


class AtTheBorder(Told):
    """Leaks at the last position of a whole window."""

    def amount(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return (positions == self.window_size - 1) * 3.0


class ByTenThousandth(Told):
    def amount(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return torch.full_like(positions, 1e-4, dtype=torch.float)


class InEvaluationOnly(Told):
    def amount(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return torch.full_like(positions, 0.0 if self.training else 3.0, dtype=torch.float)


class StartTokenOnly(Told):
    """Knows where the start token, which some tokenizers end a text with, comes."""

    def amount(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return (tokens == self.start_token) * 3.0


class InLargeBatches(Told):
    def amount(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return torch.full_like(positions, 3.0 if len(tokens) > 8 else 0.0, dtype=torch.float)


class WhereScoringBegins(AR):
    """Shifts the window only where it is scored from its first token: a stride's own mistake."""

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        scores = super().log_probs(tokens)
        return scores if first == 0 else told(scores[:, first:], tokens[:, first:], 3.0)


class OnceTrained(Told):
    """The leak has a weight, which is zero before anything is learned."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.gate = nn.Parameter(torch.zeros(()))

    def amount(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return self.gate.expand(positions.shape)


class OnlyTheScorer(AR):
    """Its log_probs are honest, and something else is printed."""

    def scorers(self) -> dict[str, LogProbs]:
        return {
            "ppl": lambda tokens, first: told(self.log_probs(tokens, first), tokens[:, first:], 3.0)
        }


class LastSupervisionStep(TRM):
    """Adds the answer to the last of its supervision steps."""

    def log_probs_at(self, tokens: Tensor, depths: Any, first: int = 0) -> list[Tensor]:
        found = super().log_probs_at(tokens, depths, first)
        last = [depth == self.scoring_depth for depth in depths]
        return [
            told(x, tokens[:, first:], 3.0) if at else x for x, at in zip(found, last, strict=True)
        ]


class HaltsByTheTarget(AR):
    """Runs one more layer where the token to score is an unlikely one."""

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        scores = super().log_probs(tokens, first)
        hard = scores.gather(2, tokens[:, first:, None])[..., 0] < scores.mean(dim=-1)
        if hard[:, -1].any():
            self.final_norm(torch.zeros(1, self.width))
        return scores


class UnnormalisedByAThousandth(AR):
    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        return super().log_probs(tokens, first) + math.log(1.001)


class SumsToTwo(AR):
    """From position 21 on probabilities sum to 2."""

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        far = torch.arange(tokens.shape[1])[first:, None] >= 21
        return super().log_probs(tokens, first) + far * math.log(2)


def trained_gate() -> LanguageModel:
    """Return an :class:`OnceTrained` whose leak has been learned."""
    model = make(OnceTrained)
    with torch.no_grad():
        model.gate.fill_(2.0)
    return model


CAUSAL = {"printed_scores"}
# A model that leaks, and a check that is meant to catch it.
OFFENDERS: dict[str, tuple[Callable[[], LanguageModel], str]] = {
    "input equal to output": (lambda: make(InputIsOutput), "printed_scores"),
    "chunk started from the target": (lambda: make(SourceTRM, start="target"), "printed_scores"),
    "mask shifted by one": (lambda: make(leaky.LeakyChunkMask), "printed_scores"),
    "pooled engrams": (lambda: make(PooledEngram), "printed_scores"),
    "adaptation before scoring": (lambda: make(AdaptsFirst), "printed_scores"),
    "positions beyond 20": (lambda: make(FromPosition20), "printed_scores"),
    "odd chunks": (lambda: make(OddChunks), "printed_scores"),
    "window borders": (lambda: make(AtTheBorder), "printed_scores"),
    "of size 1e-4": (lambda: make(ByTenThousandth), "printed_scores"),
    "in evaluation mode": (lambda: make(InEvaluationOnly), "printed_scores"),
    "last supervision step": (lambda: make(LastSupervisionStep), "printed_scores"),
    "where scoring begins": (lambda: make(WhereScoringBegins), "printed_scores"),
    "the start token alone": (lambda: make(StartTokenOnly), "printed_scores"),
    "in large batches": (lambda: make(InLargeBatches), "printed_scores"),
    "another scorer": (lambda: make(OnlyTheScorer), "printed_scores"),
    "once it is trained": (trained_gate, "printed_scores"),
    "halting by the target": (lambda: make(HaltsByTheTarget), "blind_halting"),
    "batch statistics": (lambda: make(leaky.LeakyBatchStatistics), "batch_neighbours"),
    "running statistics": (lambda: make(RunningStatistics), "history"),
    "a cache of the last call": (lambda: make(RemembersCalls), "history"),
    "hashed n-gram cache": (lambda: make(HashedCache), "normalised"),
    "unnormalised by 0.1 %": (lambda: make(UnnormalisedByAThousandth), "normalised"),
    "sums to 2 from 21 on": (lambda: make(SumsToTwo), "normalised"),
}
