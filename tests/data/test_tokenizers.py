"""Tokenizers against slow independent references, and the known facts of the real texts."""

import json
import os
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from trm_lightning.data import (
    BPETokenizer,
    CharacterTokenizer,
    GPT2Tokenizer,
    Tokenizer,
    WhitespaceTokenizer,
    WordTokenizer,
    bpe_tokenizers,
    tokenizer_from_state,
)
from trm_lightning.data.text_stream import safe_blocks
from trm_lightning.errors import UserError

TEXT = "The cat, the DOG; the cat's tail.\n\nA dog? The bird_2 sees\ta dog!\n"
HELD_OUT = "The zebra sees the dog.\n"
FITTABLE = [CharacterTokenizer(), WordTokenizer(), WhitespaceTokenizer(), BPETokenizer(300)]


def fitted(tokenizer: Tokenizer, train: str = TEXT, held_out: str = "") -> Tokenizer:
    return tokenizer.fit([train], [held_out])


def real_text(*names: str) -> str:
    folder = os.environ.get("TRM_DATA_DIR")
    path = Path(folder or "", *names)
    if not folder or not path.is_file():
        pytest.skip(f"needs {'/'.join(names)} in $TRM_DATA_DIR")
    return path.read_text(encoding="utf-8")


def test_characters_are_the_sorted_training_alphabet():
    tokenizer = fitted(CharacterTokenizer(), "banana\n cab", "cab")
    alphabet = sorted(set("banana\n cab"))
    assert tokenizer.vocab_size == len(alphabet)
    assert tokenizer.lossless and tokenizer.unknown_id is None
    assert tokenizer.encode("cab\n").tolist() == [alphabet.index(c) for c in "cab\n"]
    assert tokenizer.decode(tokenizer.encode("ban cab")) == "ban cab"
    assert tokenizer.token(tokenizer.start_id) == "\n"


@pytest.mark.parametrize(("text", "start"), [("a b", " "), ("ba", "a")])
def test_characters_without_a_line_end_start_elsewhere(text, start):
    tokenizer = fitted(CharacterTokenizer(), text)
    assert tokenizer.token(tokenizer.start_id) == start


def test_characters_get_an_unknown_only_if_needed():
    tokenizer = fitted(CharacterTokenizer(), "abba", "aé中")
    assert tokenizer.vocab_size == 3 and tokenizer.unknown_id == 2 and not tokenizer.lossless
    assert tokenizer.encode("é中ba😀").tolist() == [2, 2, 1, 0, 2]
    assert tokenizer.decode([2, 0]) == "\ufffda" and tokenizer.token(2) == "<unk>"
    rare = fitted(CharacterTokenizer(min_count=2), "aab", "b")
    assert rare.encode("ab").tolist() == [0, rare.unknown_id]


def test_a_character_outside_a_closed_alphabet_is_named():
    with pytest.raises(UserError, match="'é'"):
        fitted(CharacterTokenizer(), "abc").encode("caé")


def test_words_match_a_slow_reference():
    words = re.findall(r"\w+|[^\w\s]", TEXT.lower())
    order = sorted(set(words), key=lambda w: (-words.count(w), words.index(w)))
    kept = [word for word in order if words.count(word) >= 2][:5]
    tokens = ["<PAD>", "<UNK>", "<BOS>", "<EOS>", *kept]
    tokenizer = fitted(WordTokenizer(vocab_size=9), TEXT)
    assert [tokenizer.token(i) for i in range(tokenizer.vocab_size)] == tokens
    expected = [tokens.index(w) if w in kept else 1 for w in words]
    assert tokenizer.encode(TEXT).tolist() == expected
    assert tokenizer.token(tokenizer.start_id) == "<BOS>" and not tokenizer.lossless


def test_words_in_equal_numbers_stand_in_order_of_appearance():
    tokenizer = fitted(WordTokenizer(vocab_size=6, min_count=1), "zoo ape zoo bee ape cow bee cow")
    assert [tokenizer.token(i) for i in (4, 5)] == ["zoo", "ape"]


