"""Published puzzles in CSV files: Sudoku-Extreme, and the hard mazes of 30 by 30.

The files are those of the TRM paper: lines of source, question, answer and rating, in ``train.csv``
and ``test.csv``. They are not downloaded: their publisher gives no checksum to hold a copy against.
"""

import csv
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from trm_lightning.data.corpus import SPLIT_NAMES
from trm_lightning.data.find_or_download import find_local
from trm_lightning.data.maze import Maze
from trm_lightning.data.sudoku import Sudoku
from trm_lightning.data.text_stream import file_sha256
from trm_lightning.errors import UserError

_COLUMNS = ("question", "answer")


def sampled_puzzles(
    folder: str, n_puzzles: dict[str, int], size: int, letters: str, seed: int
) -> dict[str, list[str]]:
    """Draw the puzzles of each split: train and val from ``train.csv``, test from ``test.csv``.

    The files are read line by line, so that any size fits in memory.

    Args:
        folder: below ``$TRM_DATA_DIR``.
        n_puzzles: how many, by split; 0 takes all that the file has left, for test.
        size: cells of a board, C.
        letters: what questions and answers are written in; a blank counts as ``.``.
        seed: of the draw.

    Raises:
        UserError: for a file that is missing, short, or holds something else.
    """
    n_train, n_val, n_test = (n_puzzles[name] for name in SPLIT_NAMES)
    drawn = _drawn(_file(folder, "train"), n_train + n_val, size, letters, seed)
    test = _drawn(_file(folder, "test"), n_test, size, letters, seed)
    return {"train": drawn[:n_train], "val": drawn[n_train:], "test": test}


def _file(folder: str, split: str) -> Path:
    name = f"{folder}/{split}.csv"
    path = find_local(name)
    if path is None:
        raise UserError(
            f"{name} is not below $TRM_DATA_DIR.",
            f"Download the data set sapientinc/{folder} from Hugging Face's hub, and put its "
            f"train.csv and test.csv into $TRM_DATA_DIR/{folder}/.",
        )
    return path


@lru_cache(maxsize=4)
def _drawn(path: Path, n: int, size: int, letters: str, seed: int) -> list[str]:
    """Draw ``n`` puzzles of a file, all equally likely, in random order; 0 takes all in order."""
    if n == 0:
        return list(_puzzles(path, size, letters))
    random = np.random.default_rng(seed)
    kept: list[str] = []
    for i, puzzle in enumerate(_puzzles(path, size, letters)):
        if i < n:
            kept.append(puzzle)
        elif (j := int(random.integers(i + 1))) < n:
            kept[j] = puzzle
    if len(kept) < n:
        raise UserError(f"{path} has {len(kept):,} puzzles, and {n:,} are wanted.")
    return [kept[i] for i in random.permutation(n)]


def _puzzles(path: Path, size: int, letters: str) -> Iterator[str]:
    """Yield question and answer of each line, as one text."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.DictReader(file)
        if not set(_COLUMNS) <= set(lines.fieldnames or ()):
            raise UserError(
                f"{path} has no columns question and answer in its first line.",
                "It must be the published CSV file.",
            )
        for line in lines:
            question, answer = ((line[name] or "").replace(" ", ".") for name in _COLUMNS)
            if (
                len(question) != size
                or len(answer) != size
                or not set(question + answer) <= set(letters)
            ):
                raise UserError(
                    f"{path}, line {lines.line_num}: no puzzle of {size} cells of {letters!r}."
                )
            yield question + answer


class SudokuFiles(Sudoku):
    """Sudoku-Extreme, or other puzzles of 9 by 9 in its form.

    Each answer is checked: it follows the rules, and holds the givens.

    Args:
        folder: below ``$TRM_DATA_DIR``, with ``train.csv`` and ``test.csv``.
        train: puzzles drawn from ``train.csv``.
        val: further ones, for validation.
        test: puzzles drawn from ``test.csv``; 0 for all.
        seed: of the draw.

    Raises:
        UserError: numbers out of range; and where puzzles are read, for a file that is missing, or
            holds something else.
    """

    def __init__(
        self,
        folder: str = "sudoku-extreme",
        train: int = 1000,
        val: int = 500,
        test: int = 10_000,
        seed: int = 0,
    ) -> None:
        super().__init__(3, 3, train, val, max(test, 1), seed=seed)
        self.folder = folder
        self.n_puzzles["test"] = test

    def key(self) -> dict[str, Any]:
        """See ``Corpus``."""
        return {**_files_key(self.folder), "n_puzzles": self.n_puzzles, "seed": self.seed}

    def puzzles(self, split: str) -> Sequence[str]:
        """See ``PuzzleCorpus``."""
        found = sampled_puzzles(self.folder, self.n_puzzles, 81, ".123456789", self.seed)[split]
        wrong = self._first_wrong(found)
        if wrong is not None:
            raise UserError(
                f"{self.folder}: this answer breaks the rules, or is not of its question: "
                f"{found[wrong]}"
            )
        return found

    def _first_wrong(self, puzzles: Sequence[str]) -> int | None:
        """Return the first puzzle whose answer is none."""
        text = "".join(puzzles).replace(self.empty, "0").encode()
        digits = np.frombuffer(text, dtype=np.uint8).reshape(-1, 2, 81) - ord("0")
        boards, grids = digits[:, 0], digits[:, 1]
        in_units = np.sort(grids[:, self.rules.units], axis=2)
        right = (in_units == np.arange(1, 10)).all(axis=(1, 2))
        right &= ((boards == 0) | (boards == grids)).all(axis=1)
        return None if right.all() else int(right.argmin())


class MazeFiles(Maze):
    """The hard mazes of 30 by 30 of the TRM paper, or others in their form.

    Args:
        folder: below ``$TRM_DATA_DIR``, with ``train.csv`` and ``test.csv``.
        size: rows and columns.
        train: mazes drawn from ``train.csv``.
        val: further ones, for validation.
        test: mazes drawn from ``test.csv``; 0 for all.
        seed: of the draw.

    Raises:
        UserError: see :class:`SudokuFiles`.
    """

    def __init__(
        self,
        folder: str = "maze-30x30-hard-1k",
        size: int = 30,
        train: int = 900,
        val: int = 100,
        test: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__(size + 1 - size % 2, 1, train, val, max(test, 1), seed)
        self.size = self.width = size
        self.folder = folder
        self.n_puzzles["test"] = test

    def key(self) -> dict[str, Any]:
        """See ``Corpus``."""
        numbers = {"size": self.size, "n_puzzles": self.n_puzzles, "seed": self.seed}
        return {**_files_key(self.folder), **numbers}

    def puzzles(self, split: str) -> Sequence[str]:
        """See ``PuzzleCorpus``."""
        size = self.puzzle_size
        return sampled_puzzles(self.folder, self.n_puzzles, size, "#.SGo", self.seed)[split]


def _files_key(folder: str) -> dict[str, Any]:
    """Return what tells the files of a folder from others: their checksums."""
    key: dict[str, Any] = {"folder": folder}
    for split in ("train", "test"):
        key[split] = file_sha256(_file(folder, split))
    return key
