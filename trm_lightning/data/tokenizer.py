"""What every tokenizer can do, and the part shared by those with a plain list of tokens."""

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from trm_lightning.errors import UserError
from trm_lightning.files import write_atomically

UNKNOWN = "<unk>"


class Tokenizer(ABC):
    """Text to token ids and back.

    The constructor takes settings and gives an unfitted tokenizer; `fit` returns a fitted copy,
    and only that can encode and decode.
    """

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type["Tokenizer"]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            Tokenizer._kinds[cls.kind] = cls

    def prepare(self, cache_dir: Path) -> None:  # noqa: B027  (nothing to do for most)
        """Find or download what `fit` needs besides the text."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values: two with equal settings fit alike."""

    def key(self) -> dict[str, Any]:
        """All that the ids depend on besides the text; for the name of the cache."""
        return {"kind": self.kind, **self.settings()}

    @abstractmethod
    def fit(self, train: Iterable[str], held_out: Iterable[str]) -> Self:
        """Return a fitted copy.

        Args:
            train: blocks of the training split's text.
            held_out: blocks of the other splits' text. What may be taken from it is only whether
                an entry for unknown tokens is needed, unless a setting says otherwise.
        """

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids."""

    @property
    @abstractmethod
    def start_id(self) -> int:
        """The id that stands before a text's first token."""

    @property
    def unknown_id(self) -> int | None:
        """The id of what is not in the vocabulary; None if everything can be encoded."""
        return None

    @property
    def lossless(self) -> bool:
        """Whether the ids determine the text of the data set, up to runs of blanks."""
        return True

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Ids of the text, int64, shape (n_tokens,)."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """The text that the ids stand for, for a reader."""

    @abstractmethod
    def token(self, token_id: int) -> str:
        """One token as text."""

    @abstractmethod
    def fitted_state(self) -> dict[str, Any]:
        """What `fit` found, in plain containers."""

    @abstractmethod
    def with_fitted_state(self, fitted: dict[str, Any]) -> Self:
        """A fitted copy of this tokenizer from what `fitted_state` returned."""

    def state(self) -> dict[str, Any]:
        """Everything needed to rebuild the tokenizer, as plain containers fit for JSON."""
        return {"kind": self.kind, "settings": self.settings(), "fitted": self.fitted_state()}

    def save(self, path: Path) -> None:
        """Write the state as JSON."""
        text = json.dumps(self.state(), ensure_ascii=False)
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """Read what `save` wrote."""
        return tokenizer_from_state(json.loads(path.read_text(encoding="utf-8")))


def tokenizer_from_state(state: dict[str, Any]) -> Tokenizer:
    """Rebuild a fitted tokenizer from `Tokenizer.state()`."""
    tokenizer = Tokenizer._kinds[state["kind"]](**state["settings"])
    return tokenizer.with_fitted_state(state["fitted"])


class VocabularyTokenizer(Tokenizer):
    """A tokenizer whose ids are positions in a list of tokens."""

    _tokens: Sequence[str] = ()
    _unknown_id: int | None = None
    _lossless: bool = True

    def with_fitted_state(self, fitted: dict[str, Any]) -> Self:
        """See `Tokenizer`."""
        return self._fitted(fitted["tokens"], fitted["unknown_id"], fitted["lossless"])

    def _fitted(self, tokens: Sequence[str], unknown_id: int | None, lossless: bool) -> Self:
        fitted = copy.copy(self)
        fitted._tokens, fitted._unknown_id, fitted._lossless = list(tokens), unknown_id, lossless
        fitted._index()
        return fitted

    @abstractmethod
    def _index(self) -> None:
        """Build what `encode` looks ids up in."""

    def fitted_state(self) -> dict[str, Any]:
        """See `Tokenizer`."""
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
        """See `Tokenizer`."""
        return self._unknown_id

    @property
    def lossless(self) -> bool:
        """See `Tokenizer`."""
        return self._lossless

    def token(self, token_id: int) -> str:
        """See `Tokenizer`."""
        return self._tokens[token_id]

    def _not_in_vocabulary(self, token: str) -> UserError:
        return UserError(
            f"{token!r} is not among the {self.vocab_size:,} tokens of this vocabulary, "
            "which has no entry for unknown ones.",
            "Use only text made of the training text's own tokens.",
        )
