"""A tokenizer as JSON of Hugging Face's ``tokenizers`` library."""

import re
import sys
from functools import cache

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from trm_lightning.data.bpe_tokenizers import ByteLevelBPE
from trm_lightning.data.character_tokenizer import CharacterTokenizer
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.data.vocabulary_tokenizer import UNKNOWN, VocabularyTokenizer
from trm_lightning.data.word_tokenizers import NEW_LINE, WhitespaceTokenizer, WordTokenizer
from trm_lightning.errors import UserError


def huggingface_tokenizer_json(tokenizer: Tokenizer) -> str:
    """Return a fitted tokenizer as JSON that ``tokenizers.Tokenizer.from_file`` loads.

    The loaded one gives equal ids but for two rare cases: letters that Python and the library
    lower-case differently (a capital sigma that ends a word, scripts that are new in Unicode), and
    words of over a thousand letters, which byte pair encoding cuts here. Where there is no entry
    for unknown tokens, both refuse them.

    Raises:
        UserError: the library has nothing like this tokenizer.
    """
    if isinstance(tokenizer, ByteLevelBPE):  # and what came from there
        return tokenizer.backend.to_str()
    for kind, build in _BACKENDS.items():
        if isinstance(tokenizer, kind):
            return build(tokenizer).to_str()
    raise UserError(
        f"The tokenizer {tokenizer.kind} has no form in the tokenizers library.",
        "Characters, words and byte pair encoding have one.",
    )


def _characters(tokenizer: VocabularyTokenizer) -> Backend:
    backend = _word_level(tokenizer)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return backend


def _words(tokenizer: VocabularyTokenizer) -> Backend:
    backend = _word_level(tokenizer)
    backend.normalizer = normalizers.Lowercase()
    word, blank = _class_of(r"\w"), _class_of(r"\s")
    backend.pre_tokenizer = pre_tokenizers.Split(
        Regex(f"[{word}]+|[^{word}{blank}]"), "removed", invert=True
    )
    return backend


def _between_blanks(tokenizer: VocabularyTokenizer) -> Backend:
    backend = _word_level(tokenizer)
    backend.normalizer = normalizers.Replace(NEW_LINE, f" {WhitespaceTokenizer.end_of_line} ")
    blank = _class_of(r"\s")
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(f"[{blank}]+"), "removed")
    return backend


_BACKENDS = {
    CharacterTokenizer: _characters,
    WordTokenizer: _words,
    WhitespaceTokenizer: _between_blanks,
}


def _word_level(tokenizer: VocabularyTokenizer) -> Backend:
    """Look tokens up; without an unknown one, the library refuses what is not there."""
    tokens = [tokenizer.token(i) for i in range(tokenizer.vocab_size)]
    unknown = UNKNOWN if tokenizer.unknown_id is None else tokens[tokenizer.unknown_id]
    return Backend(models.WordLevel({token: i for i, token in enumerate(tokens)}, unknown))


@cache
def _class_of(pattern: str) -> str:
    r"""Spell out what Python's ``\w`` or ``\s`` matches, which differs from the library's."""
    matches = re.compile(pattern).fullmatch
    codes = [code for code in range(sys.maxunicode + 1) if matches(chr(code))]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges)
