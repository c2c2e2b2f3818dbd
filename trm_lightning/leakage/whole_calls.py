"""The printed calls of a text tried thoroughly: real tokens and random ones, in every way.

Shapes: B windows, T tokens, n scored tokens, V vocabulary.
"""

import dataclasses

import torch
from torch import Tensor

from trm_lightning.leakage.held_out import HeldOut
from trm_lightning.leakage.printed import CallWatch, twin
from trm_lightning.leakage.window import N_ROWS, Finding, Probe, first_position, generator, moved

MOST_TURNS = 64  # of one call: by then every position of a window has been changed from
TURNS_BETWEEN_CALLS = 8  # until the call is made again as it is, and not only with other tokens
N_PREFIXES = 8  # lengths that a window is cut to
Batch = tuple[Tensor, int]  # tokens (B, T), first scored position


def try_calls(probe: Probe, held_out: HeldOut) -> dict[str, Finding]:
    """Make the first printed call, one of the common shape and the last one, and try them.

    Returns:
        What was found wrong, by the name of the check.
    """
    probe = dataclasses.replace(probe, model=twin(probe.model))
    batches = [(tokens.to(probe.tokens.device), first) for tokens, first in chosen(held_out)]
    largest = max(range(len(batches)), key=lambda i: len(batches[i][0]))
    found: dict[str, Finding] = {}
    for i, (tokens, first) in enumerate(batches):
        printed, findings = _turns(probe, tokens, first, most_turns=MOST_TURNS)
        _, of_random = _turns(probe, random_like(probe, tokens), first, most_turns=1)
        other: dict[str, Finding | None] = {}
        if i == largest:
            other = {
                "batch_size": in_other_batches(probe, tokens, first, printed),
                "incremental": cut_off(probe, tokens[:1], first),
            }
        for check, finding in (*findings.items(), *of_random.items(), *other.items()):
            if finding is not None:
                found.setdefault(check, finding)
    return found


def chosen(held_out: HeldOut) -> list[Batch]:
    """Return the first batch, the first of the largest ones, and the last."""
    first: Batch | None = None
    largest: Batch | None = None
    last: Batch | None = None
    for batch in held_out.windows:
        first = batch if first is None else first
        largest = batch if largest is None or len(batch[0]) > len(largest[0]) else largest
        last = batch
    found = [batch for batch in (first, largest, last) if batch is not None]
    return [batch for i, batch in enumerate(found) if all(batch is not b for b in found[:i])]


def random_like(probe: Probe, tokens: Tensor) -> Tensor:
    """Return uniformly random ids of the same shape."""
    draws = torch.randint(probe.model.vocab_size, tokens.shape, generator=generator())
    return draws.to(tokens.device)


def _turns(
    probe: Probe, tokens: Tensor, first: int, most_turns: int
) -> tuple[Tensor, dict[str, Finding]]:
    """Try one call until every position has been changed from, for so many turns at most.

    Returns:
        What the call returns, and what was found wrong.
    """
    n_turns = min(most_turns, -(-(tokens.shape[1] - first) // len(tokens)))
    watch = CallWatch(probe.model)
    watch.begin({0}, turn=0)
    printed = watch.scorers()[probe.scorer](tokens, first)
    for turn in range(1, n_turns):
        watch.begin({0}, turn)
        if turn % TURNS_BETWEEN_CALLS:
            watch.try_other_tokens(probe.scorer, tokens, first, printed)
            continue
        again = watch.scorers()[probe.scorer](tokens, first)
        wrong = moved(printed, again, probe.exact)
        if wrong.any():
            detail = "the same call scores it differently another time"
            finding = Finding(detail, first + first_position(wrong))
            return printed, {**watch.findings.get(probe.scorer, {}), "history": finding}
    return printed, watch.findings.get(probe.scorer, {})


def in_other_batches(probe: Probe, tokens: Tensor, first: int, printed: Tensor) -> Finding | None:
    """Score the windows of a printed call in the opposite order, and some of them alone."""
    wrong = moved(printed, probe.log_probs(tokens.flip(0), first).flip(0), probe.close)
    if wrong.any():
        detail = "its printed score is another one in another order of the batch"
        return Finding(detail, first + first_position(wrong))
    for row, scores in zip(tokens[:N_ROWS], printed[:N_ROWS], strict=False):
        wrong = moved(scores[None], probe.log_probs(row[None], first), probe.close)
        if wrong.any():
            detail = "its printed score is another one where its window is scored alone"
            return Finding(detail, first + first_position(wrong))
    return None


def cut_off(probe: Probe, window: Tensor, first: int) -> Finding | None:
    """Score a window (1, T) that ends at a token, for some tokens, and read from its beginning."""
    printed = probe.log_probs(window, first)
    for t in torch.linspace(first, window.shape[1] - 1, N_PREFIXES).long().unique().tolist():
        prefix = probe.log_probs(window[:, : t + 1], first)[:, -1:]
        if moved(prefix, printed[:, t - first : t - first + 1], probe.close).any():
            return Finding("its printed score is another one when the text ends with it", t)
    whole = probe.log_probs(window, 0)[:, first:]
    wrong = moved(whole, printed, probe.close)
    if wrong.any():
        detail = f"its score is another one where scoring begins at {first}, not at 0"
        return Finding(detail, first + first_position(wrong))
    return None
