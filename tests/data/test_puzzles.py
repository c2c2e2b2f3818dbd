"""The data module of puzzles: what is shown, what is scored, what is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from trm_lightning.data import PuzzleDataModule, Sudoku
from trm_lightning.errors import UserError


def made(copies: int = 3, **changes: Any) -> PuzzleDataModule:
    arguments = {
        "name": "small", "corpus": Sudoku(2, 3, train=10, val=6, test=5), "puzzle_size": 36,
        "window_size": 72, "batch_size": 4, "copies": copies, "seed": 3,
    }  # fmt: skip
    data = PuzzleDataModule(**{**arguments, **changes})
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture(scope="module")
def data() -> PuzzleDataModule:
    return made()


def test_a_window_is_a_question_and_its_answer_which_alone_counts(data: PuzzleDataModule) -> None:
    assert data.vocab_size == 7
    shown = list(data.eval_windows("val", batch_size=4))
    assert [(len(tokens), first) for tokens, first in shown] == [(4, 36), (2, 36)]
    tokens = torch.cat([tokens for tokens, _ in shown])
    assert [data.tokenizer.decode(row.tolist()) for row in tokens] == data.corpus.puzzles("val")
    question, answer = tokens.split(36, dim=1)
    given = question > 0
    assert (question[given] == answer[given]).all() and (answer > 0).all() and not given.all()
    split = data.splits["val"]
    assert split.n_tokens == 6 * 36 and (split.tokens == answer.flatten().numpy()).all()
    ranks = [list(data.eval_windows("val", batch_size=2, rank=r, world_size=2)) for r in (0, 1)]
    whole = [ranks[0][0], ranks[1][0], ranks[0][1]]
    assert torch.equal(torch.cat([tokens for tokens, _ in whole]), tokens)


def test_an_epoch_shows_each_puzzle_once_and_copies_are_symmetric() -> None:
    plain = made(copies=0)
    assert plain.batches_per_epoch == 2.5
    shown = torch.cat(list(plain.train_batches(5))).numpy()
    for epoch in (shown[:10], shown[10:]):
        assert sorted(map(bytes, epoch)) == sorted(map(bytes, plain.train_puzzles.astype(np.int64)))
    assert not np.array_equal(shown[:10], shown[10:])

    copied = made(copies=3)
    assert copied.batches_per_epoch == 7.5
    batches = torch.cat(list(copied.train_batches(15))).numpy()
    keys, counts = np.unique(copied.keys(batches[:30]), return_counts=True)
    assert set(keys) == set(plain.keys(plain.train_puzzles)) and (counts == 3).all()
    assert len({bytes(row) for row in batches}) == len(batches)  # no copy twice


def test_no_copy_is_a_held_out_puzzle_as_it_is_written() -> None:
    """Of boards of 4 by 4 a symmetry makes nearly every puzzle of every other."""
    corpus = Sudoku(2, 2, train=300, val=3000, test=3000, up_to_symmetry=False)
    data = made(corpus=corpus, puzzle_size=16, window_size=32, batch_size=300, copies=2)
    held_out = np.concatenate([data.keys(data.puzzles(split)) for split in ("val", "test")])
    raw = corpus.augmented(data.train_puzzles, np.random.default_rng(0))
    assert np.isin(data.keys(raw), held_out).sum() > 5
    shown = torch.cat(list(data.train_batches(4))).numpy()
    assert not np.isin(data.keys(shown), held_out).any()
    assert len({bytes(row) for row in shown}) > 600


def test_batches_depend_on_seed_and_number_alone(data: PuzzleDataModule) -> None:
    whole = list(data.train_batches(9))
    resumed = list(data.train_batches(9, start_batch=7))
    assert all(torch.equal(a, b) for a, b in zip(whole[7:], resumed, strict=True))
    ranks = [list(data.train_batches(9, rank=rank, world_size=2)) for rank in (0, 1)]
    assert torch.equal(whole[8], torch.stack((ranks[0][8], ranks[1][8]), 1).flatten(0, 1))
    other = list(made(seed=4).train_batches(1))
    assert not torch.equal(other[0], whole[0])
    with pytest.raises(UserError, match="divided among 3"):
        data.train_batches(1, world_size=3)


def test_the_first_tokens_are_the_first_puzzles() -> None:
    few = made(train_tokens=3 * 72, copies=0)
    assert len(few.train_puzzles) == 3 and few.batches_per_epoch == 0.75


def test_boards_are_shown_row_by_row_with_marks(data: PuzzleDataModule) -> None:
    cells = torch.from_numpy(data.puzzles("val")[0][36:].astype(np.int64))
    marked = torch.zeros(36, dtype=torch.bool)
    marked[7] = True
    lines = data.shown(cells, marked).split("\n")
    assert len(lines) == 6 and [len(line.replace(" ", "")) for line in lines] == [6, 7, 6, 6, 6, 6]
    assert lines[1][2:4] == f"{data.tokenizer.token(int(cells[7]))}!"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"window_size": 36}, "do not fit boards of 36 cells"),
        ({"puzzle_size": 16, "window_size": 32}, "data.window_size=72"),
        ({"copies": -1}, "at least 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        made(**changes)


def test_a_puzzle_is_scored_as_a_whole(data: PuzzleDataModule) -> None:
    with pytest.raises(UserError, match="scored once"):
        data.eval_windows("val", stride=10)
    with pytest.raises(UserError, match="no split 'other'"):
        data.eval_windows("other")
