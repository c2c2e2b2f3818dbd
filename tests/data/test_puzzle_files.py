"""Published puzzles are read from CSV files, drawn, and checked."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from trm_lightning.cli.compose import conf_dir
from trm_lightning.data import MazeFiles, Sudoku, SudokuFiles
from trm_lightning.errors import UserError

HEAD = "source,question,answer,rating\n"


def write(folder: Path, split: str, puzzles: list[str], extra: str = "") -> None:
    folder.mkdir(exist_ok=True)
    size = len(puzzles[0]) // 2
    lines = [f"here,{p[:size]},{p[size:]},{i}" for i, p in enumerate(puzzles)]
    (folder / f"{split}.csv").write_text(HEAD + "\n".join(lines) + "\n" + extra)


@pytest.fixture
def sudokus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("TRM_DATA_DIR", str(tmp_path))
    made = Sudoku(3, 3, train=40, val=1, test=1, extra_givens=20).puzzles("train")
    write(tmp_path / "sudoku-extreme", "train", list(made[:25]))
    write(tmp_path / "sudoku-extreme", "test", list(made[25:]))
    return list(made)


def test_puzzles_are_drawn_without_repetition_from_their_files(sudokus: list[str]) -> None:
    files = SudokuFiles(train=10, val=5, test=8)
    train, val, test = (set(files.puzzles(split)) for split in ("train", "val", "test"))
    assert [len(part) for part in (train, val, test)] == [10, 5, 8]
    assert train | val < set(sudokus[:25]) and not train & val and test < set(sudokus[25:])
    assert files.puzzles("train") == SudokuFiles(train=10, val=5, test=8).puzzles("train")
    assert files.puzzles("train") != SudokuFiles(train=10, val=5, test=8, seed=1).puzzles("train")
    whole = SudokuFiles(train=1, val=1, test=0)
    assert whole.puzzles("test") == sudokus[25:]
    keys = whole.keys(whole.puzzles("test"))
    assert keys.shape == (15,) and len(np.unique(keys)) == 15
    assert files.key() != whole.key()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"x,{'.' * 81},{'1' * 81},0\n", "breaks the rules"),
        (f"x,{'.' * 80},{'1' * 81},0\n", "line 27: no puzzle of 81 cells"),
        (f"x,{'.' * 80}a,{'1' * 81},0\n", "line 27: no puzzle of 81 cells"),
        ("x,1\n", "line 27: no puzzle of 81 cells"),
    ],
)
def test_lines_that_are_no_puzzles_are_named(
    sudokus: list[str], tmp_path: Path, line: str, told: str
) -> None:
    write(tmp_path / "sudoku-extreme", "train", sudokus[:25], line)
    with pytest.raises(UserError, match=told):
        SudokuFiles(train=20, val=6, test=1).puzzles("train")


def test_files_that_are_missing_short_or_others_are_named(
    sudokus: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="25 puzzles, and 1,500 are wanted"):
        SudokuFiles().puzzles("train")
    with pytest.raises(UserError, match=r"elsewhere/train\.csv is not below"):
        SudokuFiles(folder="elsewhere").key()
    (tmp_path / "sudoku-extreme" / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no columns question and answer"):
        SudokuFiles(train=1, val=1, test=1).puzzles("train")


def test_the_config_makes_a_data_module(sudokus: list[str], tmp_path: Path) -> None:
    composed = OmegaConf.load(conf_dir() / "data" / "sudoku_extreme.yaml")
    composed.corpus.update(train=10, val=5, test=0)
    cfg = OmegaConf.create({"seed": 0, "data": composed})
    data = instantiate(cfg.data, cache_dir=str(tmp_path / "cache"))
    data.prepare_data()
    data.setup()
    assert data.puzzles("test").shape == (15, 162) and data.vocab_size == 10
    assert next(iter(data.train_batches(1))).shape == (32, 162)


def test_mazes_are_read_with_blanks_as_open_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRM_DATA_DIR", str(tmp_path))
    questions = ["S  # # G #" + "#" * 6, "S # #   G#" + "#" * 6, "G  # # S #" + "#" * 6]
    answers = ["Soo# #oGo#" + "#" * 6] * 3
    for split in ("train", "test"):
        write(tmp_path / "mazes", split, [q + a for q, a in zip(questions, answers, strict=True)])
    mazes = MazeFiles("mazes", size=4, train=2, val=1, test=0)
    assert mazes.puzzle_size == 16 and mazes.width == 4
    assert mazes.puzzles("test")[0] == (questions[0] + answers[0]).replace(" ", ".")
    assert len({*mazes.puzzles("train"), *mazes.puzzles("val")}) == 3
    moved = mazes.augmented(np.arange(64).reshape(2, 32) % 32, np.random.default_rng(0))
    assert np.array_equal(moved[:, 16:] - 16, moved[:, :16])
    assert sorted(moved[0, :16].tolist()) == list(range(16))
