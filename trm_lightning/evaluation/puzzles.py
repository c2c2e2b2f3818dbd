"""How many puzzles a model solves: every cell of the answer right, or it counts as not solved.

A cell's answer is the likeliest token. A model that writes the answer cell by cell is given the
true cells before, which changes nothing about what is solved: as long as all cells are right, those
before are what it would have written.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trm_lightning.data import TextCounts

# Names of the share of solved puzzles: none can be mistaken for another.
PUZZLE_MEANINGS = {
    "solved": "share of the puzzles whose every cell is right",
    "copied": "COPIED, NOT SOLVED: the model sees the answers that it is scored on.",
}


def is_share(metric: str | None) -> bool:
    """Say whether a score such as ``val/solved`` is a share of puzzles, where more is better."""
    return metric is not None and metric.partition("/")[2] in PUZZLE_MEANINGS


@dataclass(frozen=True)
class PuzzleScore:
    """What a model makes of the puzzles of a split.

    Attributes:
        nats: -log p of all cells of all answers together.
        solved: puzzles whose every cell is right.
        right: cells that are right.
        puzzles: puzzles of the split.
        cells: cells of their answers.
    """

    nats: float
    solved: int
    right: int
    puzzles: int
    cells: int

    @property
    def headline(self) -> float:
        """The share of the puzzles that are solved."""
        return self.solved / self.puzzles

    @property
    def cost(self) -> float:
        """What the best checkpoint has least of: unsolved puzzles, then wrong cells, then nats."""
        wrong = 1 - self.right / self.cells
        return 1 - self.headline + 1e-3 * wrong + 1e-6 * self.nats / self.cells

    def logged(self, name: str) -> dict[str, float]:
        """Return the numbers of the log, by name; ``name`` is such as ``val/solved``."""
        return {
            name: self.headline,
            f"{name}_cells_right": self.right / self.cells,
            f"{name}_nats_per_cell": self.nats / self.cells,
        }

    def as_dict(self) -> dict[str, float | int]:
        """Return the numbers of ``results.json``."""
        return {
            "solved": self.headline,
            "cells_right": self.right / self.cells,
            "nats_per_cell": self.nats / self.cells,
            "puzzles": self.puzzles,
            "cells": self.cells,
        }


class PuzzleSum:
    """Counts solved puzzles and right cells, over any batches in any order."""

    def __init__(self) -> None:
        self.nats = 0.0
        self.solved = self.right = self.puzzles = self.cells = 0

    def update(self, log_probs: Tensor, tokens: Tensor, first: int) -> None:
        """Add a batch.

        Args:
            log_probs: (B, T - first, V) distributions of the tokens from ``first`` on.
            tokens: (B, T) ids; those from ``first`` on are the answers.
            first: tokens before this position are the questions.
        """
        targets = tokens[:, first:]
        picked = log_probs.gather(2, targets[:, :, None]).cpu().double()
        right = log_probs.argmax(dim=-1) == targets
        self.nats -= float(picked.sum())
        self.solved += int(right.all(dim=1).sum())
        self.right += int(right.sum())
        self.puzzles += len(targets)
        self.cells += targets.numel()

    def as_tensor(self) -> Tensor:
        """Return the sums in float64, to be summed over processes."""
        counts = [self.nats, self.solved, self.right, self.puzzles, self.cells]
        return torch.tensor(counts, dtype=torch.float64)

    def take(self, sums: Tensor) -> None:
        """Replace the sums by those of all processes; see :meth:`as_tensor`."""
        nats, *counts = sums.tolist()
        self.nats = nats
        self.solved, self.right, self.puzzles, self.cells = map(int, counts)

    def score(self, counts: TextCounts) -> PuzzleScore:
        """Return the split's score.

        Raises:
            RuntimeError: where not every cell was scored exactly once.
        """
        if self.cells != counts.tokens:
            raise RuntimeError(f"scored {self.cells} cells of a split of {counts.tokens}")
        return PuzzleScore(self.nats, self.solved, self.right, self.puzzles, self.cells)
