"""The audit on puzzles passes honest models and data, and fails a control of each leak."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trm_lightning.data import PuzzleDataModule, Sudoku
from trm_lightning.leakage.puzzles import audit_puzzles
from trm_lightning.leakage.verdict import audit_scores, verdict
from trm_lightning.models import AR, TRM, LanguageModel, Looped
from trm_lightning.models.board import BoardWindow

CHECKED = [
    "blind_halting", "normalised", "batch_neighbours", "answer_swap", "question_read",
    "held_out_differs", "each_puzzle_once",
]  # fmt: skip
SHAPE = {
    "vocab_size": 7, "start_token": 0, "window_size": 72, "width": 16, "n_layers": 1, "n_heads": 2,
    "positions": "rotary", "norm": "post",
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> PuzzleDataModule:
    return opened(Sudoku(2, 3, train=12, val=8, test=4))


def opened(corpus: Sudoku, **changes: Any) -> PuzzleDataModule:
    made = PuzzleDataModule("small", corpus, 36, 72, batch_size=4, copies=2, **changes)
    made.prepare_data()
    made.setup()
    return made


def board(cls: type[Looped] = Looped, **changes: Any) -> Looped:
    torch.manual_seed(0)
    return cls(**SHAPE, n_refinements=2, puzzle_size=36, **changes)


def failed(model: LanguageModel, data: PuzzleDataModule) -> list[str]:
    return audit_puzzles(model, data).failed


def test_honest_models_pass_every_check(data: PuzzleDataModule) -> None:
    torch.manual_seed(0)
    halting = board(halt_loss_weight=0.5, n_supervision=2, intermediate_loss_weight=0.1)
    trm = TRM(**SHAPE, n_refinements=2, n_recursions=2, puzzle_size=36, dropout=0.1)
    ar = AR(**SHAPE)
    for model in (board(), halting, trm, ar):
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        audit = audit_puzzles(model, data)
        assert audit.passed, str(audit)
        assert [check.name for check in audit.checks] == CHECKED
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, before[name])
    halts = next(c for c in audit_puzzles(ar, data).checks if c.name == "blind_halting")
    assert halts.passed is None


class SeesTheAnswer(Looped):
    """Adds a trace of the answer to what the cells read."""

    def _open(self, tokens: Tensor, first: int) -> BoardWindow:
        window = BoardWindow(self, tokens, first, 36)
        trace = self.embed(tokens[:, 36:], torch.arange(36))
        window.blocks_pass.inputs = window.blocks_pass.inputs + 0.01 * trace
        return window


class SeesTheAnswerInTraining(SeesTheAnswer):
    """The same, where only the loss would tell."""

    def _open(self, tokens: Tensor, first: int) -> BoardWindow:
        if self.training:
            return super()._open(tokens, first)
        return BoardWindow(self, tokens, first, 36)


class SeesTheBatch(Looped):
    """Centres embeddings over all puzzles of a batch."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = super().embed(tokens, positions)
        return x - x.mean(dim=0)


class SeesThePlace(Looped):
    """Knows which puzzle of the batch it looks at."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = super().embed(tokens, positions)
        return x + torch.arange(len(x))[:, None, None] * 0.1


class StopsWhenRight(Looped):
    """Stops as soon as the answer is the right one."""

    def depths(self, tokens: Tensor, first: int = 0) -> Tensor:
        guess = self.log_probs_at(tokens, [1], first)[0].argmax(dim=-1)
        return 1 + (guess != tokens[:, first:]).long()


class ReadsNothing(Looped):
    """Answers every puzzle alike."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return super().embed(torch.zeros_like(tokens), positions)


class CountsBetter(Looped):
    """Gives more than all probability away."""

    def distribution(self, states: Tensor) -> Tensor:
        return super().distribution(states) + 0.01


class LooksBack(AR):
    """Writes cell by cell, and sees the cell that it writes."""

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        return self.encode(tokens)[:, first:]


@pytest.mark.parametrize(
    ("control", "checks"),
    [
        (SeesTheAnswer, ["blind_halting", "answer_swap"]),
        (SeesTheAnswerInTraining, ["answer_swap"]),
        (SeesTheBatch, ["batch_neighbours"]),
        (SeesThePlace, ["batch_neighbours"]),
        (StopsWhenRight, ["blind_halting"]),
        (ReadsNothing, ["question_read"]),
        (CountsBetter, ["normalised"]),
    ],
)
def test_a_model_that_leaks_fails(
    control: type[Looped], checks: list[str], data: PuzzleDataModule
) -> None:
    assert failed(board(control), data) == checks


def test_a_model_that_writes_what_it_sees_fails(data: PuzzleDataModule) -> None:
    torch.manual_seed(0)
    assert failed(LooksBack(**SHAPE), data) == ["answer_swap"]


class Repeats(Sudoku):
    """Its validation split holds a symmetric copy of a training puzzle."""

    def puzzles(self, split: str) -> list[str]:
        found = list(super().puzzles(split))
        if split == "val":
            cells = np.array([[".123456".index(c) for c in super().puzzles("train")[3]]])
            copy = self.augmented(cells, np.random.default_rng(9))[0]
            assert (copy != cells[0]).any()
            found[2] = "".join(".123456"[i] for i in copy)
        return found


def test_a_held_out_puzzle_that_is_trained_on_is_found(data: PuzzleDataModule) -> None:
    repeats = opened(Repeats(2, 3, train=12, val=8, test=4))
    model = board()
    check = next(c for c in audit_puzzles(model, repeats).checks if c.passed is False)
    assert check.name == "held_out_differs" and "1 of 8 puzzles" in check.detail
    assert "number 2" in check.detail
    told = verdict(audit_scores(model, repeats))
    assert told["leaks"] and told["failed"] == {"solved": ["held_out_differs"]}
    assert not verdict(audit_scores(model, data))["leaks"]


class MakesHeldOut(PuzzleDataModule):
    """Shows copies whatever they are, and of 4 by 4 boards some are held-out puzzles."""

    def _symmetric_copies(self, cells: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return self.puzzles_source.augmented(cells, random)


@pytest.mark.parametrize("cls", [PuzzleDataModule, MakesHeldOut])
def test_a_copy_that_is_a_held_out_puzzle_is_found(cls: type[PuzzleDataModule]) -> None:
    corpus = Sudoku(2, 2, train=100, val=2000, test=100, up_to_symmetry=False)
    made = cls("four", corpus, 16, 32, batch_size=100, copies=4)
    made.prepare_data()
    made.setup()
    torch.manual_seed(0)
    shape = {**SHAPE, "vocab_size": 5, "window_size": 32}
    model = Looped(**shape, n_refinements=2, puzzle_size=16)
    expected = ["held_out_differs"] if cls is MakesHeldOut else []
    assert failed(model, made) == expected


class Skips(PuzzleDataModule):
    """Leaves the last puzzle of a split out."""

    def eval_windows(self, split: str, **arguments: Any) -> list[tuple[Tensor, int]]:
        return [(tokens[:-1], first) for tokens, first in super().eval_windows(split, **arguments)]


def test_a_puzzle_that_is_left_out_is_missed() -> None:
    skips = Skips("small", Sudoku(2, 3, train=12, val=8, test=4), 36, 72, batch_size=4)
    skips.prepare_data()
    skips.setup()
    assert failed(board(), skips) == ["each_puzzle_once"]
