"""The audit of masked and diffusion models, which predict hidden tokens from the visible ones.

Such a model scores a text by revealing its tokens in a random order. The mean over orders is the
bound that absorbing-state diffusion claims (arXiv 2406.03736): no less than the nats of the text.

Shapes: N tokens of the text, V vocabulary.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from trm_lightning.leakage.outcome import Audit
from trm_lightning.leakage.printed import changed, sums_to_one
from trm_lightning.leakage.text_audit import Ids, checked_ids
from trm_lightning.leakage.text_probe import Decoder, shown
from trm_lightning.leakage.window import Finding, first_position, generator, moved

Predict = Callable[[Tensor, Tensor], Tensor]  # ids (N,), hidden (N,) -> log-probabilities (N, V)
N_HIDDEN = 16  # choices of hidden tokens that are tried
N_ORDERS = 8  # random orders that a text is revealed in
N_STEPS = 16  # of an order; the tokens of a step are revealed together
N_RANDOM = 8  # random texts
ERRORS = 4.0  # standard errors that a mean may be off by chance


def audit_masked(
    predict: Predict,
    *,
    vocab_size: int,
    text: Ids,
    claimed: Callable[[Tensor], float] | None = None,
    decode: Decoder | None = None,
) -> Audit:
    """Try a model that predicts hidden tokens, and the bound that is claimed for it.

    Args:
        predict: maps ids (N,) and which of them are hidden (N,) to log-probabilities (N, V). It
            puts in its own mask; rows of visible tokens are not looked at.
        vocab_size: V.
        text: ids of a text, the first 512 of which are used.
        claimed: maps ids (N,) to the nats that the whole text is said to cost at most, such as the
            model's own evidence bound; may draw random numbers. None: nothing is claimed.
        decode: maps ids to text, to show where a prediction moves; None shows ids.

    Raises:
        UserError: for a text of fewer than 2 tokens, or ids out of the vocabulary.
    """
    ids = checked_ids(text, vocab_size)
    tell: Decoder = decode or (lambda part: " ".join(map(str, part)))
    with torch.no_grad():
        return Audit.of(
            {
                "hidden_tokens": lambda: hidden_tokens(predict, ids, vocab_size, tell),
                "random_tokens": lambda: _random_texts(predict, claimed, len(ids), vocab_size),
                "normalised": lambda: _normalised(predict, ids),
                "history": lambda: _history(predict, ids),
                "claimed_bound": "nothing is claimed"
                if claimed is None
                else lambda: _claimed_bound(predict, claimed, ids),
            }
        )


def hidden_tokens(predict: Predict, ids: Tensor, vocab_size: int, tell: Decoder) -> Finding | None:
    """Replace the hidden tokens: no prediction of a hidden token may move."""
    start = torch.zeros(1, dtype=torch.long)
    for turn, hidden in enumerate(_choices(len(ids))):
        others = torch.where(hidden, changed(ids[None], start, vocab_size, 0, turn)[0], ids)
        wrong = moved(predict(ids, hidden), predict(others, hidden), 0.0) & hidden
        if wrong.any():
            position = first_position(wrong[None])
            n, place = int(hidden.sum()), shown(ids, position, tell)
            return Finding(f"its prediction moves with the {n} hidden tokens: {place}", position)
    return None


def _choices(n: int) -> list[Tensor]:
    """Return which tokens are hidden: all, one, the second half, and random ones of every share."""
    draws = torch.rand(N_HIDDEN, n, generator=generator())
    shares = torch.linspace(0.05, 0.95, N_HIDDEN)[:, None]
    random = [row for row in draws < shares if row.any()]
    positions = torch.arange(n)
    return [positions >= 0, positions == n // 2, positions >= n // 2, positions == 0, *random]


def _normalised(predict: Predict, ids: Tensor) -> Finding | None:
    """Sum the probabilities of the whole vocabulary for every hidden token."""
    for hidden in _choices(len(ids)):
        rows = predict(ids, hidden)[hidden]
        finding = sums_to_one(rows[None], 0)
        if finding is not None:
            assert finding.position is not None
            return Finding(finding.detail, int(hidden.nonzero()[finding.position, 0]))
    return None


def _history(predict: Predict, ids: Tensor) -> Finding | None:
    """Predict the same tokens again, after another text."""
    hidden = _choices(len(ids))[-1]
    first = predict(ids, hidden)
    predict(ids.flip(0), hidden.flip(0))
    wrong = moved(first, predict(ids, hidden), 0.0) & hidden
    if wrong.any():
        return Finding("its prediction is another one the second time", first_position(wrong[None]))
    return None


def revealed_nats(predict: Predict, ids: Tensor, n_orders: int = N_ORDERS) -> Tensor:
    """Return the nats of a text (N,), revealed in random orders, (n_orders,) in float64."""
    draws = generator()
    totals = []
    for _ in range(n_orders):
        hidden = torch.ones(len(ids), dtype=torch.bool)
        total = torch.zeros((), dtype=torch.float64)
        for part in torch.randperm(len(ids), generator=draws).tensor_split(N_STEPS):
            if len(part):
                rows = predict(ids, hidden.clone())[part].double()
                total -= rows.gather(1, ids[part, None]).sum()
                hidden[part] = False
        totals.append(total)
    return torch.stack(totals)


def _random_texts(
    predict: Predict, claimed: Callable[[Tensor], float] | None, n: int, vocab_size: int
) -> Finding | None:
    """Score random texts: their mean cost is N log V or more, whatever the model."""
    texts = torch.randint(vocab_size, (N_RANDOM, n), generator=generator())
    floor = n * math.log(vocab_size)
    costs = {"revealed token by token": [float(revealed_nats(predict, x, 1)) for x in texts]}
    if claimed is not None:
        costs["as claimed"] = [float(claimed(x)) for x in texts]
    for how, values in costs.items():
        nats = torch.tensor(values, dtype=torch.float64)
        error = float(nats.std()) / math.sqrt(len(nats))
        if float(nats.mean()) < floor - ERRORS * error - 1e-6 * floor:
            return Finding(
                f"random tokens cost {float(nats.mean()) / n:.4f} nats {how}, fewer than log "
                f"{vocab_size:,} = {math.log(vocab_size):.4f}"
            )
    return None


def _claimed_bound(
    predict: Predict, claimed: Callable[[Tensor], float], ids: Tensor
) -> Finding | None:
    """Compare the claim with the mean cost over orders, which a tighter bound may undercut."""
    own = revealed_nats(predict, ids)
    told = torch.tensor([float(claimed(ids)) for _ in own], dtype=torch.float64)
    gap = float(own.mean() - told.mean())
    error = math.sqrt(float(own.var() + told.var()) / len(own))
    if gap > ERRORS * error + 1e-4 * len(ids):
        return Finding(
            f"{float(told.mean()) / len(ids):.4f} nats per token are claimed; revealed in random "
            f"orders the text costs {float(own.mean()) / len(ids):.4f}"
        )
    return None
