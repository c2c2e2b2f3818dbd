"""The counts of a split against independent ones."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trm_lightning.data import CharacterTokenizer, TextCorpus, TextDataModule, WordTokenizer
from trm_lightning.data.text_counts import TextCounts, count_text, count_words

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


def test_blocks_count_as_their_text_does() -> None:
    text = "one two  three\n" * 7
    whole = count_text([text], np.array([0, 1, 1, 2]), unknown_id=1)
    assert whole == TextCounts(4, words=21, lines=7, characters=105, bytes=105, unknown=2)
    assert count_text([text[:15], text[15:]], np.array([0, 1, 1, 2]), 1) == whole
    assert count_text([], np.array([1]), None).unknown == 0


def test_words_are_counted_as_str_split_finds_them() -> None:
    draw = random.Random(0)
    for alphabet in (" \n\x1cab", " \u3000\u2003\u3001\x85é\U0001f600\ud800"):
        for length in range(300):
            text = "".join(draw.choices(alphabet, k=length % 20))
            assert count_words(text) == len(text.split()), text
    every = "".join(f"a{chr(code)}" for code in range(sys.maxunicode + 1))
    assert count_words(every) == len(every.split())


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


def test_the_scrambled_split_has_the_counts_of_its_text(tmp_path: Path) -> None:
    splits = opened(tmp_path, CharacterTokenizer(), scrambled_validation_alphabet=True).splits
    val, scrambled = splits["val"].counts, splits["val_scrambled"].counts
    assert (val.bytes, val.words, val.tokens) == (
        scrambled.bytes,
        scrambled.words,
        scrambled.tokens,
    )
    assert scrambled.unknown == 0
