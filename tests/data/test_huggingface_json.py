"""Tokenizers as JSON for the ``tokenizers`` library: equal ids, on text of many scripts."""

import numpy as np
import pytest
import tokenizers
from small_text import TEXT

from trm_lightning.data import (
    BPETokenizer,
    CharacterTokenizer,
    Tokenizer,
    WhitespaceTokenizer,
    WordTokenizer,
    huggingface_tokenizer_json,
)
from trm_lightning.errors import UserError

# Marks, numerals and blanks that regular expressions of the two libraries tell apart.
SCRIPTS = (
    "Naïve café, it's 3½ or Ⅷ; snake_case 中文字 हिन्दी ไทย е́й\n\nİstanbul ΣΊΣΥΦΟΙ\u00a0a"
    "\u2003b\x1cc\x85d <unk> <eos> <BOS> <|endoftext|> \t tab  two  blanks \n x²\u200dy 😀👍🏽\n"
)
TOKENIZERS = [
    CharacterTokenizer(),
    WordTokenizer(min_count=1),
    WhitespaceTokenizer(),
    BPETokenizer(300),
]


def loaded(tokenizer: Tokenizer, folder) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    path.write_text(huggingface_tokenizer_json(tokenizer), encoding="utf-8")
    return tokenizers.Tokenizer.from_file(str(path))


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: t.kind)
@pytest.mark.parametrize("train", [TEXT, SCRIPTS], ids=["most unknown", "all known"])
def test_the_library_gives_equal_ids(tokenizer, train, tmp_path):
    fitted = tokenizer.fit([train], [SCRIPTS])
    theirs = loaded(fitted, tmp_path)
    ids = theirs.encode(SCRIPTS, add_special_tokens=False).ids
    assert ids == fitted.encode(SCRIPTS).tolist()
    assert theirs.get_vocab_size() == fitted.vocab_size
    assert [theirs.id_to_token(i) for i in range(fitted.vocab_size)] == [
        fitted.token(i) if tokenizer.kind != "bpe" else fitted.backend.id_to_token(i)
        for i in range(fitted.vocab_size)
    ]


def test_what_the_library_would_split_differently_is_spelled_out(tmp_path):
    """A negative control: with the library's own classes the ids differ."""
    fitted = WordTokenizer(min_count=1).fit([SCRIPTS], ())
    theirs = loaded(fitted, tmp_path)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(r"\w+|[^\w\s]"), "removed", invert=True
    )
    assert theirs.encode(SCRIPTS).ids != fitted.encode(SCRIPTS).tolist()


def test_both_refuse_what_a_closed_vocabulary_lacks(tmp_path):
    theirs = loaded(CharacterTokenizer().fit(["abc"], ()), tmp_path)
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("abcd")


def test_a_tokenizer_without_a_form_in_the_library_is_named():
    class Bytes(Tokenizer):
        vocab_size = 256

        def encode(self, text: str) -> np.ndarray:
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)

        def decode(self, ids) -> str:
            return bytes(ids).decode()

    with pytest.raises(UserError, match=r"Bytes has no form in the tokenizers library"):
        huggingface_tokenizer_json(Bytes())