def test_words_can_be_counted_on_the_whole_text():
    train_only = fitted(WordTokenizer(min_count=1), TEXT, HELD_OUT)
    everything = fitted(WordTokenizer(min_count=1, fit_on="all"), TEXT, HELD_OUT)
    assert train_only.encode("zebra").tolist() == [1]
    assert everything.token(int(everything.encode("zebra")[0])) == "zebra"


def test_words_decode_to_text_that_encodes_to_the_same_ids():
    tokenizer = fitted(WordTokenizer(min_count=1))
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids).startswith("the cat, the dog; the cat ' s tail. a dog?")
    assert np.array_equal(tokenizer.encode(tokenizer.decode(ids)), ids)


def test_whitespace_words_end_each_line():
    text = " = A = \n \n the <unk> the \n"
    tokenizer = fitted(WhitespaceTokenizer(), text, "the = \n")
    words = ["=", "A", "=", "<eos>", "<eos>", "the", "<unk>", "the", "<eos>"]
    assert [tokenizer.token(i) for i in tokenizer.encode(text)] == words
    assert tokenizer.vocab_size == len(set(words))
    assert tokenizer.lossless and tokenizer.token(tokenizer.unknown_id) == "<unk>"
    assert tokenizer.token(tokenizer.start_id) == "<eos>"
    assert tokenizer.decode(tokenizer.encode("the A\n\nthe\n")) == "the A\n\nthe\n"


def test_whitespace_words_outside_the_vocabulary_become_unknown():
    open_text = fitted(WhitespaceTokenizer(), "a a b\n", "c\n")
    assert not open_text.lossless
    assert [open_text.token(i) for i in open_text.encode("a c")] == ["a", "<unk>"]
    limited = fitted(WhitespaceTokenizer(max_vocab=3), "a a b c\n")
    assert limited.vocab_size == 3
    assert [limited.token(i) for i in limited.encode("a b\n")] == ["a", "<unk>", "<eos>"]
    with pytest.raises(UserError, match="'z'"):
        fitted(WhitespaceTokenizer(), "a b\n").encode("z")


def test_bpe_encodes_any_text():
    tokenizer = fitted(BPETokenizer(300), TEXT * 20)
    assert 257 < tokenizer.vocab_size <= 300
    for text in (TEXT, "naïve 中文 😀\r\n\x00", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(TEXT)) < len(TEXT)
    assert tokenizer.token(tokenizer.start_id) == "<|endoftext|>"


