"""Sudoku of any small size: minimal puzzles, made here, each with one solution that is proven.

Shapes: B boards, C cells.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from trm_lightning.data.corpus import SPLIT_NAMES
from trm_lightning.data.puzzle_corpus import PuzzleCorpus, key_of
from trm_lightning.data.sudoku_solver import MOST_DIGITS, Rules
from trm_lightning.data.sudoku_symmetries import random_symmetries, signatures
from trm_lightning.errors import UserError

MOST_PUZZLES = 10_000_000
_AT_A_TIME = 1000  # most puzzles that are made together
_MOST_FRUITLESS = 20  # rounds without a new puzzle: there are no more


@dataclass(frozen=True)
class Wanted:
    """How hard puzzles are to be; see :class:`Sudoku`."""

    extra_givens: int = 0
    least_guesses: int = 0

    def with_extra_givens(
        self, boards: np.ndarray, grids: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Fill in so many empty cells of boards (B, C) from their solutions, or all of them."""
        if not self.extra_givens:
            return boards
        order = np.where(boards == 0, random.random(boards.shape), 2.0)  # empty cells first
        rank = order.argsort(axis=1).argsort(axis=1)
        return np.where(rank < self.extra_givens, grids, boards)


class Sudoku(PuzzleCorpus):
    """Minimal Sudoku puzzles: none has a given that its one solution does not need.

    ``extra_givens`` makes them easier, ``least_guesses`` leaves easy ones out.

    All puzzles of all splits are different: up to symmetry, or, where ``up_to_symmetry`` is False,
    as they are written. (Of boards of 4 by 4 there are 36 minimal puzzles up to symmetry.)

    Args:
        box_rows: rows of a box.
        box_columns: columns of a box; the board has box_rows * box_columns rows and columns.
        train: puzzles of the training split.
        val: of the validation split.
        test: of the test split.
        up_to_symmetry: what counts as the same puzzle.
        extra_givens: cells of the solution that are given beyond a minimal puzzle's.
        least_guesses: guesses that a search with naked and hidden singles needs at least.
        seed: of the puzzles.

    Raises:
        UserError: sizes out of range, or more puzzles than there are.
    """

    def __init__(
        self,
        box_rows: int,
        box_columns: int,
        train: int = 1000,
        val: int = 500,
        test: int = 1000,
        up_to_symmetry: bool = True,
        extra_givens: int = 0,
        least_guesses: int = 0,
        seed: int = 0,
    ) -> None:
        if min(box_rows, box_columns) < 1 or not 2 <= box_rows * box_columns <= MOST_DIGITS:
            raise UserError(
                f"A Sudoku with boxes of {box_rows} by {box_columns} is not to be had: a box has 2 "
                f"to {MOST_DIGITS} cells."
            )
        self.n_puzzles = dict(zip(SPLIT_NAMES, (train, val, test), strict=True))
        if not 1 <= min(self.n_puzzles.values()) <= sum(self.n_puzzles.values()) <= MOST_PUZZLES:
            raise UserError(
                f"The splits of a Sudoku have 1 to {MOST_PUZZLES:,} puzzles, not {self.n_puzzles}."
            )
        self.rules = Rules(box_rows, box_columns)
        self.width = self.rules.n_digits
        self.up_to_symmetry = up_to_symmetry
        self.wanted = Wanted(extra_givens, least_guesses)
        self.seed = seed
        if not 0 <= extra_givens < self.rules.n_cells or least_guesses < 0:
            raise UserError(
                f"A Sudoku with {extra_givens} extra givens and {least_guesses} guesses is not to "
                "be had.",
                f"extra_givens is 0 to {self.rules.n_cells - 1}, least_guesses 0 or more.",
            )

    @property
    def puzzle_size(self) -> int:
        """See ``PuzzleCorpus``."""
        return self.rules.n_cells

    def key(self) -> dict[str, Any]:
        """See ``Corpus``."""
        return {
            "boxes": [self.rules.box_rows, self.rules.box_columns],
            "n_puzzles": self.n_puzzles,
            "up_to_symmetry": self.up_to_symmetry,
            "wanted": asdict(self.wanted),
            "seed": self.seed,
        }

    def puzzles(self, split: str) -> Sequence[str]:
        """See ``PuzzleCorpus``."""
        total = sum(self.n_puzzles.values())
        made = make_puzzles(self.rules, total, self.up_to_symmetry, self.wanted, self.seed)
        i = SPLIT_NAMES.index(split)
        start = sum(self.n_puzzles[name] for name in SPLIT_NAMES[:i])
        return made[start : start + self.n_puzzles[split]]

    def keys(self, puzzles: Sequence[str]) -> np.ndarray:
        """See ``PuzzleCorpus``."""
        text = "".join(puzzles).replace(self.empty, "0").encode()
        digits = np.frombuffer(text, dtype=np.uint8).reshape(len(puzzles), -1) - ord("0")
        boards, grids = np.split(digits, 2, axis=1)
        return keys_of(self.rules, boards, grids, self.up_to_symmetry)

    def augmented(self, cells: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """See ``PuzzleCorpus``."""
        n = self.puzzle_size
        places, digits = random_symmetries(self.rules, len(cells), random)
        both = np.concatenate((places, places + n), axis=1)
        moved = np.take_along_axis(cells.astype(np.int64), both, axis=1)
        return np.take_along_axis(digits, moved, axis=1)


def keys_of(
    rules: Rules, boards: np.ndarray, grids: np.ndarray, up_to_symmetry: bool
) -> np.ndarray:
    """Return a number for each puzzle (B, C) with its solution, (B,); see ``PuzzleCorpus.keys``."""
    if up_to_symmetry:
        return signatures(rules, boards, grids)
    return np.array([key_of(board.tobytes()) for board in boards.astype(np.uint8)], np.uint64)


@lru_cache(maxsize=2)  # a cache is built in several passes over the same text
def make_puzzles(
    rules: Rules, n: int, up_to_symmetry: bool, wanted: "Wanted", seed: int
) -> list[str]:
    """Return ``n`` different puzzles, each followed by its solution.

    Raises:
        UserError: there are fewer.
    """
    random = np.random.default_rng((seed, rules.box_rows, rules.box_columns))
    made: list[str] = []
    known: set[int] = set()
    fruitless = 0
    while len(made) < n:
        grids = rules.grids(min(n, _AT_A_TIME), random)
        boards = wanted.with_extra_givens(rules.minimal_puzzles(grids, random), grids, random)
        if wanted.least_guesses:
            hard = rules.guesses(boards) >= wanted.least_guesses
            boards, grids = boards[hard], grids[hard]
        before = len(made)
        keys = keys_of(rules, boards, grids, up_to_symmetry)
        for key, board, grid in zip(keys.tolist(), boards, grids, strict=True):
            if key not in known:
                known.add(key)
                made.append(_text(board) + _text(grid))
        fruitless = 0 if len(made) > before else fruitless + 1
        if fruitless == _MOST_FRUITLESS:
            raise UserError(
                f"{n:,} different puzzles were asked for, and only {len(made):,} were found.",
                "Lower data.corpus.train, .val and .test"
                + (", set data.corpus.up_to_symmetry=false" if up_to_symmetry else "")
                + (", or lower .least_guesses." if wanted.least_guesses else "."),
            )
    return made[:n]


def _text(digits: np.ndarray) -> str:
    return "".join(map(str, digits.tolist())).replace("0", PuzzleCorpus.empty)
