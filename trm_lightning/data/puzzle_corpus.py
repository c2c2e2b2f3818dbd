"""Puzzles as text: the base of their sources, and what tells puzzles apart.

Letters in shapes: B batch, C cells.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from trm_lightning.data.corpus import SPLIT_NAMES, Corpus
from trm_lightning.errors import UserError

_PUZZLES_AT_A_TIME = 1 << 12
_MOST_FRUITLESS = 10_000  # draws in a row that bring no new puzzle: there are no more


class PuzzleCorpus(Corpus):
    """Puzzles as text: of each the cells of its question, then those of its answer.

    Two splits hold no puzzle with the same key; see :meth:`keys`.
    """

    width: int  # columns of the board
    up_to_symmetry = True  # whether symmetric copies of a puzzle count as the same puzzle
    empty = "."  # the cell that the question leaves open

    @property
    @abstractmethod
    def puzzle_size(self) -> int:
        """Number of cells of a board, C."""

    @abstractmethod
    def puzzles(self, split: str) -> Sequence[str]:
        """Return the puzzles of a split, of 2 C characters each."""

    @abstractmethod
    def keys(self, puzzles: Sequence[str]) -> np.ndarray:
        """Return a number for each puzzle; those that count as the same puzzle have the same."""

    def augmented(self, cells: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return other puzzles with the same symmetries applied to question and answer.

        Args:
            cells: (B, 2 C) ids: the positions of characters in the sorted alphabet.
            random: draws the symmetries.
        """
        return cells

    def split_names(self) -> Sequence[str]:
        """See ``Corpus``."""
        return SPLIT_NAMES

    def blocks(self, split: str) -> Iterator[str]:
        """See ``Corpus``."""
        puzzles = self.puzzles(split)
        for i in range(0, len(puzzles), _PUZZLES_AT_A_TIME):
            yield "".join(puzzles[i : i + _PUZZLES_AT_A_TIME])

    def size_estimate(self, split: str) -> int:
        """See ``Corpus``."""
        return 2 * self.puzzle_size * len(self.puzzles(split))


def key_of(content: bytes) -> int:
    """Return 64 bits that tell contents apart, the same in every process."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def draw_distinct(
    n_puzzles: Mapping[str, int], draw: Callable[[str], str], key: Callable[[str], int]
) -> dict[str, list[str]]:
    """Draw the puzzles of all splits, no two of them with the same key.

    Args:
        n_puzzles: how many, by split.
        draw: draws a puzzle of a split.
        key: of a puzzle.

    Raises:
        UserError: there are fewer.
    """
    known: set[int] = set()
    found: dict[str, list[str]] = {name: [] for name in n_puzzles}
    for split, n in n_puzzles.items():
        fruitless = 0
        while len(found[split]) < n:
            puzzle = draw(split)
            number = key(puzzle)
            fruitless = fruitless + 1 if number in known else 0
            if fruitless == _MOST_FRUITLESS:
                raise UserError(
                    f"{n:,} different puzzles were asked for the split {split!r}, and only "
                    f"{len(found[split]):,} were found.",
                    f"Lower data.corpus.{split}.",
                )
            if number not in known:
                known.add(number)
                found[split].append(puzzle)
    return found
