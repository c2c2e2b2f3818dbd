"""The picture of a board after each refinement: how panels stand, and what is black."""

import pytest
import torch
from matplotlib.colors import to_hex

from trm_lightning.data import Addition, PuzzleDataModule, Sudoku
from trm_lightning.data.puzzle_corpus import PuzzleCorpus
from trm_lightning.models import Looped
from trm_lightning.reports.board_figure import GIVEN, board_figure

FEW = {"train": 6, "val": 4, "test": 4}


@pytest.mark.parametrize(
    ("corpus", "n_down"),
    [(Sudoku(2, 2, up_to_symmetry=False, **FEW), 1), (Addition(2, 3, 5, **FEW), 4)],
)
def test_flat_boards_stand_one_below_the_other(corpus: PuzzleCorpus, n_down: int) -> None:
    size = corpus.puzzle_size
    data = PuzzleDataModule("small", corpus, size, 2 * size, batch_size=2)
    data.prepare_data()
    data.setup()
    torch.manual_seed(0)
    model = Looped(
        vocab_size=data.vocab_size, start_token=0, window_size=2 * size, width=16, n_layers=1,
        n_heads=2, n_refinements=3, puzzle_size=size,
    ).eval()  # fmt: skip
    figure = board_figure(model, data, "test", 1)
    puzzle, *boards = figure.axes
    assert [panel.get_title() for panel in figure.axes] == [
        "puzzle",
        "after 1",
        "after 2",
        "after 3",
    ]
    assert len({round(panel.get_position().y0, 3) for panel in figure.axes}) == n_down
    asked, solution = (
        data.tokenizer.decode(part) for part in data.puzzles("test")[1].reshape(2, -1)
    )
    assert "".join(text.get_text() for text in puzzle.texts) == asked
    assert all(to_hex(text.get_color()) == to_hex(GIVEN) for text in puzzle.texts)
    # A sum's digits are never given, even where they are the same.
    given = [n_down == 1 and a == b for a, b in zip(asked, solution, strict=True)]
    right = [to_hex(text.get_color()) == to_hex(GIVEN) for text in boards[-1].texts]
    answers = [text.get_text() for text in boards[-1].texts]
    assert right == [g and a == b for g, a, b in zip(given, answers, solution, strict=True)]
