"""The search for a short text that shows a finding.

Shapes: N tokens of a text, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trm_lightning.leakage.example import Example
from trm_lightning.leakage.window import moved

Score = Callable[[Tensor], Tensor]  # ids (N,) -> scores (N,), or distributions (N, V)


def shortest_move(score: Score, ids: Tensor, other: Tensor, tolerance: float) -> Example | None:
    """Find few tokens of a short text whose change moves a score that must not move.

    Args:
        score: of ids (N,). Scores (N,) must not move before the first changed token, distributions
            (N, V) not at that token either.
        ids: (N,) a text.
        other: (N,) the text with other tokens.
        tolerance: see :func:`moved`.

    Returns:
        None where no score moves.
    """

    def shows(a: Tensor, b: Tensor) -> bool:
        return _first_moved(score(a), score(b), a, b, tolerance) is not None

    if not shows(ids, other):
        return None
    other = _fewest_changes(ids, other, shows)
    profile = _differences(score(ids), score(other))
    changed_at = int((ids != other).nonzero()[0, 0])
    last, behind = int((ids != other).nonzero()[-1, 0]), 1
    while last + behind < len(ids):
        end = last + behind
        if shows(ids[:end], other[:end]):
            ids, other = ids[:end], other[:end]
            break
        behind *= 2
    dropped = int((ids != other).nonzero()[0, 0])
    while dropped:
        if shows(ids[dropped:], other[dropped:]):
            ids, other = ids[dropped:], other[dropped:]
            dropped = min(dropped, int((ids != other).nonzero()[0, 0]))
        else:
            dropped //= 2
    before, after = score(ids), score(other)
    position = _first_moved(before, after, ids, other, tolerance)
    assert position is not None  # the last pair that was tried shows it
    return Example(
        "moves",
        tuple(ids.tolist()),
        position,
        tuple(other.tolist()),
        _differences(before, after)[position],
        tuple(profile),
        changed_at,
        distributions=before.ndim == 2,
    )


def _differences(before: Tensor, after: Tensor) -> list[float]:
    """Return by how much each score (N,), or distribution (N, V), differs, in nats."""
    difference = (after - before).abs().nan_to_num(torch.inf)
    difference = difference.amax(dim=-1) if difference.ndim == 2 else difference
    found: list[float] = difference.double().tolist()
    return found


def _first_moved(
    before: Tensor, after: Tensor, ids: Tensor, other: Tensor, tolerance: float
) -> int | None:
    """Return the first position of a score that must not move, and does."""
    if before.shape != after.shape:
        return None
    changed = (ids != other).nonzero()[:, 0]
    if len(changed) == 0:
        return None
    n_blind = int(changed[0]) + (before.ndim == 2)
    rows = (before, after) if before.ndim == 2 else (before[:, None], after[:, None])
    wrong = moved(rows[0][:n_blind], rows[1][:n_blind], tolerance).nonzero()[:, 0]
    return int(wrong[0]) if len(wrong) else None


def _fewest_changes(ids: Tensor, other: Tensor, shows: Callable[[Tensor, Tensor], bool]) -> Tensor:
    """Return ``other`` with as few changes as halving them finds."""

    def with_changes(places: Tensor) -> Tensor:
        return ids.scatter(0, places, other[places])

    places = (ids != other).nonzero()[:, 0]
    while len(places) > 1:
        half = len(places) // 2
        parts = (places[:1], places[-1:], places[half:], places[:half])
        smaller = next((part for part in parts if shows(ids, with_changes(part))), None)
        if smaller is None:
            break
        places = smaller
    return with_changes(places)
