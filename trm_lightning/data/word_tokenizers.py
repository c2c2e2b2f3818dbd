"""One id per word, with the two rules that split text into words."""

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal, Self

import numpy as np

from trm_lightning.data.text_stream import refuse_surrogates
from trm_lightning.data.vocabulary_tokenizer import UNKNOWN, VocabularyTokenizer
from trm_lightning.data.workers import map_blocks
from trm_lightning.errors import UserError

NEW_LINE = "\n"


class _Ids(dict[str, int]):
    """Token to id; a missing token gives the unknown id, at the speed of a dictionary."""

    def __init__(self, tokenizer: "_Words") -> None:
        super().__init__((token, i) for i, token in enumerate(tokenizer._tokens))
        self._tokenizer = tokenizer

    def __missing__(self, token: str) -> int:
        if self._tokenizer.unknown_id is None:
            raise self._tokenizer._not_in_vocabulary(token)
        return self._tokenizer.unknown_id


class _Words(VocabularyTokenizer):
    """Words by the rule of a subclass."""

    @abstractmethod
    def _split(self, text: str) -> list[str]:
        """Return the words of the text: the word-splitting rule. See ``version`` on changing it."""

    def _count(self, block: str) -> Counter[str]:
        """Count the words of a block, in the order of their appearance."""
        refuse_surrogates(block)
        return Counter(self._split(block))

    def _total(self, blocks: Iterable[str]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for found in map_blocks(self._count, blocks):
            counts.update(found)
        return counts

    def _index(self) -> None:
        self._ids = _Ids(self)

    def encode(self, text: str) -> np.ndarray:
        """See ``Tokenizer``.

        Raises:
            UserError: a word is not in the vocabulary and there is no entry for unknown ones, or
                the text holds half of a surrogate pair.
        """
        refuse_surrogates(text)
        words = self._split(text)
        return np.fromiter(map(self._ids.__getitem__, words), dtype=np.int64, count=len(words))


class WordTokenizer(_Words):
    r"""Lower-cased runs of word characters; any other non-blank character is a word of its own.

    The pattern is ``\w+|[^\w\s]``. The vocabulary is ``<PAD> <UNK> <BOS> <EOS>`` and the most
    frequent words; of two equally frequent ones, the first in the text comes first. Case, blanks
    and line ends are lost.

    Args:
        vocab_size: largest number of ids, the four specials included.
        min_count: a rarer word is unknown.
        fit_on: "train" counts words in the training split; "all" counts them in the whole text, as
            in the system that is reproduced: its vocabulary then depends on held-out text.

    Raises:
        UserError: a value out of range.
    """

    kind = "words"
    specials = ("<PAD>", "<UNK>", "<BOS>", "<EOS>")
    _pattern = re.compile(r"\w+|[^\w\s]")
    _no_blank_before = re.compile(r" (?=[.,;:!?])")

    def __init__(
        self, vocab_size: int = 5000, min_count: int = 2, fit_on: Literal["train", "all"] = "train"
    ) -> None:
        problems = []
        if vocab_size <= len(self.specials):
            problems.append(f"vocab_size is {vocab_size}; it must be over {len(self.specials)}.")
        if min_count < 1:
            problems.append(f"min_count is {min_count}; it must be at least 1.")
        if fit_on not in ("train", "all"):
            problems.append(f"fit_on is {fit_on!r}; it must be 'train' or 'all'.")
        if problems:
            raise UserError("\n".join(problems))
        self.vocab_limit = vocab_size
        self.min_count = min_count
        self.fit_on = fit_on

    def settings(self) -> dict[str, Any]:
        """See ``Tokenizer``."""
        return {
            "vocab_size": self.vocab_limit,
            "min_count": self.min_count,
            "fit_on": self.fit_on,
        }

    def rule(self) -> dict[str, Any]:
        """See ``Tokenizer``."""
        return {"pattern": self._pattern.pattern, "flags": self._pattern.flags}

    def fit(self, train: Iterable[str], held_out: Iterable[str]) -> Self:
        """See ``Tokenizer``; the held-out text is read only with ``fit_on="all"``."""
        counts = self._total(train)
        if self.fit_on == "all":
            counts.update(self._total(held_out))
        commonest = counts.most_common(self.vocab_limit - len(self.specials))
        words = [word for word, count in commonest if count >= self.min_count]
        return self._fitted([*self.specials, *words], unknown_id=1, lossless=False)

    def _split(self, text: str) -> list[str]:
        return self._pattern.findall(text.lower())

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words joined by blanks, without one before a punctuation mark."""
        return self._no_blank_before.sub("", " ".join(self._tokens[i] for i in ids))

    @property
    def start_id(self) -> int:
        """``<BOS>``."""
        return self.specials.index("<BOS>")


class WhitespaceTokenizer(_Words):
    """Words are separated by blanks, and every line ends in ``<eos>``: WikiText's rule.

    The vocabulary is ``<eos>`` and the training split's words, the most frequent first. ``<unk>``
    is a word of the text, or becomes the last id if the vocabulary lacks a word of the data set.

    Args:
        max_vocab: largest number of ids; None for all words.

    Raises:
        UserError: max_vocab below 2.
    """

    kind = "whitespace"
    end_of_line = "<eos>"
    _around_line_end = re.compile(r" ?\n ?")

    def __init__(self, max_vocab: int | None = None) -> None:
        if max_vocab is not None and max_vocab < 2:
            raise UserError(f"max_vocab is {max_vocab}; it must be at least 2.")
        self.max_vocab = max_vocab

    def fit(self, train: Iterable[str], held_out: Iterable[str]) -> Self:
        """See ``Tokenizer``."""
        counts = self._total(train)
        commonest = [word for word, _ in counts.most_common() if word != self.end_of_line]
        words = [self.end_of_line, *commonest][: self.max_vocab]
        kept = set(words)
        closed = kept.issuperset(counts) and all(
            kept.issuperset(words) for words in map_blocks(self._count, held_out)
        )
        if not closed and UNKNOWN not in kept:
            words = [*words[: self.max_vocab - 1 if self.max_vocab else None], UNKNOWN]
        unknown_id = words.index(UNKNOWN) if UNKNOWN in words else None
        return self._fitted(words, unknown_id, lossless=closed)

    def _split(self, text: str) -> list[str]:
        return text.replace(NEW_LINE, f" {self.end_of_line} ").split()

    def decode(self, ids: Iterable[int]) -> str:
        """Return the words joined by blanks; ``<eos>`` becomes a line end."""
        words = (NEW_LINE if i == self.start_id else self._tokens[i] for i in ids)
        return self._around_line_end.sub(NEW_LINE, " ".join(words))

    @property
    def start_id(self) -> int:
        """``<eos>``, as if a line had just ended."""
        return 0
