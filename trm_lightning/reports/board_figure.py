"""The picture of a puzzle's board after each refinement; without pyplot, which keeps state."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from trm_lightning.data import PuzzleDataModule
from trm_lightning.models import LanguageModel
from trm_lightning.sampling.boards import answers

MAX_BOARDS = 8
RIGHT, WRONG, GIVEN = "#0072b2", "#d55e00", "black"
DPI = 120
_INCHES_PER_CELL = 0.26


def board_figure(
    model: LanguageModel, data: PuzzleDataModule, split: str, number: int = 0
) -> Figure:
    """Draw a puzzle, and the model's answer after each refinement.

    What the question gives is black; of the answer, right cells are blue, wrong ones red on grey.
    At most 8 depths are drawn, evenly spaced, the last one that which is scored.

    Args:
        model: in evaluation mode.
        data: set up.
        split: where the puzzle is taken from.
        number: of the puzzle.
    """
    n_boards = min(model.scoring_depth, MAX_BOARDS)
    depths = np.linspace(1, model.scoring_depth, n_boards).round().astype(int).tolist()
    puzzle = torch.from_numpy(data.puzzles(split)[number].astype(np.int64))
    question, solution = puzzle.split(data.puzzle_size)
    device = next(model.parameters()).device
    found = answers(model, question[None].to(device), depths)[:, 0].cpu()
    width, height = data.board_shape
    flat = width > 2 * height  # boards one below the other, else side by side
    n_down, n_right = (n_boards + 1, 1) if flat else (1, n_boards + 1)
    size = (
        max(_INCHES_PER_CELL * width, 0.9) * n_right + 0.4,
        (_INCHES_PER_CELL * height + 0.25) * n_down + 0.25,
    )
    figure = Figure(size, dpi=DPI, layout="constrained")
    first, *others = figure.subplots(n_down, n_right, squeeze=False).flat
    nothing = torch.zeros_like(question, dtype=torch.bool)
    _draw(first, data, "puzzle", question, ~nothing, nothing)
    given = _given(data, question, solution)
    for panel, depth, answer in zip(others, depths, found, strict=True):
        _draw(panel, data, f"after {depth}", answer, given, answer != solution)
    return figure


def _given(data: PuzzleDataModule, question: Tensor, solution: Tensor) -> Tensor:
    """Return which cells of the answer the question gives: none, where it is of other cells."""
    symbols = np.array([data.tokenizer.token(cell) for cell in question.tolist()])
    is_open = torch.from_numpy(symbols == data.puzzles_source.empty)
    same = question == solution
    return same if bool((same | is_open).all()) else torch.zeros_like(same)


def _draw(
    axes: Axes, data: PuzzleDataModule, title: str, cells: Tensor, given: Tensor, wrong: Tensor
) -> None:
    """Draw one board of ids (C,); ``given`` and ``wrong`` say so of each cell."""
    width, height = data.board_shape
    shades = np.zeros(width * height)
    shades[: len(wrong)] = wrong.numpy()
    axes.imshow(shades.reshape(height, width), cmap="Greys", vmin=0, vmax=4)
    for i, cell in enumerate(cells.tolist()):
        color = WRONG if wrong[i] else GIVEN if given[i] else RIGHT
        place, symbol = (i % width, i // width), data.tokenizer.token(cell)
        axes.text(*place, symbol, ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(np.arange(-0.5, width), labels=[])
    axes.set_yticks(np.arange(-0.5, height), labels=[])
    axes.tick_params(length=0)
    axes.grid(linewidth=0.4, color="0.7")
    axes.set_title(title, fontsize=8)
