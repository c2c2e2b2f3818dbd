"""A solver that searches many Sudoku boards at once, and what is made with it.

A cell is a bit mask of the digits that it may hold; digit d is bit d - 1. Each board is searched
depth first: propagation, then a guess in a cell with the fewest candidates. All boards take each
step of that together, in numpy.

Shapes: B boards, N nodes of the search, C cells, U units (rows, columns, boxes), n digits.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

MOST_DIGITS = 9
_BITS = np.array([bin(mask).count("1") for mask in range(1 << MOST_DIGITS)], dtype=np.uint8)


@dataclass(frozen=True)
class Rules:
    """The shape of a Sudoku: boxes of ``box_rows`` by ``box_columns`` cells, as many digits.

    Attributes:
        box_rows: rows of a box.
        box_columns: columns of a box.
    """

    box_rows: int
    box_columns: int

    @property
    def n_digits(self) -> int:
        """The n of an n by n board."""
        return self.box_rows * self.box_columns

    @property
    def n_cells(self) -> int:
        """Number of cells of a board, C."""
        return self.n_digits**2

    @cached_property
    def units(self) -> np.ndarray:
        """Cells of every row, column and box, (U, n)."""
        n = self.n_digits
        grid = np.arange(n * n).reshape(n, n)
        boxes = grid.reshape(n // self.box_rows, self.box_rows, -1, self.box_columns)
        return np.concatenate((grid, grid.T, boxes.swapaxes(1, 2).reshape(n, n)))

    @cached_property
    def units_of(self) -> np.ndarray:
        """The row, column and box of every cell, (C, 3)."""
        holds = (self.units[:, :, None] == np.arange(self.n_cells)).any(axis=1)  # (U, C)
        return np.array([np.flatnonzero(column) for column in holds.T])

    @property
    def any_digit(self) -> int:
        """The mask of a cell that may hold every digit."""
        return (1 << self.n_digits) - 1

    def masks(self, boards: np.ndarray) -> np.ndarray:
        """Return the masks (B, C) of boards (B, C) of digits, 0 for an empty cell."""
        masks = np.uint16(1) << np.arange(-1, self.n_digits).clip(0).astype(np.uint16)
        masks[0] = self.any_digit
        return masks[boards]

    # Search.

    def first_solutions(
        self,
        masks: np.ndarray,
        random: np.random.Generator | None = None,
        guesses: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find one solution of each board.

        Args:
            masks: (B, C).
            random: draws the guesses; None guesses the smallest digit.
            guesses: (B,) integers, to which the number of guesses is added.

        Returns:
            Which boards have a solution, (B,), and a solution of these, (B, C), else zeros.
        """
        solutions = np.zeros(masks.shape, dtype=np.uint8)
        found = np.zeros(len(masks), dtype=bool)
        nodes, owners = masks.copy(), np.arange(len(masks))  # the stacks of all boards, as one
        while len(nodes):
            top = len(owners) - 1 - np.unique(owners[::-1], return_index=True)[1]
            tried, of = nodes[top], owners[top]
            nodes, owners = np.delete(nodes, top, axis=0), np.delete(owners, top)
            possible = self.propagate(tried)
            single = (_count_bits(tried) == 1).all(axis=1)
            solved = possible & single
            solutions[of[solved]] = np.log2(tried[solved]).astype(np.uint8) + 1
            found[of[solved]] = True
            open_ = possible & ~single
            if guesses is not None:
                np.add.at(guesses, of[open_], 1)
            guessed, otherwise = self._guess(tried[open_], random)
            nodes = np.concatenate((nodes, otherwise, guessed))
            owners = np.concatenate((owners, of[open_], of[open_]))
            wanted = ~found[owners]
            nodes, owners = nodes[wanted], owners[wanted]
        return found, solutions

    def propagate(self, masks: np.ndarray) -> np.ndarray:
        """Remove, in place, what rows, columns and boxes exclude, until nothing changes.

        Naked and hidden singles: a digit that is placed leaves the other cells of its units, and
        a digit with one place left in a unit stands there.

        Returns:
            Which boards (B,) may still have a solution.
        """
        possible = np.ones(len(masks), dtype=bool)
        active = np.arange(len(masks))
        while len(active):
            before = masks[active]
            after, valid = self._one_round(before)
            masks[active] = after
            possible[active] = valid
            active = active[valid & (after != before).any(axis=1)]
        return possible

    def _one_round(self, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the masks after one round of :meth:`propagate`, and which boards are valid."""
        is_single = _count_bits(masks) == 1
        placed = np.where(is_single, masks, 0)[:, self.units]  # (N, U, n)
        taken = np.bitwise_or.reduce(placed, axis=2)
        # Masks of different digits add up to their union; equal ones do not.
        valid = (placed.sum(axis=2, dtype=np.uint16) == taken).all(axis=1)
        excluded = np.bitwise_or.reduce(taken[:, self.units_of], axis=2)
        masks = np.where(is_single, masks, masks & ~excluded)
        once = twice = np.zeros(taken.shape, dtype=np.uint16)
        for cells in self.units.T:
            twice = twice | (once & masks[:, cells])
            once = once | masks[:, cells]
        valid &= (once == self.any_digit).all(axis=1) & (masks > 0).all(axis=1)
        hidden = np.bitwise_or.reduce((once & ~twice)[:, self.units_of], axis=2) & masks
        return np.where(hidden > 0, hidden, masks).astype(np.uint16), valid

    def _guess(
        self, masks: np.ndarray, random: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the boards (N, C) with a digit in a cell of few candidates, and without it."""
        rows = np.arange(len(masks))
        n_left = _count_bits(masks).astype(np.float32)
        n_left[n_left < 2] = np.inf
        if random is not None:
            n_left += random.random(n_left.shape, dtype=np.float32) / 2
        cells = n_left.argmin(axis=1)
        left = masks[rows, cells]
        bit = left & (~left + 1)
        if random is not None:
            order = random.random((len(masks), self.n_digits))
            order[(left[:, None] >> np.arange(self.n_digits)) & 1 == 0] = -1
            bit = np.left_shift(1, order.argmax(axis=1)).astype(np.uint16)
        guessed, otherwise = masks.copy(), masks.copy()
        guessed[rows, cells] = bit
        otherwise[rows, cells] = left & ~bit
        return guessed, otherwise

    def guesses(self, boards: np.ndarray) -> np.ndarray:
        """Rate boards (B, C) by the guesses that the search needs for a solution, (B,).

        0 means that naked and hidden singles are enough.
        """
        found = np.zeros(len(boards), dtype=np.int64)
        self.first_solutions(self.masks(boards), guesses=found)
        return found

    # Puzzles.

    def grids(self, n: int, random: np.random.Generator) -> np.ndarray:
        """Return ``n`` full grids of digits, (n, C), found by random search."""
        return self.first_solutions(self.masks(np.zeros((n, self.n_cells), int)), random)[1]

    def minimal_puzzles(self, grids: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Take givens away from full grids (B, C) as long as the solution is the only one.

        In a random order; a given stays only where another solution would hold another digit
        there. So every puzzle has one solution, and none without any one of its givens.

        Returns:
            Boards (B, C), 0 for an empty cell.
        """
        boards, rows = grids.copy(), np.arange(len(grids))
        for cells in random.random(grids.shape).argsort(axis=1).T:
            others = boards.copy()
            others[rows, cells] = 0
            masks = self.masks(others)
            masks[rows, cells] &= ~self.masks(grids)[rows, cells]
            needed = self.first_solutions(masks)[0]
            boards[rows, cells] = np.where(needed, grids[rows, cells], 0)
        return boards

    def has_one_solution(self, boards: np.ndarray) -> np.ndarray:
        """Say which boards (B, C) have exactly one solution, (B,)."""
        unique, solutions = self.first_solutions(self.masks(boards))
        for cell in range(self.n_cells):  # a second solution differs in an empty cell
            masks = self.masks(boards)
            masks[:, cell] &= ~self.masks(solutions)[:, cell]
            asked = unique & (boards[:, cell] == 0)
            unique[asked] = ~self.first_solutions(masks[asked])[0]
        return unique


def _count_bits(masks: np.ndarray) -> np.ndarray:
    return _BITS[masks]
