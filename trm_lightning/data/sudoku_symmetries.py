"""What a Sudoku may be turned into and stay the same puzzle, and how two such are recognised.

The symmetries: any renaming of the digits; rows in another order within their band, and bands
among each other; the same of columns and stacks; rows and columns exchanged where boxes are square.

Shapes: B boards, C cells, n digits, U units (rows, columns, boxes).
"""

import numpy as np

from trm_lightning.data.sudoku_solver import Rules

_ROUNDS = 8  # of signatures: more tell no more puzzles apart


def random_symmetries(
    rules: Rules, n: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``n`` symmetries, uniformly.

    Returns:
        Where each cell of the new board comes from, (n, C), and what each digit becomes, (n, n
        digits + 1), 0 staying 0.
    """
    rows = _line_orders(rules.n_digits, rules.box_rows, n, random)
    columns = _line_orders(rules.n_digits, rules.box_columns, n, random)
    cells = rows[:, :, None] * rules.n_digits + columns[:, None, :]
    if rules.box_rows == rules.box_columns:
        turned = random.random((n, 1, 1)) < 0.5
        cells = np.where(turned, cells.swapaxes(1, 2), cells)
    digits = random.random((n, rules.n_digits)).argsort(axis=1) + 1
    digits = np.concatenate((np.zeros((n, 1), dtype=digits.dtype), digits), axis=1)
    return cells.reshape(n, -1), digits


def _line_orders(n_lines: int, per_band: int, n: int, random: np.random.Generator) -> np.ndarray:
    """Draw ``n`` orders of rows, or of columns, that keep bands together, (n, n_lines)."""
    bands = random.random((n, n_lines // per_band)).argsort(axis=1)
    within = random.random((n, n_lines // per_band, per_band)).argsort(axis=2)
    return (bands[:, :, None] * per_band + within).reshape(n, n_lines)


def signatures(rules: Rules, boards: np.ndarray, grids: np.ndarray) -> np.ndarray:
    """Return a number for each puzzle that no symmetry changes, (B,) uint64.

    Puzzles with different numbers are different up to symmetry, for certain. The converse holds
    but for puzzles that colour refinement (Weisfeiler and Leman) cannot tell apart.

    Args:
        rules: of the boards.
        boards: (B, C) digits, 0 for an empty cell.
        grids: (B, C) their solutions.
    """
    square = rules.box_rows == rules.box_columns
    row_of, column_of, box_of = rules.units_of.T
    groups = [row_of, column_of, box_of, *_bands(rules)]
    # Rows and columns are one kind where they may be exchanged.
    kinds = [1, 1, 2, 3, 3] if square else [1, 4, 2, 3, 5]
    given = (boards > 0).astype(np.uint64)
    colors = _mixed(given)
    for _ in range(_ROUNDS):
        around = _mixed(_sums(colors, grids - 1) + np.uint64(6))
        for group, kind in zip(groups, kinds, strict=True):
            places = np.broadcast_to(group - group.min(), colors.shape)
            around = around + _mixed(_sums(colors, places) + np.uint64(kind))
        colors = _mixed(colors * np.uint64(3) + around)
    return _mixed(colors.sum(axis=1, dtype=np.uint64))


def _bands(rules: Rules) -> tuple[np.ndarray, np.ndarray]:
    """Return the band and the stack of every cell, (C,) each."""
    rows, columns = np.divmod(np.arange(rules.n_cells), rules.n_digits)
    return rows // rules.box_rows, columns // rules.box_columns


def _sums(colors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return, for every cell (B, C), the sum of the colors of its group, in whatever order."""
    total = np.zeros(colors.shape, dtype=np.uint64)  # there are no more groups than cells
    rows = np.arange(len(colors))[:, None]
    np.add.at(total, (rows, groups), _mixed(colors))
    return total[rows, groups]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers: the finalizer of SplitMix64."""
    with np.errstate(over="ignore"):
        x = numbers + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
