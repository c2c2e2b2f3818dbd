"""Puzzles that ask for an algorithm: parity, brackets, addition, multiplication.

Training shows lengths up to one bound; validation and test show longer ones too, so that a score
says whether what was learned goes on where training stopped.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from trm_lightning.data.corpus import SPLIT_NAMES
from trm_lightning.data.puzzle_corpus import PuzzleCorpus, draw_distinct, key_of
from trm_lightning.errors import UserError

_PARTNERS = {"(": ")", "[": "]"}
_CLOSING, _FITTING = 0.5, 0.8  # shares of brackets


class SequencePuzzles(PuzzleCorpus):
    """Puzzles of a length, all different, padded to the longest.

    Args:
        least_length: shortest puzzle of the training split.
        train_length: longest puzzle of the training split; lengths are drawn evenly from
            ``least_length`` on.
        test_length: longest puzzle of the other splits, whose lengths are drawn from
            ``train_length`` + 1 on where that is longer, else as in training.
        train: puzzles of the training split.
        val: of the validation split.
        test: of the test split.
        seed: of the puzzles.

    Raises:
        UserError: numbers out of range, or more puzzles than there are.
    """

    def __init__(
        self,
        least_length: int = 4,
        train_length: int = 10,
        test_length: int = 20,
        train: int = 1000,
        val: int = 500,
        test: int = 1000,
        seed: int = 0,
    ) -> None:
        self.lengths = least_length, train_length, test_length
        self.n_puzzles = dict(zip(SPLIT_NAMES, (train, val, test), strict=True))
        self.seed = seed
        if not 1 <= least_length <= train_length <= test_length or min(self.n_puzzles.values()) < 1:
            raise UserError(
                f"Lengths of {least_length} to {train_length} and {test_length} with "
                f"{self.n_puzzles} puzzles do not fit.",
                "Every number is at least 1, and least_length <= train_length <= test_length.",
            )

    @property
    def width(self) -> int:  # type: ignore[override]
        """See ``PuzzleCorpus``: one row."""
        return self.puzzle_size

    def key(self) -> dict[str, Any]:
        """See ``Corpus``."""
        return {"lengths": list(self.lengths), "n_puzzles": self.n_puzzles, "seed": self.seed}

    def keys(self, puzzles: Sequence[str]) -> np.ndarray:
        """See ``PuzzleCorpus``: the puzzle as it is written."""
        return np.array([key_of(p[: self.puzzle_size].encode()) for p in puzzles], dtype=np.uint64)

    def puzzles(self, split: str) -> Sequence[str]:
        """See ``PuzzleCorpus``."""
        return _drawn(self)[split]

    @abstractmethod
    def puzzle(self, length: int, random: np.random.Generator) -> tuple[str, str]:
        """Draw question and answer of a length, at most ``puzzle_size`` characters each."""

    def range_of(self, split: str) -> tuple[int, int]:
        """Return the shortest and the longest puzzle of a split."""
        least, trained, tested = self.lengths
        if split == "train" or tested == trained:
            return least, trained
        return trained + 1, tested


@lru_cache(maxsize=4)
def _drawn(corpus: SequencePuzzles) -> dict[str, list[str]]:
    """Draw the puzzles of all splits; no two have the same question."""
    random = np.random.default_rng(corpus.seed)
    size, pad = corpus.puzzle_size, corpus.empty

    def draw(split: str) -> str:
        shortest, longest = corpus.range_of(split)
        question, answer = corpus.puzzle(int(random.integers(shortest, longest + 1)), random)
        return question.ljust(size, pad) + answer.ljust(size, pad)

    return draw_distinct(corpus.n_puzzles, draw, lambda puzzle: key_of(puzzle[:size].encode()))


class Parity(SequencePuzzles):
    """Bits, and after each of them whether an odd number of ones has been seen."""

    @property
    def puzzle_size(self) -> int:
        """See ``PuzzleCorpus``."""
        return self.lengths[2]

    def puzzle(self, length: int, random: np.random.Generator) -> tuple[str, str]:
        """See ``SequencePuzzles``."""
        bits = random.integers(2, size=length)
        return "".join(map(str, bits)), "".join(map(str, bits.cumsum() % 2))


class Addition(SequencePuzzles):
    """Two numbers of a length, one below the other and the last digit first, and their sum.

    ``47 + 85 = 132`` is asked as ``74.`` above ``58.``, and answered as ``231`` above ``...``.
    """

    version = 2  # 1: the digits in turn, on a line

    @property
    def puzzle_size(self) -> int:
        """See ``PuzzleCorpus``."""
        return 2 * self.width

    @property
    def width(self) -> int:  # type: ignore[override]
        """See ``PuzzleCorpus``: a sum may have a digit more."""
        return self.lengths[2] + 1

    def puzzle(self, length: int, random: np.random.Generator) -> tuple[str, str]:
        """See ``SequencePuzzles``."""
        rows = random.integers(10, size=(2, length)).tolist()
        total = sum(digit * 10**i for row in rows for i, digit in enumerate(row))
        padded = ["".join(map(str, row)).ljust(self.width, self.empty) for row in rows]
        return "".join(padded), f"{total:0{length + 1}d}"[::-1]


class Multiplication(SequencePuzzles):
    """Two numbers of a length, their digits in turn from the last on, and their product's digits.

    ``47 * 85 = 3995`` is asked as ``7548`` and answered as ``5993``, from the last digit on.
    """

    @property
    def puzzle_size(self) -> int:
        """See ``PuzzleCorpus``."""
        return 2 * self.lengths[2]

    def puzzle(self, length: int, random: np.random.Generator) -> tuple[str, str]:
        """See ``SequencePuzzles``."""
        factors = random.integers(10, size=(2, length)).tolist()
        first, second = (sum(digit * 10**i for i, digit in enumerate(row)) for row in factors)
        question = "".join(f"{a}{b}" for a, b in zip(*factors, strict=True))
        return question, f"{first * second:0{2 * length}d}"[::-1]


class Brackets(SequencePuzzles):
    """Round and square brackets, and which of them have a partner: 1, else 0.

    Read from left to right, a closing bracket is the partner of the last open one if that is of its
    kind; else it has none and is passed over.
    """

    @property
    def puzzle_size(self) -> int:
        """See ``PuzzleCorpus``."""
        return self.lengths[2]

    def puzzle(self, length: int, random: np.random.Generator) -> tuple[str, str]:
        """See ``SequencePuzzles``."""
        text, partnered = "", ["0"] * length
        open_: list[int] = []
        for i in range(length):
            if open_ and random.random() < _CLOSING:  # mostly by what fits
                fits = _PARTNERS[text[open_[-1]]]
                text += fits if random.random() < _FITTING else str(random.choice(list(")]")))
            else:
                text += str(random.choice(list("([")))
            if text[i] in _PARTNERS:
                open_.append(i)
            elif text[i] == _PARTNERS[text[open_[-1]]]:
                partnered[i] = partnered[open_.pop()] = "1"
        return text, "".join(partnered)
