"""Perplexity against mean depth: a split scored with chunks that stop early."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from trm_lightning.errors import UserError
from trm_lightning.evaluation import LikelihoodSum
from trm_lightning.evaluation.likelihood import safe_exp
from trm_lightning.models import RecursiveNet


def check_bounds(bounds: Sequence[float]) -> None:
    """Check the bounds to try.

    Raises:
        UserError: for one that is not over zero.
    """
    wrong = [bound for bound in bounds if bound <= 0]
    if wrong:
        raise UserError(
            f"halt_below must hold numbers over 0 (has {wrong[0]}).",
            "Each is the relative change of an answer below which its chunk stops.",
        )


@torch.no_grad()
def score_halting(
    net: RecursiveNet, bounds: Sequence[float], windows: Iterable[tuple[Tensor, int]]
) -> list[dict[str, Any]]:
    """Score windows once for each bound, the largest first.

    Returns:
        For each bound: ``halt_below``, ``mean_depth`` in refinements per scored token,
        ``nats_per_token`` and the number itself under the name of the net's score.
    """
    device = next(net.parameters()).device
    measure, rows = next(iter(net.scorers())), []
    for bound in sorted(bounds, reverse=True):
        halting, total, depth = net.halting_below(bound), LikelihoodSum(), 0
        for tokens, first in windows:
            tokens = tokens.to(device)
            total.update(halting.log_probs(tokens, first), tokens, first)
            depth += int(halting.depths(tokens, first).sum())
        nats = total.nats / total.tokens
        rows.append(
            {
                "halt_below": bound,
                "mean_depth": depth / total.tokens,
                "nats_per_token": nats,
                measure: safe_exp(nats),
            }
        )
    return rows