def test_gpt2_files_keep_their_ids_and_gain_a_pad(tmp_path, monkeypatch):
    folder = tmp_path / "gpt2"
    folder.mkdir()
    vocabulary = ["a", "b", "Ġ", "ab", "Ġab", "<|endoftext|>"]
    (folder / "encoder.json").write_text(json.dumps({t: i for i, t in enumerate(vocabulary)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\na b\nĠ ab\n", encoding="utf-8")
    monkeypatch.setenv("TRM_DATA_DIR", str(tmp_path))
    tokenizer = GPT2Tokenizer()
    with pytest.warns(UserWarning, match="not the published file"):
        tokenizer.prepare(tmp_path)
    tokenizer = tokenizer.fit([], [])
    assert tokenizer.encode("ab ab b").tolist() == [3, 4, 2, 1]
    assert tokenizer.start_id == 5 and tokenizer.vocab_size == 7 and tokenizer.token(6) == "<PAD>"


@pytest.mark.parametrize("tokenizer", FITTABLE, ids=lambda t: t.kind)
def test_blocks_have_the_tokens_of_the_whole_text(tokenizer):
    text = "".join(
        f"{'  ' * (i % 3)}word{i} it's  {'.' * (i % 4)} a\n{chr(10) * (i % 5)}" for i in range(300)
    )
    blocks = list(safe_blocks([text[i : i + 37] for i in range(0, len(text), 37)], size=100))
    assert "".join(blocks) == text and max(map(len, blocks)) <= 100
    whole, in_blocks = tokenizer.fit([text], []), tokenizer.fit(blocks, [])
    assert whole.state() == in_blocks.state()
    assert np.array_equal(
        whole.encode(text), np.concatenate([whole.encode(block) for block in blocks])
    )


def test_blocks_never_join_or_split_words_unless_they_must():
    blocks = list(safe_blocks(["x" * 250 + " y z"], size=100))
    assert [len(block) for block in blocks] == [100, 100, 54]
    words = list(safe_blocks([" aaa bbb  ccc\n\nddd"], size=6))
    assert all(not left[-1].strip() or not right[0].strip() for left, right in pairwise(words))


@pytest.mark.parametrize("tokenizer", FITTABLE, ids=lambda t: t.kind)
def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    original = tokenizer.fit([TEXT], [HELD_OUT])
    original.save(tmp_path / "tokenizer.json")
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    torch.save(original.state(), tmp_path / "state.pt")
    for copy in (
        Tokenizer.load(tmp_path / "tokenizer.json"),
        tokenizer_from_state(torch.load(tmp_path / "state.pt", weights_only=True)),
    ):
        assert copy.state() == original.state()
        assert np.array_equal(copy.encode(TEXT), original.encode(TEXT))
        assert (copy.vocab_size, copy.start_id, copy.unknown_id, copy.lossless) == (
            original.vocab_size,
            original.start_id,
            original.unknown_id,
            original.lossless,
        )


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CharacterTokenizer(min_count=0), ["min_count is 0"]),
        (
            lambda: WordTokenizer(vocab_size=4, min_count=0, fit_on="some"),
            ["vocab_size is 4", "min_count is 0", "fit_on is 'some'"],
        ),
        (lambda: WhitespaceTokenizer(max_vocab=1), ["max_vocab is 1"]),
        (lambda: BPETokenizer(vocab_size=256), ["vocab_size is 256"]),
    ],
)
def test_settings_out_of_range_are_named_all_at_once(make, named):
    with pytest.raises(UserError) as error:
        make()
    assert all(part in error.value.what for part in named)


def test_shakespeare_has_65_characters_and_the_known_unknown_words():
    text = real_text("tinyshakespeare", "input.txt")
    cut = int(0.9 * len(text))
    train, val = text[:cut], text[cut:]
    assert fitted(CharacterTokenizer(), train, val).vocab_size == 65
    for fit_on, share in (("train", 0.070), ("all", 0.034)):
        tokenizer = fitted(WordTokenizer(5000, 2, fit_on), train, val)
        assert tokenizer.vocab_size == 5000
        assert np.mean(tokenizer.encode(val) == tokenizer.unknown_id) == pytest.approx(
            share, abs=5e-4
        )


def test_wikitext2_has_its_published_closed_vocabulary():
    train, valid, test = (
        real_text("wikitext-2", f"wiki.{split}.tokens") for split in ("train", "valid", "test")
    )
    tokenizer = WhitespaceTokenizer().fit([train], [valid, test])
    assert tokenizer.vocab_size == 33_278 and tokenizer.lossless
    ids = tokenizer.encode(valid)
    assert len(ids) == 217_646
    unknown = Counter(valid.split())["<unk>"]
    assert (ids == tokenizer.unknown_id).sum() == unknown


def test_bpe_learns_from_blocks_that_lie_spread_over_a_long_text(monkeypatch):
    blocks = [f"{letter * 3} " * 20 for letter in "abcdefghijklmnop"]  # 80 characters each
    monkeypatch.setattr(bpe_tokenizers, "_MOST_CHARACTERS", 400)
    some = BPETokenizer(300).fit(blocks, ())
    assert some.state() == BPETokenizer(300).fit(blocks[::4], ()).state()
    monkeypatch.setattr(bpe_tokenizers, "_MOST_CHARACTERS", 80 * 16)
    assert BPETokenizer(300).fit(blocks, ()).state() != some.state()
