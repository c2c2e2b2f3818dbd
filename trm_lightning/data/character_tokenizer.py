"""One id per character: how characters become ids, and which are unknown."""

from collections.abc import Iterable
from typing import Self

import numpy as np

from trm_lightning.data.text_stream import refuse_surrogates
from trm_lightning.data.vocabulary_tokenizer import UNKNOWN, VocabularyTokenizer
from trm_lightning.data.workers import map_blocks
from trm_lightning.errors import UserError

_N_CODE_POINTS = 0x110000


class CharacterTokenizer(VocabularyTokenizer):
    """The alphabet is the sorted set of the training split's characters.

    Ids follow code points, so Tiny Shakespeare gives the usual 65. ``<unk>`` is added as the last
    id only if some character of the data set is not in the alphabet.

    Args:
        min_count: a character that is rarer in the training split is unknown.

    Raises:
        UserError: min_count below 1.
    """

    kind = "characters"

    def __init__(self, min_count: int = 1) -> None:
        if min_count < 1:
            raise UserError(f"min_count is {min_count}; it must be at least 1.")
        self.min_count = min_count

    def fit(self, train: Iterable[str], held_out: Iterable[str]) -> Self:
        """See ``Tokenizer``."""
        counts = _total(train)
        present = (counts + _total(held_out)) > 0
        kept = counts >= self.min_count
        alphabet = [chr(code) for code in np.flatnonzero(kept)]
        if not (present & ~kept).any():
            return self._fitted(alphabet, unknown_id=None, lossless=True)
        return self._fitted([*alphabet, UNKNOWN], unknown_id=len(alphabet), lossless=False)

    def _index(self) -> None:
        alphabet = [token for token in self._tokens if token != UNKNOWN]
        codes = _code_points("".join(alphabet))
        missing = -1 if self._unknown_id is None else self._unknown_id
        # The last entry stands for all code points beyond the largest of the alphabet.
        self._id_of_code = np.full(int(codes.max(initial=0)) + 2, missing, dtype=np.int64)
        self._id_of_code[codes] = np.arange(len(codes))

    def encode(self, text: str) -> np.ndarray:
        """See ``Tokenizer``.

        Raises:
            UserError: a character is not in the alphabet and there is no ``<unk>``, or the text
                holds half of a surrogate pair.
        """
        ids = self._id_of_code.take(_code_points(text), mode="clip")
        if self._unknown_id is None and ids.size and ids.min() < 0:
            raise self._not_in_vocabulary(text[int(ids.argmin())])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the characters; an unknown one becomes U+FFFD."""
        return "".join("\ufffd" if i == self._unknown_id else self._tokens[i] for i in ids)

    @property
    def start_id(self) -> int:
        """A line end, as if the text began a line; without one a blank; without that id 0."""
        for character in "\n ":
            if character in self._tokens:
                return self._tokens.index(character)
        return 0


def _code_points(text: str) -> np.ndarray:
    if text.isascii():
        return np.frombuffer(text.encode(), dtype=np.uint8)
    refuse_surrogates(text)
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _total(blocks: Iterable[str]) -> np.ndarray:
    counts = np.zeros(_N_CODE_POINTS, dtype=np.int64)
    for found in map_blocks(_count, blocks):
        counts[: len(found)] += found
    return counts


def _count(block: str) -> np.ndarray:
    return np.bincount(_code_points(block))
