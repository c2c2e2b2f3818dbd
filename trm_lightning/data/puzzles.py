"""Puzzles: boards to fill in, with the answer behind the question.

A puzzle is a window of 2 C tokens: the C cells of the question, then those of the answer, which
alone are scored. A causal model reads it from left to right and writes the answer cell by cell; a
model with ``puzzle_size`` reads the question and answers all cells together.

Letters in shapes: B batch, P puzzles, C cells.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch

from trm_lightning.data.character_tokenizer import CharacterTokenizer
from trm_lightning.data.datamodule import TextDataModule
from trm_lightning.data.puzzle_corpus import PuzzleCorpus
from trm_lightning.data.text_counts import count_text
from trm_lightning.data.token_cache import TokenSplit
from trm_lightning.errors import UserError

Augment = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class PuzzleBatches:
    """Training batches of puzzles; batch i is a function of (seed, i) alone.

    An epoch shows each puzzle, or ``copies`` symmetric copies of it, in a random order.

    Args:
        puzzles: ids (P, 2 C).
        batch_size: B, over all processes together.
        seed: of the order and of ``augment``.
        n_batches: the number of batches of the whole run; see ``TrainBatches``.
        start_batch: the first batch to yield.
        rank: this process takes puzzles rank, rank + world_size, ... of each batch.
        world_size: number of processes.
        copies: of each puzzle in an epoch; 0 shows it once, as it is.
        augment: maps ids (B, 2 C) to those of symmetric copies, where there are ``copies``.
    """

    def __init__(
        self,
        puzzles: np.ndarray,
        batch_size: int,
        seed: int,
        n_batches: int,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        copies: int = 0,
        augment: Augment | None = None,
    ) -> None:
        self.puzzles = puzzles
        self.batch_size = batch_size
        self.seed = seed
        self.n_batches = n_batches
        self.start_batch = start_batch
        self.epoch_size = len(puzzles) * max(copies, 1)
        self.augment = augment if copies else None
        self._mine = slice(rank, None, world_size)
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield int64 tensors (B / world_size, 2 C)."""
        for batch in range(self.start_batch, self.n_batches):
            numbers = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
            epochs, places = np.divmod(numbers, self.epoch_size)
            chosen = [self._order(e)[places[epochs == e]] for e in range(epochs[0], epochs[-1] + 1)]
            cells = self.puzzles[np.concatenate(chosen) % len(self.puzzles)]
            if self.augment is not None:
                cells = self.augment(cells, np.random.default_rng((self.seed, batch, 1)))
            yield torch.from_numpy(cells[self._mine].astype(np.int64))

    def state_dict(self) -> dict[str, int]:
        """See ``TrainBatches.state_dict``."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """See ``state_dict``."""

    def _draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.epoch_size)


@dataclass(frozen=True)
class PuzzleWindows:
    """Batches of all puzzles of a split, in order; the cells of their answers count.

    Args:
        puzzles: ids (P, 2 C).
        batch_size: most puzzles in a batch.
        rank: this process takes batches rank, rank + world_size, ...
        world_size: number of processes.
    """

    puzzles: np.ndarray
    batch_size: int
    rank: int = 0
    world_size: int = 1

    @property
    def stride(self) -> int:
        """Tokens from one puzzle to the next."""
        return int(self.puzzles.shape[1])

    def __len__(self) -> int:
        n_batches = -(-len(self.puzzles) // self.batch_size)
        return len(range(self.rank, n_batches, self.world_size))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        """Yield (ids (B, 2 C) int64, C): the tokens from position C on count."""
        step = self.batch_size * self.world_size
        for start in range(self.rank * self.batch_size, len(self.puzzles), step):
            cells = self.puzzles[start : start + self.batch_size].astype(np.int64)
            yield torch.from_numpy(cells), self.stride // 2


class PuzzleDataModule(TextDataModule):
    """Puzzles as batches of ids; see the module.

    ``splits`` other than "train" hold the answers that are scored.

    Args:
        name: see :class:`TextDataModule`.
        corpus: where the puzzles come from.
        puzzle_size: C, cells of a board; that of the corpus.
        window_size: tokens of a puzzle and its answer, 2 C.
        batch_size: B, puzzles of a training batch, summed over all processes.
        copies: symmetric copies of each training puzzle in an epoch, drawn anew in each; 0 shows
            each puzzle once, as it is.
        train_tokens: train on the first so many tokens only; None for all.
        eval_batch_tokens: most tokens of an evaluation batch.
        seed: of the order of training puzzles and of the copies.
        columns: of a board, those of the corpus, for models that look at a cell's neighbours.
        mixing: what suits models of these boards, whose configs read it from here: ``mlp`` where
            every cell has a meaning of its own, as in Sudoku; ``convolution`` where what counts
            are a cell's neighbours; else ``attention``.
        n_refinements: likewise; None leaves it to the model.
        n_supervision: likewise.
        cache_dir: see :class:`TextDataModule`.

    Raises:
        UserError: values out of range, or sizes that are not the corpus's.
    """

    is_running_text = False
    is_puzzle = True

    def __init__(
        self,
        name: str,
        corpus: PuzzleCorpus,
        puzzle_size: int,
        window_size: int,
        batch_size: int,
        copies: int = 0,
        train_tokens: int | None = None,
        eval_batch_tokens: int = 16384,
        seed: int = 0,
        columns: int | None = None,
        mixing: str = "attention",
        n_refinements: int | None = None,
        n_supervision: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__(
            name, corpus, CharacterTokenizer(), window_size, batch_size,
            supervised_tokens=max(1, window_size // 2), train_tokens=train_tokens,
            eval_batch_tokens=eval_batch_tokens, seed=seed, cache_dir=cache_dir,
        )  # fmt: skip
        self.puzzles_source = corpus
        self.puzzle_size = puzzle_size
        self.copies = copies
        self.columns = columns
        self.mixing = mixing
        self.n_refinements = n_refinements
        self.n_supervision = n_supervision
        if copies < 0:
            raise UserError(f"data={self.name}: copies is {copies}; it must be at least 0.")
        size, width = corpus.puzzle_size, corpus.width
        if (puzzle_size, window_size) != (size, 2 * size) or columns not in (None, width):
            raise UserError(
                f"data={self.name}: puzzle_size={puzzle_size}, window_size={window_size} and "
                f"columns={columns} do not fit boards of {size} cells in {width} columns.",
                f"Set data.puzzle_size={size} data.window_size={2 * size} data.columns={width}; a "
                "window holds the answer too.",
            )

    def puzzles(self, split: str) -> np.ndarray:
        """Return the ids of a split's puzzles, (P, 2 C).

        Raises:
            UserError: no such split.
        """
        return np.asarray(self._ids_of(split)).reshape(-1, self.window_size)

    @property
    def train_puzzles(self) -> np.ndarray:
        """The ids of the puzzles that are trained on, (P, 2 C)."""
        n = None if self.train_tokens is None else self.train_tokens // self.window_size
        return self.puzzles("train")[:n]

    @property
    def tokens_per_epoch(self) -> int:
        """Number of tokens of one epoch."""
        return self.train_puzzles.size * max(self.copies, 1)

    @property
    def splits(self) -> dict[str, TokenSplit]:
        """Splits by name; of all but "train" the answers that are scored."""
        return self._splits

    @cached_property
    def _splits(self) -> dict[str, TokenSplit]:
        found = dict(super().splits)
        for name in found.keys() - {"train"}:
            answers = self.puzzles(name)[:, self.puzzle_size :].ravel()
            counts = count_text([self.tokenizer.decode(answers)], answers, None)
            found[name] = replace(found[name], tokens=answers, counts=counts)
        return found

    def _symmetric_copies(self, cells: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return copies of puzzles (B, 2 C); one that would be a held-out puzzle stays as it is."""
        copies = self.puzzles_source.augmented(cells, random)
        if self.puzzles_source.up_to_symmetry:
            return copies  # no symmetry makes a held-out puzzle of a training puzzle
        held_out = np.isin(self.keys(copies), self._held_out_keys)
        return np.where(held_out[:, None], cells, copies)

    @cached_property
    def _held_out_keys(self) -> np.ndarray:
        names = [name for name in self.splits if name != "train"]
        return self.keys(np.concatenate([self.puzzles(name) for name in names]))

    def train_batches(  # type: ignore[override]
        self, n_batches: int, start_batch: int = 0, rank: int = 0, world_size: int = 1
    ) -> PuzzleBatches:
        """See :meth:`TextDataModule.train_batches`."""
        self.check_processes(world_size)
        return PuzzleBatches(
            self.train_puzzles, self.batch_size, self.seed, n_batches, start_batch, rank,
            world_size, self.copies, self._symmetric_copies,
        )  # fmt: skip

    def eval_windows(  # type: ignore[override]
        self,
        split: str,
        window_size: int | None = None,
        stride: int | None = None,
        batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> PuzzleWindows:
        """Return a split's puzzles, each once; see ``PuzzleWindows``.

        Raises:
            UserError: no such split, or windows that are not the puzzles.
        """
        if {window_size, stride} - {None, self.window_size}:
            raise UserError(
                f"{self.name}: a puzzle and its answer are {self.window_size} tokens, scored once.",
                "Leave stride and window as they are.",
            )
        batch_size = batch_size or self.eval_batch_size(self.window_size)
        return PuzzleWindows(self.puzzles(split), batch_size, rank, world_size)

    @property
    def board_shape(self) -> tuple[int, int]:
        """Width and height of a board."""
        width = self.puzzles_source.width
        return width, -(-self.puzzle_size // width)

    def shown(self, cells: torch.Tensor, marked: torch.Tensor | None = None) -> str:
        """Return a board of ids (C,) for a reader, a line for each row, ``marked`` cells with !."""
        marks = [False] * len(cells) if marked is None else marked.tolist()
        symbols = [
            f"{self.tokenizer.token(cell)}{'!' if mark else ' '}"
            for cell, mark in zip(cells.tolist(), marks, strict=True)
        ]
        width = self.board_shape[0]
        rows = ("".join(symbols[i : i + width]) for i in range(0, len(symbols), width))
        return "\n".join(row.rstrip() for row in rows)

    def keys(self, puzzles: np.ndarray) -> np.ndarray:
        """Return a number for each puzzle of ids (P, 2 C); see :meth:`PuzzleCorpus.keys`."""
        return self.puzzles_source.keys([self.tokenizer.decode(row) for row in puzzles.tolist()])
