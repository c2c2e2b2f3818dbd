"""Sudoku: solutions are proven unique, puzzles minimal, and splits share none up to symmetry."""

from itertools import permutations, product

import numpy as np
import pytest

from trm_lightning.data import Sudoku
from trm_lightning.data.sudoku_solver import Rules
from trm_lightning.data.sudoku_symmetries import random_symmetries, signatures
from trm_lightning.errors import UserError

SHAPES = [(2, 2), (2, 3)]


def legal(rules: Rules, board: list[int], cell: int, digit: int) -> bool:
    n = rules.n_digits
    row, column = divmod(cell, n)
    for other, there in enumerate(board):
        r, c = divmod(other, n)
        same_box = (r // rules.box_rows, c // rules.box_columns) == (
            row // rules.box_rows,
            column // rules.box_columns,
        )
        if there == digit and (r == row or c == column or same_box):
            return False
    return True


def solutions(rules: Rules, board: list[int], limit: int = 2) -> list[list[int]]:
    """Find up to ``limit`` solutions by plain backtracking: an independent solver."""
    if 0 not in board:
        return [board]
    choices = {
        cell: [d for d in range(1, rules.n_digits + 1) if legal(rules, board, cell, d)]
        for cell, there in enumerate(board)
        if there == 0
    }
    cell = min(choices, key=lambda c: len(choices[c]))
    found: list[list[int]] = []
    for digit in choices[cell]:
        tried = [*board[:cell], digit, *board[cell + 1 :]]
        found += solutions(rules, tried, limit - len(found))
        if len(found) >= limit:
            break
    return found


def made(box: tuple[int, int], n: int) -> tuple[Rules, np.ndarray, np.ndarray]:
    rules, random = Rules(*box), np.random.default_rng(5)
    grids = rules.grids(n, random)
    return rules, rules.minimal_puzzles(grids, random), grids


@pytest.mark.parametrize("box", SHAPES)
def test_puzzles_have_the_one_solution_and_need_every_given(box: tuple[int, int]) -> None:
    rules, boards, grids = made(box, 3)
    for board, grid in zip(boards.tolist(), grids.tolist(), strict=True):
        assert solutions(rules, board) == [grid]
        for cell in np.flatnonzero(board):
            fewer = [*board[:cell], 0, *board[cell + 1 :]]
            assert len(solutions(rules, fewer)) == 2


@pytest.mark.parametrize("box", SHAPES)
def test_the_solver_agrees_with_backtracking_on_any_board(box: tuple[int, int]) -> None:
    """Boards without a solution, with one, and with several."""
    rules, boards, _ = made(box, 12)
    random = np.random.default_rng(2)
    boards[:4, ::3] = 0  # several
    boards[4:8, 0] = random.integers(1, rules.n_digits + 1, 4)  # perhaps none
    found, some = rules.first_solutions(rules.masks(boards))
    unique = rules.has_one_solution(boards)
    for i, board in enumerate(boards.tolist()):
        expected = solutions(rules, board)
        assert found[i] == bool(expected) and unique[i] == (len(expected) == 1)
        if found[i]:
            filled = some[i].tolist()
            assert all(given in (0, there) for given, there in zip(board, filled, strict=True))
            assert solutions(rules, filled) == [filled]
            cells = np.array(filled)[rules.units]
            assert (np.sort(cells, axis=1) == np.arange(1, rules.n_digits + 1)).all()
    assert 0 < unique.sum() < len(boards)


def test_there_are_36_minimal_puzzles_of_4_by_4() -> None:
    """The known number, up to symmetry: 13 with four givens, 22 with five, 1 with six."""
    rules, boards, grids = made((2, 2), 1500)
    found, first = np.unique(signatures(rules, boards, grids), return_index=True)
    sizes = np.bincount((boards[first] > 0).sum(axis=1), minlength=7)
    assert len(found) == 36 and sizes[4:].tolist() == [13, 22, 1]


