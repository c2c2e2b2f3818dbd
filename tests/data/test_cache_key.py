"""Whatever determines the ids is in the key: a rule that changes must not meet an old cache."""

import hashlib
import importlib
import re
import sys
from pathlib import Path

import pytest
from small_text import module, ready

from trm_lightning.data import (
    BPETokenizer,
    BuiltinPlay,
    CharacterTokenizer,
    Tokenizer,
    WhitespaceTokenizer,
    WordTokenizer,
)
from trm_lightning.data.cache_key import cache_key, code_key, fingerprint_of

TEXT = "The cat, the DOG; the cat's tail.\n\nA dog? The bird_2 sees\ta dog -- naïve 中文!\n" * 2
# The ids of TEXT under each version of a rule. A test that fails here asks for a new version.
IDS = {
    ("characters", 1): "8bb90ec2b9935159",
    ("words", 1): "e6d581a96bf9ef7f",
    ("whitespace", 1): "e585be016447f382",
    ("bpe", 2): "49286094360b3859",
}


def fingerprint(corpus=None, tokenizer=None) -> str:
    return fingerprint_of(cache_key(corpus or BuiltinPlay(), tokenizer or CharacterTokenizer()))


@pytest.mark.parametrize(
    "cls", [CharacterTokenizer, WordTokenizer, WhitespaceTokenizer, BPETokenizer]
)
def test_the_ids_of_a_version_stay(cls: type[Tokenizer]) -> None:
    ids = cls().fit([TEXT], []).encode(TEXT).tolist()
    found = hashlib.sha256(repr(ids).encode()).hexdigest()[:16]
    assert found == IDS[cls.kind, cls.version], f"raise {cls.__name__}.version"


def test_a_new_version_is_other_data(monkeypatch) -> None:
    before = fingerprint()
    monkeypatch.setattr(CharacterTokenizer, "version", 2)
    tokenizer = fingerprint()
    monkeypatch.setattr(BuiltinPlay, "version", 2)
    both = fingerprint()
    monkeypatch.setattr(CharacterTokenizer, "version", 1)
    assert len({before, tokenizer, both, fingerprint()}) == 4


class Semicolons(WordTokenizer):
    """Another rule for what a word is."""

    def _split(self, text: str) -> list[str]:
        return text.split(";")


def test_a_subclass_with_another_rule_is_other_data() -> None:
    assert fingerprint(tokenizer=Semicolons()) != fingerprint(tokenizer=WordTokenizer())
    key = cache_key(BuiltinPlay(), Semicolons())["tokenizer"]
    assert key["kind"].endswith("Semicolons") and len(key["source"]) == 64


def test_the_cache_s_key_has_the_code_that_makes_the_ids() -> None:
    files = " ".join(code_key(BuiltinPlay(), WordTokenizer())["files"])
    for name in ("builtin_grammar", "text_stream", "text_counts", "word_tokenizers", "wikitext"):
        assert f"{name}.py" in files
    assert code_key(BuiltinPlay(), BPETokenizer())["rule"]["tokenizers"]


def test_a_changed_rule_does_not_meet_old_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("it's one and it's two. " * 50)
    before = ready(module(path, WordTokenizer()))
    monkeypatch.setattr(WordTokenizer, "_pattern", re.compile(r"[\w']+|[^\w\s]"))
    after = ready(module(path, WordTokenizer()))
    assert after.tokenizer.decode(after.splits["val"].tokens).startswith("it's one and")
    assert after.ids_digest != before.ids_digest


OWN = """
from trm_lightning.data import CharacterTokenizer

SHIFT = 0


class Shifted(CharacterTokenizer):
    def encode(self, text):
        return (super().encode(text) + SHIFT) % self.vocab_size
"""


def test_a_changed_constant_in_a_user_s_file_does_not_meet_old_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "text.txt"
    path.write_text("abc " * 100)
    digests = set()
    for shift in (0, 1):
        (tmp_path / "shifted.py").write_text(OWN.replace("= 0", f"= {shift}"))
        sys.modules.pop("shifted", None)
        importlib.invalidate_caches()
        digests.add(ready(module(path, importlib.import_module("shifted").Shifted())).ids_digest)
    sys.modules.pop("shifted")
    assert len(digests) == 2


def test_fingerprints_of_shipped_data_stay() -> None:
    """Results of earlier runs name these."""
    assert fingerprint() == "88417d3dc99026eb"
    assert fingerprint(tokenizer=WhitespaceTokenizer()) == "907640e7727b4b68"
