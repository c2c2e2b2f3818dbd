"""Answers of sequences are right, and held-out puzzles are longer than those of training."""

from itertools import pairwise

import numpy as np
import pytest

from trm_lightning.data import Addition, Brackets, Multiplication, Parity
from trm_lightning.data.sequences import SequencePuzzles
from trm_lightning.errors import UserError

SMALL = {"least_length": 3, "train_length": 5, "test_length": 8, "train": 25, "val": 20, "test": 9}


def halves(corpus: SequencePuzzles, split: str) -> list[tuple[str, str]]:
    size = corpus.puzzle_size
    puzzles = corpus.puzzles(split)
    assert all(len(puzzle) == 2 * size for puzzle in puzzles)
    return [(puzzle[:size].rstrip("."), puzzle[size:].rstrip(".")) for puzzle in puzzles]


def test_parity_counts_the_ones_so_far() -> None:
    for bits, answer in halves(Parity(**SMALL), "test"):
        assert answer == "".join(str(bits[: i + 1].count("1") % 2) for i in range(len(bits)))


def test_addition_adds() -> None:
    corpus = Addition(**SMALL)
    assert (corpus.width, corpus.puzzle_size) == (9, 18)
    for question, answer in halves(corpus, "test"):
        first, second = question[:9].rstrip("."), question[9:]
        assert len(first) == len(second) == len(answer) - 1
        assert int(answer[::-1]) == int(first[::-1]) + int(second[::-1])


def test_multiplication_multiplies() -> None:
    for question, answer in halves(Multiplication(**SMALL), "test"):
        first, second = int(question[::2][::-1]), int(question[1::2][::-1])
        assert int(answer[::-1]) == first * second and len(answer) == len(question)


def partners(text: str) -> set[int]:
    """Find pairs by striking out neighbours until there are none, an independent way."""
    left = [(i, bracket) for i, bracket in enumerate(text)]
    found: set[int] = set()
    while True:
        for (i, a), (j, b) in pairwise(left):
            if a + b in ("()", "[]"):
                found |= {i, j}
                left = [pair for pair in left if pair[0] not in (i, j)]
                break
            if b in ")]" and (a + b in ("(]", "[)") or a in ")]"):  # passed over
                left = [pair for pair in left if pair[0] != j]
                break
        else:
            if left and left[0][1] in ")]":
                left = left[1:]
                continue
            return found


def test_brackets_have_the_partners_that_striking_out_finds() -> None:
    seen = set()
    for text, answer in halves(Brackets(**{**SMALL, "test": 40}), "test"):
        found = partners(text)
        assert answer == "".join("01"[i in found] for i in range(len(text))), text
        seen |= set(answer)
    assert seen == {"0", "1"}


@pytest.mark.parametrize(
    ("cls", "per_place"), [(Parity, 1), (Brackets, 1), (Addition, 2), (Multiplication, 2)]
)
def test_lengths_begin_where_training_stopped(cls: type[SequencePuzzles], per_place: int) -> None:
    corpus = cls(**SMALL)
    lengths = {
        split: {
            len(question.replace(".", "")) // per_place for question, _ in halves(corpus, split)
        }
        for split in corpus.split_names()
    }
    assert lengths["train"] == {3, 4, 5}
    assert lengths["val"] | lengths["test"] == {6, 7, 8}
    same = cls(**{**SMALL, "test_length": 5, "val": 9})
    val = {len(question.replace(".", "")) // per_place for question, _ in halves(same, "val")}
    assert val <= {3, 4, 5}
    keys = np.concatenate([same.keys(same.puzzles(split)) for split in same.split_names()])
    assert len(keys) == 43 == len(np.unique(keys))


def test_lengths_and_numbers_that_do_not_fit_are_refused() -> None:
    for changes in ({"train_length": 9}, {"least_length": 0}, {"least_length": 6}, {"val": 0}):
        with pytest.raises(UserError, match="do not fit"):
            Parity(**{**SMALL, **changes})
    with pytest.raises(UserError, match="only 56 were found"):
        Parity(**{**SMALL, "train": 57}).puzzles("train")
