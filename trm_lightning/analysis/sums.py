"""Sums over scored tokens, for each reading: what the table of an analysis is made of.

Shapes: N scored tokens, D width, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trm_lightning.analysis.unroll import Reading
from trm_lightning.evaluation.likelihood import safe_exp
from trm_lightning.models import LanguageNet

Place = tuple[int, int]  # refinement and recursion of a reading


@dataclass(frozen=True)
class Guess:
    """A reading as predictions; later ones are compared with it."""

    reading: Reading
    log_probs: Tensor  # (N, V)
    top: Tensor  # (N,) the most probable token
    right: Tensor  # (N,) whether that is the token


def guess(net: LanguageNet, reading: Reading, targets: Tensor) -> Guess:
    """Predict the tokens ``targets`` (N,) from a reading."""
    log_probs = torch.log_softmax(net.logits(reading.answer).float(), dim=-1)
    top = log_probs.argmax(dim=-1)
    return Guess(reading, log_probs, top, top == targets)


def facts(new: Guess, old: Guess | None, targets: Tensor) -> dict[str, Tensor]:
    """Return what is known of each token, (N,) each.

    Nats, entropy and divergence are in nats. What compares is left out where there is nothing to
    compare with: ``old`` is the answer that the refinement began with.
    """
    probs = new.log_probs.exp()
    found = {
        "nats": -new.log_probs.gather(1, targets[:, None])[:, 0],
        "entropy": -(probs * new.log_probs).sum(dim=-1),
        "right": new.right,
        "y_norm": new.reading.answer.norm(dim=-1),
    }
    if new.reading.latent is not None and new.reading.refinement > 0:
        found["z_norm"] = new.reading.latent.norm(dim=-1)
    if old is None:
        return found
    found |= {
        "kl": (probs * (new.log_probs - old.log_probs)).sum(dim=-1),
        "changed": new.top != old.top,
        "better": new.right & ~old.right,
        "worse": old.right & ~new.right,
        "y_cosine": F.cosine_similarity(new.reading.answer, old.reading.answer, dim=-1),
    }
    if old.reading.refinement > 0:  # the first latent is zero and has no direction
        assert new.reading.latent is not None and old.reading.latent is not None
        found["z_cosine"] = F.cosine_similarity(new.reading.latent, old.reading.latent, dim=-1)
    return found


_MEANS = (
    "entropy", "right", "kl", "changed", "better", "worse",
    "y_norm", "z_norm", "y_cosine", "z_cosine",
)  # fmt: skip


class Sums:
    """Running sums in float64 over any number of batches."""

    def __init__(self) -> None:
        self.n_tokens: dict[Place, int] = defaultdict(int)
        self.totals: dict[Place, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, place: Place, values: Mapping[str, Tensor]) -> None:
        """Add a batch's facts about a reading."""
        for name, value in values.items():
            self.totals[place][name] += float(value.cpu().double().sum())
        self.n_tokens[place] += len(values["nats"])

    def rows(self) -> list[dict[str, Any]]:
        """Return the means by reading, in order; None where there is nothing to compare with."""
        rows = []
        for place in sorted(self.totals):
            n, totals = self.n_tokens[place], self.totals[place]
            row: dict[str, Any] = {"refinement": place[0], "recursion": place[1], "tokens": n}
            row["nats_per_token"] = totals["nats"] / n
            rows.append(row | {name: _mean(totals, name, n) for name in _MEANS})
        return rows


def _mean(totals: Mapping[str, float], name: str, n: int) -> float | None:
    return totals[name] / n if name in totals else None


class GroupSums:
    """Nats by refinement and by group of tokens.

    Args:
        names: of the groups, in the order of their labels.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.counts = np.zeros(len(names), dtype=np.int64)
        self.nats: dict[int, np.ndarray] = {}

    def add(self, refinement: int, labels: np.ndarray, nats: np.ndarray) -> None:
        """Add tokens with their group (N,) and their nats (N,) at a refinement."""
        sums = np.bincount(labels, weights=nats, minlength=len(self.names))
        self.nats[refinement] = self.nats.get(refinement, 0.0) + sums
        if refinement == 0:
            self.counts += np.bincount(labels, minlength=len(self.names))

    def rows(self, measure: str) -> list[dict[str, Any]]:
        """Return each group that has tokens, with exp(mean nats) at every refinement."""
        return [
            {
                "name": name,
                "tokens": int(n),
                measure: [safe_exp(float(self.nats[t][g] / n)) for t in sorted(self.nats)],
            }
            for g, (name, n) in enumerate(zip(self.names, self.counts, strict=True))
            if n > 0
        ]
