"""The checks of a leak audit that compute a score in another way and must find the same.

Each returns what it found wrong, None where nothing is.
"""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trm_lightning.leakage.scores import Refines, Scorer
from trm_lightning.leakage.window import Finding, Probe, first_position, moved

Decode = Callable[[int], tuple[Tensor, Tensor]]  # n -> ids (n,), and what drew them, (n, V)


def chunk_of_one(probe: Probe) -> Finding | None:
    """Give the net chunks of one token: predicting in parallel and left to right is the same.

    Where chunks start from what the encoder says already (``draft``), that start, less the offset
    that the net has learned, is the very score of an autoregressive net with these weights.
    """
    twin: Any = copy.deepcopy(probe.net)
    twin.chunk_size = 1
    if getattr(twin, "query", None) is not None:
        twin.query = nn.Parameter(twin.query.detach()[:1])
    tokens, scores = probe.tokens[None], []
    for factorization in ("parallel", "left_to_right"):
        twin.factorization = factorization
        scores.append(twin.log_probs(tokens))
    wrong = moved(scores[0], scores[1], probe.close)
    if wrong.any():
        return Finding(
            "in parallel and left to right differ for chunks of one", first_position(wrong)
        )
    if getattr(twin, "chunk_start", None) == "draft":
        twin.query.data.zero_()
        states, _ = twin.encode(twin.shift_right(tokens))
        as_ar = torch.log_softmax(twin.logits(states).float(), dim=-1)
        wrong = moved(twin.log_probs_at(tokens, [0])[0], as_ar, probe.close)
        if wrong.any():
            return Finding(
                "the draft is not the score of its causal encoder", first_position(wrong)
            )
    return None


def incremental(probe: Probe, decode: Decode | None) -> Finding | None:
    """Score growing prefixes, and write text: both must meet the scores of the whole window."""
    net, tokens = probe.net, probe.tokens[None]
    whole = net.log_probs(tokens)
    for t in range(tokens.shape[1]):
        prefix = net.log_probs(tokens[:, : t + 1])[:, t:]
        if moved(prefix, whole[:, t : t + 1], probe.close).any():
            return Finding("its score is another one when the text ends with it", t)
    if decode is not None:
        ids, drawn_from = decode(tokens.shape[1])
        scored = net.log_probs(ids[None].to(tokens.device))[0]
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
    net, last = probe.net, len(probe.tokens) - 1
    extra = set(inspect.signature(net.log_probs).parameters) - {"tokens", "first"}
    if extra:
        return Finding(f"log_probs takes more than tokens: {', '.join(sorted(extra))}")
    ranked = net.log_probs(probe.tokens[None], last)[0, 0].argsort()
    outcomes = []
    for target in (ranked[0], ranked[len(ranked) // 2], ranked[-1]):
        tokens = torch.cat((probe.tokens[:last], target[None]))[None]
        with _count_calls(net) as calls:
            score = net.log_probs(tokens, last)
        outcomes.append((len(calls), score))
    if len({n_calls for n_calls, _ in outcomes}) > 1:
        return Finding("the number of layers that run depends on the token it scores", last)
    if any(moved(score, outcomes[0][1], probe.exact).any() for _, score in outcomes):
        return Finding("its score depends on which token it turns out to be", last)
    if isinstance(net, Refines):
        at_depth = net.log_probs_at(tokens, [net.scoring_depth], last)[0]
        if moved(score, at_depth, probe.exact).any():
            return Finding(f"its score is not the one after {net.scoring_depth} refinements", last)
    return None


@contextmanager
def _count_calls(net: Scorer) -> Iterator[list[None]]:
    """Give a list that grows by an entry with each call of a module."""
    calls: list[None] = []
    handles = [
        module.register_forward_hook(lambda *_: calls.append(None)) for module in net.modules()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
