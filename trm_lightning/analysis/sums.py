"""Sums over scored tokens, for each reading: what the table of an analysis is made of.

Shapes: N scored tokens, D width, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from trm_lightning.evaluation.metrics import safe_exp
from trm_lightning.models import Reading

Place = tuple[int, int]  # refinement and recursion of a reading


@dataclass(frozen=True)
class Guess:
    """A reading as predictions of N tokens; later ones are compared with it."""

    refinement: int
    log_probs: Tensor  # (N, V)
    states: dict[str, Tensor]  # (N, D) each
    top: Tensor  # (N,) the most probable token
    right: Tensor  # (N,) whether that is the token


def guess(reading: Reading, targets: Tensor) -> Guess:
    """Return a reading's predictions of the tokens ``targets`` (N,)."""
    log_probs = reading.log_probs.flatten(0, 1)
    states = {name: state.flatten(0, 1) for name, state in reading.states.items()}
    top = log_probs.argmax(dim=-1)
    return Guess(reading.refinement, log_probs, states, top, top == targets)


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
    }
    # Before the first refinement the states hold nothing but zeros, which have no direction.
    found |= {f"{name}_norm": x.norm(dim=-1) for name, x in new.states.items() if new.refinement}
    if old is None:
        return found
    found |= {
        "kl": (probs * (new.log_probs - old.log_probs)).sum(dim=-1),
        "changed": new.top != old.top,
        "better": new.right & ~old.right,
        "worse": old.right & ~new.right,
    }
    if old.refinement > 0:
        for name, state in new.states.items():
            found[f"{name}_cosine"] = F.cosine_similarity(state, old.states[name], dim=-1)
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
