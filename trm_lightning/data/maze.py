"""Mazes with one way from start to goal, and so one shortest path.

Shapes: B mazes, C cells.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from trm_lightning.data.corpus import SPLIT_NAMES
from trm_lightning.data.puzzle_corpus import PuzzleCorpus, draw_distinct, key_of
from trm_lightning.errors import UserError

Cell = tuple[int, int]  # row and column
WALL, START, GOAL, PATH = "#", "S", "G", "o"
_STEPS = ((0, 2), (2, 0), (0, -2), (-2, 0))  # from a room to the next


class Maze(PuzzleCorpus):
    """Square mazes: rooms with a wall or a door between each two neighbours, and no loop.

    The answer is the maze with the path from S to G marked. All mazes of all splits differ, turned
    and mirrored ones counting as the same.

    Args:
        size: rows and columns of the board, odd: rooms lie at even ones.
        shortest: least number of cells of a path, its ends not counted.
        train: mazes of the training split.
        val: of the validation split.
        test: of the test split.
        seed: of the mazes.

    Raises:
        UserError: sizes out of range, or more mazes than there are.
    """

    def __init__(
        self,
        size: int = 9,
        shortest: int = 5,
        train: int = 1000,
        val: int = 500,
        test: int = 1000,
        seed: int = 0,
    ) -> None:
        self.size = self.width = size
        self.shortest = shortest
        self.n_puzzles = dict(zip(SPLIT_NAMES, (train, val, test), strict=True))
        self.seed = seed
        if size < 3 or size % 2 == 0 or not 1 <= shortest <= size:
            raise UserError(
                f"A maze of size {size} with paths of {shortest} cells or more is not to be had.",
                "The size is odd and at least 3, and shortest is 1 to the size.",
            )
        if min(self.n_puzzles.values()) < 1:
            raise UserError(f"Every split needs mazes, not {self.n_puzzles}.")

    @property
    def puzzle_size(self) -> int:
        """See ``PuzzleCorpus``."""
        return self.size**2

    def key(self) -> dict[str, Any]:
        """See ``Corpus``."""
        return {
            "size": self.size,
            "shortest": self.shortest,
            "n_puzzles": self.n_puzzles,
            "seed": self.seed,
        }

    def puzzles(self, split: str) -> Sequence[str]:
        """See ``PuzzleCorpus``."""
        return _drawn(self)[split]

    def keys(self, puzzles: Sequence[str]) -> np.ndarray:
        """See ``PuzzleCorpus``: of the least of a maze's eight images, its canonical form."""
        return np.array([self.key_of(puzzle) for puzzle in puzzles], dtype=np.uint64)

    def key_of(self, puzzle: str) -> int:
        """Return the number of one maze; see :meth:`keys`."""
        cells = np.frombuffer(puzzle[: self.puzzle_size].encode(), dtype=np.uint8)
        return key_of(min(image.tobytes() for image in cells[self.images]))

    @cached_property
    def images(self) -> np.ndarray:
        """Where each cell of a turned and mirrored board comes from, (8, C)."""
        board = np.arange(self.puzzle_size).reshape(self.size, self.size)
        turned = [np.rot90(each, k) for each in (board, board.T) for k in range(4)]
        return np.stack([image.ravel() for image in turned])

    def augmented(self, cells: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """See ``PuzzleCorpus``."""
        places = self.images[random.integers(8, size=len(cells))]
        both = np.concatenate((places, places + self.puzzle_size), axis=1)
        return np.take_along_axis(cells, both, axis=1)

    def draw(self, random: np.random.Generator) -> str:
        """Draw a maze and its answer."""
        board, ways = self._dug(random)
        far = [way for way in ways if len(way) >= self.shortest + 2]
        if not far:
            return self.draw(random)
        first, *path, last = far[int(random.integers(len(far)))]
        board[first], board[last] = START, GOAL
        question = "".join(board.ravel())
        for cell in path:
            board[cell] = PATH
        return question + "".join(board.ravel())

    def _dug(self, random: np.random.Generator) -> tuple[np.ndarray, list[list[Cell]]]:
        """Join rooms by a random walk that turns back at dead ends.

        Returns:
            The board (size, size), and the way from the first room to each.
        """
        board = np.full((self.size, self.size), WALL)
        row, column = (2 * int(i) for i in random.integers((self.size + 1) // 2, size=2))
        walk: list[Cell] = [(row, column)]
        ways = {walk[0]: walk[:]}
        while walk:
            here = walk[-1]
            board[here] = self.empty
            rooms = [(here[0] + down, here[1] + right) for down, right in _STEPS]
            inside = [room for room in rooms if min(room) >= 0 and max(room) < self.size]
            new = [room for room in inside if room not in ways]
            if not new:
                walk.pop()
                continue
            room = new[int(random.integers(len(new)))]
            door = (here[0] + room[0]) // 2, (here[1] + room[1]) // 2
            board[door] = self.empty
            ways[room] = [*ways[here], door, room]
            walk.append(room)
        return board, list(ways.values())


@lru_cache(maxsize=4)
def _drawn(corpus: Maze) -> dict[str, list[str]]:
    random = np.random.default_rng(corpus.seed)
    return draw_distinct(corpus.n_puzzles, lambda split: corpus.draw(random), corpus.key_of)
