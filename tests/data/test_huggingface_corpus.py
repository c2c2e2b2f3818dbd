"""Data sets of the ``datasets`` library, from local files: the text of their column, in order."""

import importlib.util
import json

import pytest
from small_text import TEXT, module, ready

from trm_lightning.data import CharacterTokenizer, HuggingFaceCorpus, TextDataModule
from trm_lightning.errors import UserError

datasets = pytest.importorskip("datasets", reason="an extra")
LINES = [f"row {i} of {i * i}, é\nand its second line, v" for i in range(300)]


@pytest.fixture(autouse=True)
def library_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "library")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def opened(tmp_path, *arguments, **keywords) -> TextDataModule:
    corpus = HuggingFaceCorpus(*arguments, **keywords)
    cache = str(tmp_path / "cache")
    data = TextDataModule("theirs", corpus, CharacterTokenizer(), 16, 4, cache_dir=cache)
    return ready(data)


def text_of(data: TextDataModule, *splits: str) -> str:
    return "".join(data.tokenizer.decode(data.splits[name].tokens.tolist()) for name in splits)


@pytest.mark.parametrize("kind", ["text", "json", "parquet", "saved", "saved split"])
def test_a_data_set_is_the_text_of_its_rows(tmp_path, kind):
    rows = [line.replace("\n", " ") for line in LINES] if kind == "text" else LINES
    dataset = datasets.Dataset.from_dict({"text": rows, "n": list(range(300))})
    place = tmp_path / "theirs"
    keywords = {"data_files": str(place)}
    if kind == "text":
        place.write_text("\n".join(rows))
    elif kind == "json":
        place.write_text("\n".join(json.dumps({"text": row}) for row in rows))
    elif kind == "parquet":
        dataset.to_parquet(place)
    else:
        (dataset if "split" in kind else datasets.DatasetDict(train=dataset)).save_to_disk(place)
        kind, keywords = str(place), {}
    data = opened(tmp_path, kind, **keywords)
    expected = "".join(f"{row}\n" for row in rows)
    assert text_of(data, "train", "val") == expected
    assert data.splits["train"].n_tokens == int(0.9 * len(expected))
    assert opened(tmp_path, kind, **keywords).fingerprint == data.fingerprint


def test_published_splits_are_kept(tmp_path):
    names = ("train", "validation", "test")
    parts = {name: [f"{name[0]} {line}" for line in LINES] for name in names}
    made = {name: datasets.Dataset.from_dict({"body": rows}) for name, rows in parts.items()}
    datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    data = opened(tmp_path, str(tmp_path / "saved"), column="body")
    assert list(data.splits) == ["train", "val", "test"]
    assert text_of(data, "val") == "".join(f"{row}\n" for row in parts["validation"])


def test_the_text_of_a_file_is_the_same_through_the_library(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    theirs = opened(tmp_path, "text", data_files=[str(path)])
    assert theirs.ids_digest == ready(module(path)).ids_digest


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere/at-all cannot be loaded"):
        opened(tmp_path, "nowhere/at-all")
    datasets.Dataset.from_dict({"body": LINES, "n": [1] * 300}).save_to_disk(tmp_path / "saved")
    for column in ("text", "n"):
        with pytest.raises(UserError, match=f"no column of strings named '{column}'") as error:
            opened(tmp_path, str(tmp_path / "saved"), column=column)
        assert "body" in error.value.hint


def test_without_the_library_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        opened(tmp_path, "text")
    assert error.value.hint == "pip install 'trm-lightning[datasets]'"
