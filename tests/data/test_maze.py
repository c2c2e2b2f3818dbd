"""Mazes have one path, which is the answer; splits share none, however turned."""

from collections import deque

import numpy as np
import pytest

from trm_lightning.data import Maze
from trm_lightning.errors import UserError


def neighbours(cell: int, size: int, cells: str) -> list[int]:
    row, column = divmod(cell, size)
    around = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    inside = [r * size + c for r, c in around if 0 <= r < size and 0 <= c < size]
    return [there for there in inside if cells[there] != "#"]


def shortest_path(cells: str, size: int) -> set[int]:
    """Find the cells between S and G by breadth-first search."""
    start, goal = cells.index("S"), cells.index("G")
    before = {start: start}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        for there in neighbours(cell, size, cells):
            if there not in before:
                before[there] = cell
                queue.append(there)
    path, cell = set(), before[goal]
    while cell != start:
        path.add(cell)
        cell = before[cell]
    return path


@pytest.fixture(scope="module")
def maze() -> Maze:
    return Maze(size=7, train=30, val=20, test=10)


def test_the_answer_is_the_one_path(maze: Maze) -> None:
    for puzzle in maze.puzzles("train"):
        question, answer = puzzle[:49], puzzle[49:]
        marked = {i for i, cell in enumerate(answer) if cell == "o"}
        assert answer.replace("o", ".") == question and len(marked) >= 5
        assert marked == shortest_path(question, 7)
        free = [i for i, cell in enumerate(question) if cell != "#"]
        doors = sum(len(neighbours(i, 7, question)) for i in free) // 2
        assert doors == len(free) - 1  # a tree, all joined: no other way there is
        before = {free[0]}
        for _ in free:
            before |= {there for cell in before for there in neighbours(cell, 7, question)}
        assert before == set(free)


def test_splits_differ_however_a_maze_is_turned(maze: Maze) -> None:
    keys = np.concatenate([maze.keys(maze.puzzles(split)) for split in maze.split_names()])
    assert len(keys) == 60 == len(np.unique(keys))
    alphabet = "#.GSo"
    puzzles = maze.puzzles("val")
    cells = np.array([[alphabet.index(cell) for cell in puzzle] for puzzle in puzzles])
    copies = maze.augmented(cells, np.random.default_rng(0))
    turned = ["".join(alphabet[i] for i in row) for row in copies]
    assert len(set(turned) - set(puzzles)) > 10
    assert (maze.keys(turned) == maze.keys(puzzles)).all()
    for puzzle in turned:
        assert {i for i, cell in enumerate(puzzle[49:]) if cell == "o"} == shortest_path(
            puzzle[:49], 7
        )
    assert Maze(size=7, train=30, val=20, test=10, seed=1).puzzles("val") != puzzles


def test_mazes_that_are_not_to_be_had_are_refused() -> None:
    for size, shortest in ((8, 3), (1, 1), (9, 10), (9, 0)):
        with pytest.raises(UserError, match="is not to be had"):
            Maze(size=size, shortest=shortest)
    with pytest.raises(UserError, match="Every split needs mazes"):
        Maze(val=0)
    with pytest.raises(UserError, match=r"only \d+ were found"):
        Maze(size=3, shortest=1, train=1000).puzzles("train")