def canonical(rules: Rules, board: np.ndarray) -> tuple[int, ...]:
    """The least board that any symmetry makes of one: the definition, tried out in full."""
    n = rules.n_digits
    rows, columns = (
        [
            [line for b in bands for line in within[b]]
            for bands in permutations(range(n // size))
            for within in product(*(
                list(permutations(range(b * size, (b + 1) * size))) for b in range(n // size)
            ))
        ]
        for size in (rules.box_rows, rules.box_columns)
    )  # fmt: skip
    square = board.reshape(n, n)
    images = [square] if rules.box_rows != rules.box_columns else [square, square.T]
    best: tuple[int, ...] = ()
    for image in images:
        for r in rows:
            taken = image[r]
            for c in columns:
                names = {0: 0}
                cells = taken[:, c].ravel().tolist()
                renamed = tuple(names.setdefault(cell, len(names)) for cell in cells)
                if not best or renamed < best:
                    best = renamed
    return best


def test_signatures_are_those_of_the_canonical_form() -> None:
    rules, boards, grids = made((2, 2), 60)
    names = [canonical(rules, board) for board in boards]
    numbers = signatures(rules, boards, grids).tolist()
    assert len(set(numbers)) > 10
    pairs = set(zip(names, numbers, strict=True))
    assert len(pairs) == len(set(names)) == len(set(numbers))


@pytest.mark.parametrize("box", [(2, 2), (2, 3), (3, 3)])
def test_symmetries_keep_a_puzzle_what_it_is(box: tuple[int, int]) -> None:
    rules, boards, grids = made(box, 20)
    cells, digits = random_symmetries(rules, len(boards), np.random.default_rng(1))
    moved, solved = (
        np.take_along_axis(digits, np.take_along_axis(of, cells, axis=1), axis=1)
        for of in (boards, grids)
    )
    assert (moved != boards).any()
    found, solution = rules.first_solutions(rules.masks(moved))
    assert found.all() and (solution == solved).all()
    assert (signatures(rules, moved, solved) == signatures(rules, boards, grids)).all()
    # And what is no symmetry shows: two cells exchanged.
    broken = boards.copy()
    broken[:, [0, 7]] = broken[:, [7, 0]]
    changed = (broken != boards).any(axis=1)
    assert changed.any()
    assert (signatures(rules, broken, grids) != signatures(rules, boards, grids)).any()


@pytest.mark.parametrize("up_to_symmetry", [True, False])
def test_splits_share_no_puzzle(up_to_symmetry: bool) -> None:
    corpus = Sudoku(2, 3, train=60, val=30, test=20, up_to_symmetry=up_to_symmetry)
    keys = [corpus.keys(corpus.puzzles(split)) for split in corpus.split_names()]
    assert [len(part) for part in keys] == [60, 30, 20]
    assert len(np.unique(np.concatenate(keys))) == 110
    again = Sudoku(2, 3, train=60, val=30, test=20, up_to_symmetry=up_to_symmetry)
    assert again.puzzles("test") == corpus.puzzles("test")
    assert Sudoku(2, 3, 60, 30, 20, up_to_symmetry, seed=1).puzzles("val") != corpus.puzzles("val")


def test_more_puzzles_than_there_are_are_refused() -> None:
    with pytest.raises(UserError, match="only 36 were found") as refused:
        Sudoku(2, 2, train=20, val=10, test=10).puzzles("train")
    assert "up_to_symmetry=false" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [((1, 1), "2 to 9"), ((2, 5), "2 to 9"), ((2, 2, 0), "1 to"), ((2, 2, 10**8), "1 to")],
)
def test_sizes_out_of_range_are_refused(arguments: tuple[int, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Sudoku(*arguments)


def boards_of(corpus: Sudoku, split: str) -> np.ndarray:
    texts = [p[: corpus.puzzle_size].replace(".", "0") for p in corpus.puzzles(split)]
    return np.array([[int(digit) for digit in text] for text in texts])


def test_extra_givens_are_of_the_solution_and_make_puzzles_easier() -> None:
    few = {"box_rows": 3, "box_columns": 3, "train": 30, "val": 2, "test": 2}
    minimal, easy = Sudoku(**few), Sudoku(**few, extra_givens=9)
    plain, filled = boards_of(minimal, "train"), boards_of(easy, "train")
    assert (filled > 0).sum(axis=1).min() >= (plain > 0).sum(axis=1).min() + 9
    assert easy.rules.has_one_solution(filled).all()
    assert easy.rules.guesses(filled).mean() < minimal.rules.guesses(plain).mean()
    solved = [p[81:] for p in easy.puzzles("train")]
    for board, solution in zip(filled, solved, strict=True):
        assert all(str(given) in ("0", cell) for given, cell in zip(board, solution, strict=True))


def test_puzzles_can_be_asked_to_need_guesses() -> None:
    few = {"box_rows": 3, "box_columns": 3, "train": 12, "val": 1, "test": 1}
    hard = Sudoku(**few, least_guesses=2)
    assert (hard.rules.guesses(boards_of(hard, "train")) >= 2).all()
    assert (hard.rules.guesses(boards_of(Sudoku(**few), "train")) == 0).any()
    with pytest.raises(UserError, match=r"lower \.least_guesses"):
        Sudoku(2, 2, train=1, val=1, test=1, least_guesses=40).puzzles("train")


def test_a_guess_is_where_singles_are_not_enough() -> None:
    rules = Rules(2, 2)
    empty = np.zeros((1, 16), dtype=int)
    solved = rules.grids(1, np.random.default_rng(0))
    assert rules.guesses(solved).tolist() == [0] and rules.guesses(empty)[0] >= 2
