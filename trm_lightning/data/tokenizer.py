"""What every tokenizer can do, and the part shared by those with a plain list of tokens."""

import copy
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from trm_lightning.errors import UserError
from trm_lightning.files import write_text

UNKNOWN = "<unk>"


class Tokenizer(ABC):
    """Text to token ids and back.

    The constructor takes settings and gives an unfitted tokenizer; `fit` returns a fitted copy,
    and only that can encode and decode.

    One of your own needs `vocab_size`, `start_id`, `encode` and `decode`. Where it has settings or
    learns from the text, it also needs `settings`, `fit`, `fitted_state` and `with_fitted_state`.
    A config names it by `data.tokenizer._target_: my_tokenizers.MyTokenizer`; a run stores that
    name and the state, and restores it from the same module.
    """

    # Raise it when a change of code changes the ids: token caches are then built anew.
    version: ClassVar[int] = 1

    def prepare(self, cache_dir: Path) -> None:  # noqa: B027  (nothing to do for most)
        """Find or download what `fit` needs besides the text."""

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as plain values: two with equal settings fit alike."""
        return {}

    def key(self) -> dict[str, Any]:
        """All that the ids depend on besides the text; for the name of the cache."""
        return {"class": class_path(self), "version": self.version, **self.settings()}

    def fit(self, train: Iterable[str], held_out: Iterable[str]) -> Self:
        """Return a fitted copy; by default there is nothing to fit.

        Args:
            train: blocks of the training split's text.
            held_out: blocks of the other splits' text. What may be taken from it is only whether
                an entry for unknown tokens is needed, unless a setting says otherwise.
        """
        return copy.copy(self)

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

    def token(self, token_id: int) -> str:
        """One token as text."""
        return self.decode([token_id])

    def fitted_state(self) -> dict[str, Any]:
        """What `fit` found, in plain containers."""
        return {}

    def with_fitted_state(self, fitted: dict[str, Any]) -> Self:
        """A fitted copy of this tokenizer from what `fitted_state` returned."""
        return copy.copy(self)

    def state(self) -> dict[str, Any]:
        """Everything needed to rebuild the tokenizer, as plain containers fit for JSON."""
        return {
            "class": class_path(self),
            "settings": self.settings(),
            "fitted": self.fitted_state(),
        }

    def save(self, path: Path) -> None:
        """Write the state as JSON."""
        write_text(path, json.dumps(self.state(), ensure_ascii=False))

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """Read what `save` wrote."""
        return tokenizer_from_state(json.loads(path.read_text(encoding="utf-8")))


def class_path(tokenizer: Tokenizer) -> str:
    """Return where the tokenizer's class can be imported from, such as `module.Class`."""
    return f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"


def tokenizer_from_state(state: dict[str, Any]) -> Tokenizer:
    """Rebuild a fitted tokenizer from `Tokenizer.state()`.

    Raises:
        UserError: when its class cannot be imported, or is not a tokenizer.
    """
    tokenizer = _import_class(state["class"])(**state["settings"])
    return tokenizer.with_fitted_state(state["fitted"])


def _import_class(path: str) -> type[Tokenizer]:
    """Import a tokenizer's class. Nothing else is ever imported from a stored run."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"The run's tokenizer {path} cannot be imported: {error}.",
            f"Put the folder that holds {module.split('.')[0]} on PYTHONPATH, or call the command "
            "as `python -m …` from that folder.",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Tokenizer)):
        raise UserError(f"{path}, the run's tokenizer, is not a subclass of Tokenizer.")
    return found


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
