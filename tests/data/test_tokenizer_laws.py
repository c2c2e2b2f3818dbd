"""Laws of every tokenizer on random Unicode: what comes back, which ids, how text may be cut."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trm_lightning.data import (
    BPETokenizer,
    CharacterTokenizer,
    Tokenizer,
    WhitespaceTokenizer,
    WordTokenizer,
    bpe_tokenizers,
    text_stream,
    tokenizer_from_state,
)
from trm_lightning.data.text_stream import safe_blocks
from trm_lightning.errors import UserError

unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
prose = st.text(st.sampled_from("ab'é中😀\u0301.,!\n\t\x1c\u00a0\u2028  "), max_size=60)
texts = unicode | prose
many = settings(
    deadline=None, max_examples=50, derandomize=True, suppress_health_check=list(HealthCheck)
)
BPE = BPETokenizer(300).fit(["the cat's tail and the dog's tail 123 !? " * 20], [])
TRAINED = "the cat's tail é中 \n, A b"


def all_fitted(train: str, held_out: str) -> list[Tokenizer]:
    kinds = CharacterTokenizer(), WordTokenizer(min_count=1), WhitespaceTokenizer()
    return [*(kind.fit([train], [held_out]) for kind in kinds), BPE]


@many
@given(train=texts, text=texts)
def test_ids_are_in_range_and_the_stored_tokenizer_gives_the_same(train: str, text: str) -> None:
    for tokenizer in all_fitted(train, text):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int64 and ids.ndim == 1
        assert not ids.size or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size
        again = tokenizer_from_state(tokenizer.state())
        assert np.array_equal(again.encode(text), ids)
        assert again.decode(ids.tolist()) == tokenizer.decode(ids.tolist())


@many
@given(text=texts)
def test_characters_and_pieces_give_the_text_back(text: str) -> None:
    for tokenizer in (CharacterTokenizer().fit([text], []), BPE):
        assert tokenizer.lossless
        assert tokenizer.decode(tokenizer.encode(text)) == text


@many
@given(text=texts)
def test_words_give_back_their_lower_cased_words(text: str) -> None:
    tokenizer = WordTokenizer(min_count=1).fit([text], [])
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    assert [tokenizer.token(i) for i in tokenizer.encode(text)] == words


@many
@given(text=texts)
def test_whitespace_words_give_back_words_and_line_ends(text: str) -> None:
    tokenizer = WhitespaceTokenizer().fit([text], [])
    decoded = tokenizer.decode(tokenizer.encode(text))
    assert decoded.split("\n") == [" ".join(line.split()) for line in text.split("\n")]


@many
@given(text=texts, size=st.integers(5, 40))
def test_blocks_have_the_tokens_of_the_whole_text(text: str, size: int) -> None:
    """A block may be cut elsewhere only if it has no blank before a word."""
    blocks = list(safe_blocks([text], size))
    assert "".join(blocks) == text
    for block, following in pairwise(blocks):
        if not re.match(r"[ \n]\S", following):
            assert not re.search(r"(?s).[ \n]\S", block)
            return
    for tokenizer in all_fitted(text, ""):
        pieces = [tokenizer.encode(block) for block in blocks]
        assert np.concatenate([*pieces, []]).tolist() == tokenizer.encode(text).tolist()


@many
@given(text=texts, at=st.integers(0, 60), half=st.characters(categories=["Cs"]))
def test_half_a_character_is_refused(text: str, at: int, half: str) -> None:
    broken = text[:at] + half + text[at:]
    for tokenizer in all_fitted(TRAINED + text, text):
        with pytest.raises(UserError, match="half a character"):
            tokenizer.encode(broken)
    for kind in (CharacterTokenizer(), WordTokenizer(), WhitespaceTokenizer(), BPETokenizer(300)):
        with pytest.raises(UserError, match="half a character"):
            kind.fit([broken], [])


@pytest.mark.parametrize("letters", ["ACGT", "?!;-", "中文字", "a1b2", "a?b_"])
def test_a_word_without_end_is_cut_and_given_back(letters: str) -> None:
    text = "one " + letters * 5000 + " two"
    assert BPE.decode(BPE.encode(text)) == text
    pieces = list(bpe_tokenizers._pieces(text))
    assert "".join(pieces) == text
    runs = [re.findall(r"[^\W_]+|(?:[^\w\s]|_)+", piece) for piece in pieces]
    assert max(len(run) for found in runs for run in found) <= bpe_tokenizers._LONGEST_WORD


@many
@given(text=texts)
def test_ordinary_words_are_not_cut(text: str) -> None:
    words = "x" * bpe_tokenizers._LONGEST_WORD + " " + text
    assert list(bpe_tokenizers._pieces(words)) == [words]
    assert text_stream.count_characters(bpe_tokenizers._pieces(text)) == len(text)
