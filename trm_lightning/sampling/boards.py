"""The answers that a model gives to puzzles, without being shown the right ones.

Shapes: B puzzles, C cells, N depths.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trm_lightning.data import PuzzleDataModule
from trm_lightning.models import LanguageModel


@torch.no_grad()
def answers(model: LanguageModel, questions: Tensor, depths: Sequence[int] = ()) -> Tensor:
    """Return the likeliest answers.

    Args:
        model: in evaluation mode.
        questions: (B, C) ids.
        depths: numbers of refinements; none for the depth that the model is scored with. A model
            that writes the answer cell by cell takes none.

    Returns:
        (N, B, C) ids, one answer for each depth, or (1, B, C).
    """
    size = questions.shape[1]
    if model.puzzle_size is None:
        return _written(model, questions)[None]
    blank = torch.cat((questions, torch.zeros_like(questions)), dim=1)
    scores = model.log_probs_at(blank, list(depths) or [model.scoring_depth], size)
    return torch.stack([log_probs.argmax(dim=-1) for log_probs in scores])


def _written(model: LanguageModel, questions: Tensor) -> Tensor:
    """Write answers (B, C) cell by cell, each likeliest given those before."""
    size, tokens = questions.shape[1], questions
    for _ in range(size):
        # The last token is predicted and not read.
        asked = torch.nn.functional.pad(tokens, (0, 1))
        cells = model.log_probs(asked, tokens.shape[1]).argmax(dim=-1)
        tokens = torch.cat((tokens, cells), dim=1)
    return tokens[:, size:]


def shown_answers(model: LanguageModel, data: PuzzleDataModule, split: str, n: int) -> str:
    """Return the first puzzles of a split with the model's answers, for a reader.

    Args:
        model: in evaluation mode.
        data: set up.
        split: where the puzzles are taken from.
        n: how many.
    """
    device = next(model.parameters()).device
    puzzles = torch.from_numpy(data.puzzles(split)[:n].astype("int64")).to(device)
    questions, solutions = puzzles.split(data.puzzle_size, dim=1)
    found = answers(model, questions)[0]
    parts = []
    for question, answer, solution in zip(questions, found, solutions, strict=True):
        wrong = int((answer != solution).sum())
        outcome = "solved" if wrong == 0 else f"{wrong} wrong"
        boards = {
            "puzzle": data.shown(question),
            f"answer: {outcome}": data.shown(answer, answer != solution),
            "solution": data.shown(solution),
        }
        parts.append(side_by_side(boards))
    return "\n\n".join(parts)


def side_by_side(boards: dict[str, str]) -> str:
    """Return boards next to each other, each under its title."""
    columns = [[title, *board.split("\n")] for title, board in boards.items()]
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
