"""The audit of any function that scores a text, whatever is behind it.

Shapes: N tokens of the text, V vocabulary.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trm_lightning.errors import UserError
from trm_lightning.leakage.held_out import below_floor
from trm_lightning.leakage.outcome import Audit
from trm_lightning.leakage.printed import SUM_TOLERANCE, changed, sums_to_one
from trm_lightning.leakage.shorten import shortest_move
from trm_lightning.leakage.text_probe import Decoder, TextProbe, TextScorer
from trm_lightning.leakage.window import Finding, first_position, generator, moved

Ids = Sequence[int] | np.ndarray | Tensor
N_TOKENS = 512  # of the text that are used
N_PREFIXES = 8
SHORT = 32  # tokens before the one whose probabilities are summed
CLOSE = 1e-3  # of scores of texts of different lengths
SHARES = {"causal": 0.6, "normalised": 0.3}  # of the seconds


def audit_text(
    log_probs: TextScorer,
    *,
    vocab_size: int,
    text: Ids,
    decode: Decoder | None = None,
    entropy: float | None = None,
    seconds: float = 30.0,
) -> Audit:
    """Try a function that scores a text with every check that needs no knowledge of it.

    Args:
        log_probs: maps ids (N,), an int64 tensor, to a log-probability or the nats of each token
            (N,), or to log-probabilities over the vocabulary (N, V). A function that keeps a state
            has a method ``reset()``, which is called before each text.
        vocab_size: V.
        text: ids of a text, the first 512 of which are used.
        decode: maps ids to text, to show where a score moves; None shows ids.
        entropy: nats per token that the text holds at least, where that is known.
        seconds: to spend, about; changes of the text are tried until then.

    Raises:
        UserError: for a text of fewer than 2 tokens, or ids out of the vocabulary.
    """
    ids = checked_ids(text, vocab_size)
    show = decode or (lambda part: " ".join(map(str, part)))
    probe = TextProbe(log_probs, vocab_size, ids, show, seconds)
    once = each_token_once(probe)
    if once is not None:  # no score belongs to a token: nothing else can be said
        return Audit.of({"each_token_once": lambda: once})
    probe.tried["each_token_once"] = f"{len(ids)} tokens" + (
        f", {len(decode(ids.tolist()).encode()):,} bytes" if decode else ""
    )
    given = probe.scores(ids)
    probe.gives_nats = given.ndim == 1 and float(given.sum()) > 0
    floor: Any = "the text's entropy is not known"
    if entropy is not None:
        nats = -float(probe.log_probs(ids).sum())
        floor = lambda: below_floor(nats, len(ids), entropy * len(ids))  # noqa: E731
    return Audit.of(
        {
            "printed_scores": lambda: changed_suffixes(probe),
            "random_tokens": lambda: random_tokens(probe),
            "normalised": lambda: normalised(probe),
            "incremental": lambda: prefixes(probe),
            "history": lambda: history(probe),
            "each_token_once": lambda: None,
            "entropy_floor": floor,
        }
    ).told(probe.tried)


def checked_ids(text: Ids, vocab_size: int) -> Tensor:
    """Return the part of a text that is used, as int64 (N,).

    Raises:
        UserError: for a text of fewer than 2 tokens, or ids out of the vocabulary.
    """
    ids = torch.as_tensor(np.asarray(text, dtype=np.int64))[:N_TOKENS].clone()
    if ids.ndim != 1 or len(ids) < 2:
        raise UserError(f"The text must be a row of at least 2 token ids (is {tuple(ids.shape)}).")
    if vocab_size < 2 or ids.min() < 0 or ids.max() >= vocab_size:
        raise UserError(f"Token ids must lie in [0, vocab_size={vocab_size}).")
    return ids


def each_token_once(probe: TextProbe) -> Finding | None:
    """There must be as many scores as tokens, none of them above certainty."""
    n, v = len(probe.ids), probe.vocab_size
    for ids in (probe.ids, probe.ids[: n // 2]):
        shape = tuple(probe.scores(ids).shape)
        if shape not in ((len(ids),), (len(ids), v)):
            detail = f"{len(ids)} tokens have scores of shape {shape}, not one each"
            return Finding(detail, example=probe.example("count", len(ids) - 1))
    return None


def changed_suffixes(probe: TextProbe) -> Finding | None:
    """Change all tokens from t on, in the text and in random tokens: no score up to t may move."""
    n = len(probe.ids)
    order = torch.randperm(n, generator=generator()).tolist()
    cuts = list(dict.fromkeys((0, n - 1, n // 2, *order)))
    random = torch.randint(probe.vocab_size, (n,), generator=generator())
    n_tried = 0
    for ids, share in ((probe.ids, 0.8), (random, 0.2)):
        before = probe.scores(ids)
        for t in probe.until(share * SHARES["causal"], cuts):
            n_tried += ids is probe.ids
            others = changed(ids[None], torch.tensor([t]), probe.vocab_size, 0, turn=t)[0]
            after = probe.scores(others)
            # A token's own probability moves with the token, its distribution may not.
            rows = slice(0, t + 1 if before.ndim == 2 else t)
            wrong = _moved(before[rows], after[rows], 0.0)
            if wrong.any():
                position = first_position(wrong)
                return Finding(
                    f"its score moves with the tokens from {t} on: {probe.shown(position)}",
                    position,
                    shortest_move(probe.scores, ids, others, 0.0),
                )
    probe.tried["printed_scores"] = f"changed from {n_tried} of {n} positions on"
    return None


def _moved(before: Tensor, after: Tensor, tolerance: float) -> Tensor:
    """Say which scores (n,) or (n, V) differ."""
    rows = (before, after) if before.ndim == 2 else (before[:, None], after[:, None])
    return moved(*rows, tolerance)


def normalised(probe: TextProbe) -> Finding | None:
    """Sum the probabilities of all tokens in the place of one, for some places of the text."""
    found = probe.scores(probe.ids)
    if found.ndim == 2:
        finding = sums_to_one(found[None], 0)
        if finding is None or finding.position is None:
            return finding
        return replace(finding, example=probe.example("sum", finding.position))
    if float(probe.log_probs(probe.ids).max()) > 0:
        return Finding("a probability is more than one", int(probe.log_probs(probe.ids).argmax()))
    n = len(probe.ids)
    places = list(dict.fromkeys((min(SHORT, n - 1), 0, n // 2, n - 1)))
    start = time.perf_counter()
    for i, t in enumerate(places):
        spent = time.perf_counter() - start
        if i and spent * (i + 1) / i > SHARES["normalised"] * probe.seconds:
            break
        total = _sum_at(probe, t)
        if total is None:
            probe.tried["normalised"] = f"time for a part of the {probe.vocab_size} tokens only"
            return None
        if abs(total - 1) > SUM_TOLERANCE:
            return Finding(
                f"the probabilities of all tokens sum to {total:.6g}: {probe.shown(t)}",
                t,
                probe.example("sum", t),
            )
        probe.tried["normalised"] = f"summed at {i + 1} positions"
    return None


def _sum_at(probe: TextProbe, t: int) -> float | None:
    """Return the sum of the probabilities of all tokens at t; None where time is short.

    A part of them that sums to more than one is an answer, too.
    """
    ids = probe.ids[: t + 1].clone()
    total, n_done = 0.0, 0
    # The text's own tokens first: a sum that is too large shows there.
    common = list(dict.fromkeys(probe.ids.tolist()))
    order = common + [v for v in range(probe.vocab_size) if v not in set(common)]
    for v in probe.until(SHARES["normalised"], order):
        ids[t] = v
        total += math.exp(float(probe.log_probs(ids)[t]))
        n_done += 1
    return total if n_done == probe.vocab_size or total > 1 + SUM_TOLERANCE else None


def random_tokens(probe: TextProbe) -> Finding | None:
    """Score uniformly random ids: none can cost less than log V, but for chance."""
    draws = torch.randint(probe.vocab_size, (8, len(probe.ids)), generator=generator())
    nats = torch.stack([-probe.log_probs(ids) for ids in draws]).mean(dim=1)
    floor = math.log(probe.vocab_size)
    error = float(nats.std()) / math.sqrt(len(nats))
    if float(nats.mean()) < floor - 4 * error - 1e-6:
        return Finding(
            f"random tokens cost {float(nats.mean()):.4f} nats, fewer than log "
            f"{probe.vocab_size:,} = {floor:.4f}"
        )
    return None


def prefixes(probe: TextProbe) -> Finding | None:
    """Score the text up to a token: the scores are those of the whole text."""
    whole = probe.scores(probe.ids)
    for t in torch.linspace(0, len(probe.ids) - 1, N_PREFIXES).long().unique().tolist():
        wrong = _moved(whole[: t + 1], probe.scores(probe.ids[: t + 1]), CLOSE)
        if wrong.any():
            position = first_position(wrong)
            return Finding(
                f"its score is another one when the text ends at {t}: {probe.shown(position)}",
                position,
                probe.example("prefix", t, whole=True),
            )
    return None


def history(probe: TextProbe) -> Finding | None:
    """Score the text again, at once and after another text: the scores are the same."""
    first = probe.scores(probe.ids)
    again = probe.scores(probe.ids)
    probe.scores(probe.ids.flip(0))
    after_another = probe.scores(probe.ids)
    for scores, when in ((again, "the second time"), (after_another, "after another text")):
        wrong = _moved(first, scores, 0.0)
        if wrong.any():
            position = first_position(wrong)
            return Finding(
                f"its score is another one {when}: {probe.shown(position)}",
                position,
                probe.example("again", position, whole=True),
            )
    return None
