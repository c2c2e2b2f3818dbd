"""The window that the audit tries a model on, and the tolerances of its comparisons."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trm_lightning.leakage.example import Example
from trm_lightning.leakage.scores import SEED, all_scores, device_of, eval_scores
from trm_lightning.models import LanguageModel
from trm_lightning.models.base import LogProbs

N_TOKENS = 8  # of the window that a model is tried on, at least
N_ROWS = 4  # rows of a batch where it takes several


@dataclass(frozen=True)
class Finding:
    """What a check found wrong.

    Attributes:
        detail: in words.
        position: the first one of a window where it did.
        example: a short text that shows it, where one was found.
    """

    detail: str
    position: int | None = None
    example: Example | None = None


@dataclass(frozen=True)
class Probe:
    """A model and the tokens it is tried on.

    Attributes:
        model: the model.
        scorer: the key of ``model.scorers()`` that is audited.
        tokens: (T,) different ids, none of them the start token; two chunks and a remainder.
        exact: largest difference between scores of batches of one shape: 0 on the CPU.
        close: the same where shapes, hence the order of sums, differ.
    """

    model: LanguageModel
    scorer: str
    tokens: Tensor
    exact: float
    close: float

    @classmethod
    def of(cls, model: LanguageModel, scorer: str | None = None) -> "Probe":
        """Choose tokens and tolerances for a model and a scorer; None for its first."""
        device = device_of(model)
        n = max(3 * model.chunk_size - 1, N_TOKENS)
        if n > model.window_size:
            n = max(1, model.window_size - 1)  # fewer whole chunks, and still a remainder
        ids = torch.randperm(model.vocab_size, generator=generator())
        ids = ids[ids != getattr(model, "start_token", -1)][:n]
        full = next(model.parameters()).dtype == torch.float32
        scorer = next(iter(model.scorers())) if scorer is None else scorer
        exact = exact_tolerance(model)
        return cls(model, scorer, ids.to(device), exact, 1e-3 if full else 1e-1)

    @property
    def log_probs(self) -> LogProbs:
        """The scorer itself."""
        return self.model.scorers()[self.scorer]

    def eval_scores(self, tokens: Tensor) -> dict[str, Tensor]:
        """See :func:`eval_scores`."""
        return eval_scores(self.model, self.log_probs, tokens)

    def all_scores(self, tokens: Tensor) -> dict[str, Tensor]:
        """See :func:`all_scores`."""
        return all_scores(self.model, self.log_probs, tokens)

    def other(self, tokens: Tensor) -> Tensor:
        """Return ids that differ from ``tokens`` everywhere."""
        shift = torch.randint(1, self.model.vocab_size, tokens.shape, generator=generator())
        return (tokens + shift.to(tokens.device)) % self.model.vocab_size

    def random_rows(self, n_rows: int, n_tokens: int) -> Tensor:
        """Return uniformly random ids (n_rows, n_tokens)."""
        rows = torch.randint(self.model.vocab_size, (n_rows, n_tokens), generator=generator())
        return rows.to(self.tokens.device)


def exact_tolerance(model: LanguageModel) -> float:
    """Return the largest difference between scores of batches of one shape: 0 on the CPU."""
    return 0.0 if device_of(model).type == "cpu" else 1e-4


def moved(before: Tensor, after: Tensor, tolerance: float) -> Tensor:
    """Say which distributions (…, V) differ by more than ``tolerance``; a NaN always does."""
    same = before == after
    if tolerance:
        same |= (before - after).abs() <= tolerance * (1 + before.abs() / 10)
    return ~same.all(dim=-1)


def first_position(wrong: Tensor) -> int:
    """Return the first position (last axis) at which any row is True."""
    return int(wrong.reshape(-1, wrong.shape[-1]).any(dim=0).nonzero()[0, 0])


def generator() -> torch.Generator:
    """Return a new generator with the seed of all audits."""
    return torch.Generator().manual_seed(SEED)
