"""The base of the tokenizers that have a list of tokens: an id is a position in it."""

import copy
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.errors import UserError

UNKNOWN = "<unk>"


class VocabularyTokenizer(Tokenizer):
    """A tokenizer whose ids are positions in a list of tokens."""

    _tokens: Sequence[str] = ()
    _unknown_id: int | None = None
    _lossless: bool = True

    def with_fitted_state(self, fitted: dict[str, Any]) -> Self:
        """See ``Tokenizer``."""
        return self._fitted(fitted["tokens"], fitted["unknown_id"], fitted["lossless"])

    def _fitted(self, tokens: Sequence[str], unknown_id: int | None, lossless: bool) -> Self:
        fitted = copy.copy(self)
        fitted._tokens, fitted._unknown_id, fitted._lossless = list(tokens), unknown_id, lossless
        fitted._index()
        return fitted

    @abstractmethod
    def _index(self) -> None:
        """Build the table in which ``encode`` looks up ids."""

    def fitted_state(self) -> dict[str, Any]:
        """See ``Tokenizer``."""
        return {
            "tokens": list(self._tokens),
            "unknown_id": self._unknown_id,
            "lossless": self._lossless,
        }

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self._tokens)

    @property
    def unknown_id(self) -> int | None:
        """See ``Tokenizer``."""
        return self._unknown_id

    @property
    def lossless(self) -> bool:
        """See ``Tokenizer``."""
        return self._lossless

    def token(self, token_id: int) -> str:
        """See ``Tokenizer``."""
        return self._tokens[token_id]

    def _not_in_vocabulary(self, token: str) -> UserError:
        return UserError(
            f"{token!r} is not among the {self.vocab_size:,} tokens of this vocabulary, "
            "which has no unknown token.",
            "Use only tokens of the training text.",
        )
