"""The built-in corpus: a play sampled from a grammar, so its exact entropy is known."""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from trm_lightning.data.builtin_grammar import NEW_LINE, distribution, draw, play, probability
from trm_lightning.data.corpus import SPLIT_NAMES, Corpus
from trm_lightning.data.text_stream import safe_blocks
from trm_lightning.errors import UserError

_BITS_AT_A_TIME = 1 << 16

MOST_WORDS = 1_000_000_000  # hours of sampling


class BuiltinPlay(Corpus):
    """A play sampled from the grammar in ``builtin_grammar``.

    Blanks separate words and punctuation and a line end closes a turn, so WikiText's word rule
    returns the grammar's words. The total nats of the text are the same under every lossless
    tokenizer. Each split is a play of its own, of whole scenes.

    Args:
        train_words: least number of words, line ends included, of the training split.
        val_words: the same for validation.
        test_words: the same for testing.
        seed: of the sampling.

    Raises:
        UserError: a number of words below 1 or over ``MOST_WORDS``.
    """

    def __init__(
        self,
        train_words: int = 300_000,
        val_words: int = 30_000,
        test_words: int = 30_000,
        seed: int = 0,
    ) -> None:
        self.n_words = dict(zip(SPLIT_NAMES, (train_words, val_words, test_words), strict=True))
        if min(self.n_words.values()) < 1:
            raise UserError(f"Every split of the built-in corpus needs words, not {self.n_words}.")
        if max(self.n_words.values()) > MOST_WORDS:
            raise UserError(
                f"A split of the built-in corpus has at most {MOST_WORDS:,} words, not "
                f"{self.n_words}."
            )
        self.seed = seed

    def key(self) -> dict[str, Any]:
        """See ``Corpus``."""
        return {"n_words": self.n_words, "seed": self.seed}

    def split_names(self) -> Sequence[str]:
        """See ``Corpus``."""
        return SPLIT_NAMES

    def blocks(self, split: str) -> Iterator[str]:
        """See ``Corpus``."""
        return safe_blocks([self._sample(split)[0]])

    def size_estimate(self, split: str) -> int:
        """See ``Corpus``."""
        return 6 * self.n_words[split]

    def total_nats(self, split: str) -> float:
        """See ``Corpus``."""
        return self._sample(split)[1]

    def _sample(self, split: str) -> tuple[str, float]:
        return sample_play(self.n_words[split], (self.seed, SPLIT_NAMES.index(split)))


@lru_cache(maxsize=len(SPLIT_NAMES))  # a cache is built in three passes over the same text
def sample_play(n_words: int, seed: tuple[int, ...]) -> tuple[str, float]:
    """Return at least n_words words up to the end of a scene, and the exact nats of the text."""
    bits = _random_bits(seed)
    words: list[str] = []
    probabilities: list[float] = []
    grammar = play()
    mixture = next(grammar)
    while len(words) < n_words or words[-2:] != [NEW_LINE, NEW_LINE]:
        word = draw(mixture, bits)
        words.append(word)
        probabilities.append(probability(mixture, word))
        mixture = grammar.send(word)
    return spell(words), -math.fsum(map(math.log, probabilities))


def spell(words: Sequence[str]) -> str:
    """Return the words as text: one blank between two words of a line."""
    return " ".join(words).replace(f" {NEW_LINE}", NEW_LINE).replace(f"{NEW_LINE} ", NEW_LINE)


def next_words(words: Sequence[str]) -> dict[str, float]:
    """Return the exact distribution of the next word after these first words of a play.

    Raises:
        ValueError: the grammar gives these words probability 0.
    """
    grammar = play()
    mixture = next(grammar)
    for word in words:
        if not probability(mixture, word):
            raise ValueError(f"{word!r} has probability 0 here")
        mixture = grammar.send(word)
    return distribution(mixture)


def _random_bits(seed: tuple[int, ...]) -> Iterator[int]:
    """Yield uniform 64-bit numbers; the raw stream is the same in every version of numpy."""
    generator = np.random.PCG64(list(seed))
    while True:
        yield from generator.random_raw(_BITS_AT_A_TIME).tolist()
