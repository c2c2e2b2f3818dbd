"""Every file of conf/data makes a data module, and where its text is at hand, batches."""

from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from trm_lightning.data import TextDataModule
from trm_lightning.errors import UserError

FOLDER = Path(__file__).parents[2] / "conf" / "data"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# What is known about each data set where its text is at hand: vocabulary, tokens of each split.
FACTS = {
    "builtin_char": (51, [1_383_148, 138_719, 138_891]),
    "builtin_word": (287, [300_035, 30_122, 30_228]),
    # Of the held-out split the blanks: two in each window of 30 words, every 4 words.
    "infilling_word": (5000, [236_083, 13_408]),
    "shakespeare_char": (65, [1_003_854, 111_540]),
    "shakespeare_word": (5000, [236_083, 26_844]),
    "shards": (6, [180, 20]),
    # 1,000 puzzles with their answers, and the answers of 500 and of 1,000.
    "sudoku4": (5, [32_000, 8_000, 16_000]),
    "sudoku6": (7, [72_000, 18_000, 36_000]),
    "maze": (5, [162_000, 40_500, 81_000]),
    "parity": (3, [40_000, 10_000, 20_000]),
    "sudoku9": (10, [9_720, 1_620, 1_620]),  # of 60, 20 and 20 puzzles
    "brackets": (7, [40_000, 10_000, 20_000]),
    "multiplication": (11, [16_000, 4_000, 8_000]),
    "addition": (11, [84_000, 21_000, 42_000]),
    "text": (4, [180, 20]),
    "wikitext2_word": (33_278, [2_088_628, 217_646, 245_569]),
}


def config(name: str, folder: Path) -> DictConfig:
    data = OmegaConf.load(FOLDER / f"{name}.yaml")
    if name == "text":
        path = folder / "text.txt"
        path.write_text("abcd" * 50)
        data.path, data.level = str(path), "char"
    if name == "shards":
        for split, n in (("train", 180), ("val", 20)):
            (np.arange(n, dtype=np.uint16) % 6).tofile(folder / f"{split}.bin")
        data.path, data.vocab_size, data.window_size = str(folder), 6, 16
    if name == "sudoku9":
        data.corpus.update(train=60, val=20, test=20)
    if name == "huggingface":
        pytest.importorskip("datasets", reason="an extra")
        path = folder / "text.txt"
        path.write_text("line\n" * 500)
        data.corpus.path, data.corpus.data_files, data.window_size = "text", str(path), 16
    return OmegaConf.create({"seed": 7, "data": data}).data


def test_every_documented_data_set_has_a_file():
    others = {
        "sudoku_extreme",
        "maze_hard",
        "huggingface",
        "wikitext2_char",
        "wikitext103_word",
        "wikitext103_bpe",
    }
    assert {*FACTS, *others} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_file_makes_a_data_module_that_works(name, tmp_path, monkeypatch):
    data = instantiate(config(name, tmp_path), cache_dir=str(tmp_path / "cache"))
    assert isinstance(data, TextDataModule)
    assert data.seed == 7  # that of the run
    monkeypatch.setattr("pooch.HTTPDownloader.__call__", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    try:
        data.prepare_data()
    except UserError as error:
        known = "could not be downloaded", "is not below $TRM_DATA_DIR"
        if not any(text in error.what for text in known) or name.startswith("builtin"):
            raise
        pytest.skip(f"the text is not at hand: {error.what}")
    data.setup()
    batch = next(iter(data.train_batches(1)))
    assert batch.shape == (data.batch_size, data.window_size)
    assert batch.min() >= 0 and batch.max() < data.vocab_size
    if name in FACTS:
        sizes = [split.n_tokens for split in data.splits.values()]
        assert (data.vocab_size, sizes) == FACTS[name]


def refuse(self, *arguments, **keywords):
    raise ConnectionError("tests do not download")


def test_the_text_of_a_user_needs_a_path():
    assert OmegaConf.is_missing(OmegaConf.load(FOLDER / "text.yaml"), "path")
