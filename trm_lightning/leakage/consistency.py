"""The checks of a leak audit that compute a score in another way and must find the same.

Each returns what it found wrong, None where nothing is.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trm_lightning.leakage.window import Finding, Probe, first_position, moved
from trm_lightning.models import LanguageModel

Decode = Callable[[int], tuple[Tensor, Tensor]]  # n -> ids (n,), and what drew them, (n, V)


def incremental(probe: Probe, decode: Decode | None) -> Finding | None:
    """Score growing prefixes, and write text: both must meet the scores of the whole window."""
    tokens = probe.tokens[None]
    whole = probe.log_probs(tokens, 0)
    for t in range(tokens.shape[1]):
        prefix = probe.log_probs(tokens[:, : t + 1], t)
        if moved(prefix, whole[:, t : t + 1], probe.close).any():
            return Finding("its score is another one when the text ends with it", t)
    if decode is not None:
        ids, drawn_from = decode(tokens.shape[1])
        scored = probe.log_probs(ids[None].to(tokens.device), 0)[0]
        wrong = moved(drawn_from.to(scored), scored, probe.close)
        if wrong.any():
            return Finding(
                "is drawn from another distribution than it is scored by", first_position(wrong)
            )
    return None


def blind_halting(probe: Probe) -> Finding | None:
    """Replace the scored token by the likeliest and the unlikeliest: the work is the same.

    A depth chosen by looking at the target shows in the number of layers that run.
    """
    model, last = probe.model, len(probe.tokens) - 1
    extra = set(inspect.signature(model.log_probs).parameters) - {"tokens", "first"}
    if extra:
        return Finding(f"log_probs takes more than tokens: {', '.join(sorted(extra))}")
    ranked = probe.log_probs(probe.tokens[None], last)[0, 0].argsort()
    outcomes = []
    for target in (ranked[0], ranked[len(ranked) // 2], ranked[-1]):
        tokens = torch.cat((probe.tokens[:last], target[None]))[None]
        with _count_calls(model) as calls:
            score = probe.log_probs(tokens, last)
        outcomes.append((len(calls), score))
    if len({n_calls for n_calls, _ in outcomes}) > 1:
        return Finding("the number of layers that run depends on the token it scores", last)
    if any(moved(score, outcomes[0][1], probe.exact).any() for _, score in outcomes):
        return Finding("its score depends on which token it turns out to be", last)
    if model.scoring_depth:
        at_depth = model.log_probs_at(tokens, [model.scoring_depth], last)[0]
        if moved(score, at_depth, probe.exact).any():
            return Finding(
                f"its score is not the one after {model.scoring_depth} refinements", last
            )
    return None


@contextmanager
def _count_calls(model: LanguageModel) -> Iterator[list[None]]:
    """Give a list that grows by an entry with each call of a module."""
    calls: list[None] = []
    handles = [
        module.register_forward_hook(lambda *_: calls.append(None)) for module in model.modules()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
