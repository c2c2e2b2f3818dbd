"""Perplexity against mean depth: a split scored with early exit at several thresholds."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from trm_lightning.errors import UserError
from trm_lightning.evaluation import LikelihoodSum
from trm_lightning.evaluation.metrics import safe_exp
from trm_lightning.models import LanguageModel


def check_thresholds(thresholds: Sequence[float]) -> None:
    """Check the thresholds to try.

    Raises:
        UserError: for one that is not over zero.
    """
    wrong = [threshold for threshold in thresholds if threshold <= 0]
    if wrong:
        raise UserError(
            f"exit_thresholds must hold numbers over 0 (has {wrong[0]}).",
            "Each is the relative change of an answer below which its states stop.",
        )


@torch.no_grad()
def score_early_exit(
    model: LanguageModel, thresholds: Sequence[float], windows: Iterable[tuple[Tensor, int]]
) -> list[dict[str, Any]]:
    """Score windows once for each threshold, the largest first.

    Returns:
        For each: ``exit_threshold``, ``mean_depth`` in refinements per scored token,
        ``nats_per_token`` and the number itself under the name of the model's score.
    """
    device = next(model.parameters()).device
    measure, rows = next(iter(model.scorers())), []
    for threshold in sorted(thresholds, reverse=True):
        exiting, total, depth = model.with_exit_threshold(threshold), LikelihoodSum(), 0
        for tokens, first in windows:
            tokens = tokens.to(device)
            total.update(exiting.log_probs(tokens, first), tokens, first)
            depth += int(exiting.depths(tokens, first).sum())
        nats = total.nats / total.tokens
        rows.append(
            {
                "exit_threshold": threshold,
                "mean_depth": depth / total.tokens,
                "nats_per_token": nats,
                measure: safe_exp(nats),
            }
        )
    return rows
