"""The counts of a split against independent ones, and the caches that lack some."""

import json
import logging
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from trm_lightning.data import CharacterTokenizer, TextCorpus, TextDataModule, WordTokenizer
from trm_lightning.data.text_counts import TextCounts, count_text
from trm_lightning.errors import UserError

TEXT = "".join(f"line {i}: naïve café, 中文 😀 {i * i}\n" for i in range(50))


def opened(folder: Path, tokenizer=None, **arguments) -> TextDataModule:
    path = folder / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    data = TextDataModule(
        "counted", TextCorpus(str(path)), tokenizer or WordTokenizer(), 8, 2,
        cache_dir=str(folder / "cache"), **arguments,
    )  # fmt: skip
    data.prepare_data()
    return data


def meta_file(folder: Path) -> Path:
    (path,) = (folder / "cache" / "tokens").glob("*/meta.json")
    return path


def test_blocks_count_as_their_text_does() -> None:
    text = "one two  three\n" * 7
    whole = count_text([text], np.array([0, 1, 1, 2]), unknown_id=1)
    assert whole == TextCounts(4, words=21, lines=7, characters=105, bytes=105, unknown=2)
    assert count_text([text[:15], text[15:]], np.array([0, 1, 1, 2]), 1) == whole
    assert count_text([], np.array([1]), None).unknown == 0


@pytest.mark.skipif(os.name != "posix", reason="needs wc")
def test_a_file_counts_as_wc_says(tmp_path: Path) -> None:
    counts = [split.counts for split in opened(tmp_path).splits.values()]
    wc = ["wc", "--lines", "--words", "--chars", "--bytes", str(tmp_path / "text.txt")]
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    printed = subprocess.run(wc, capture_output=True, text=True, check=True, env=environment)
    lines, words, characters, n_bytes = map(int, printed.stdout.split()[:4])
    assert sum(c.bytes for c in counts) == n_bytes > characters
    assert sum(c.characters for c in counts) == characters
    assert sum(c.lines for c in counts) == lines
    # The cut between the splits may fall within a word, which then counts twice.
    assert sum(c.words for c in counts) - words in (0, 1)


@pytest.mark.parametrize("layout", ["a count is missing", "counts beside the entropy"])
def test_an_earlier_version_s_cache_is_counted_again_quietly(
    tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture, monkeypatch
) -> None:
    first = opened(tmp_path)
    meta = json.loads(meta_file(tmp_path).read_text())
    whole = json.loads(meta_file(tmp_path).read_text())
    for split in meta["splits"].values():
        counts = split["counts"]
        del counts["bytes"]
        if layout == "counts beside the entropy":
            del split["counts"]
            split |= {f"n_{name}": number for name, number in counts.items()}
    meta_file(tmp_path).write_text(json.dumps(meta))

    def no_encoding(self, text):
        raise AssertionError("the text was encoded again")

    monkeypatch.setattr(WordTokenizer, "encode", no_encoding)
    with caplog.at_level(logging.INFO, logger="trm_lightning"):
        again = opened(tmp_path)
        assert len(caplog.messages) == 1 and "again" in caplog.messages[0]
        opened(tmp_path)
    assert len(caplog.messages) == 1
    assert json.loads(meta_file(tmp_path).read_text()) == whole
    assert again.fingerprint == first.fingerprint
    for name, split in again.splits.items():
        assert split.counts == first.splits[name].counts


def test_a_cache_that_lacks_counts_and_ids_is_damaged(tmp_path: Path) -> None:
    opened(tmp_path)
    path = meta_file(tmp_path)
    meta = json.loads(path.read_text())
    del meta["splits"]["val"]["counts"]["bytes"]
    path.write_text(json.dumps(meta))
    ids = path.parent / "val.bin"
    ids.write_bytes(ids.read_bytes()[:-2])
    with pytest.raises(UserError, match="is damaged"):
        opened(tmp_path)


def test_the_scrambled_split_has_the_counts_of_its_text(tmp_path: Path) -> None:
    splits = opened(tmp_path, CharacterTokenizer(), scrambled_validation_alphabet=True).splits
    val, scrambled = splits["val"].counts, splits["val_scrambled"].counts
    assert (val.bytes, val.words, val.tokens) == (
        scrambled.bytes,
        scrambled.words,
        scrambled.tokens,
    )
    assert scrambled.unknown == 0
