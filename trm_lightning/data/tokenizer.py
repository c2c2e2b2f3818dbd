"""The interface of every tokenizer, and how a stored one is restored."""

import copy
import importlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from trm_lightning.errors import UserError
from trm_lightning.files import write_atomically


class Tokenizer(ABC):
    """Turn text into token ids and back.

    A tokenizer of your own needs ``vocab_size`` (a class attribute or a property), ``encode`` and
    ``decode``, in a module that Python can import. Name the class in the config; every run trained
    with it restores it::

        # my_tokenizers.py; train with data.tokenizer._target_=my_tokenizers.Bytes
        class Bytes(Tokenizer):
            vocab_size = 256

            def encode(self, text):
                return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)

            def decode(self, ids):
                return bytes(ids).decode(errors="replace")

    Override further methods where their defaults do not fit:

    - ``fit``, ``fitted_state`` and ``with_fitted_state``, if it learns from the training text
      (default: it learns nothing);
    - ``settings``, if a constructor argument is not kept in an attribute of the same name;
    - ``start_id`` (default 0), ``unknown_id`` (none), ``token`` (one decoded id);
    - ``lossless``, if decoding gives back the exact text (default: it may not, so no entropy floor
      is reported).

    The text is encoded in blocks that end just before a blank or a line end, so no token should
    hold one of these after its first character.
    """

    kind: ClassVar[str] = ""
    """Names the class in stored states; set by the package, to the import path of your class."""
    version: ClassVar[int] = 1
    """Raise it when a change of a shipped class changes the ids of any text: it is part of the
    cache's key. Of a class outside the package, the source code is."""
    _shipped: ClassVar[dict[str, type["Tokenizer"]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.startswith("trm_lightning.") and "kind" in cls.__dict__:
            Tokenizer._shipped[cls.kind] = cls
        else:
            cls.kind = f"{cls.__module__}.{cls.__qualname__}"

    def prepare(self, cache_dir: Path) -> None:  # noqa: B027  (nothing to do for most)
        """Find or download what ``fit`` needs besides the text."""

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values: equal settings fit alike.

        Raises:
            UserError: an argument is not kept in an attribute of the same name.
        """
        names = inspect.signature(type(self)).parameters
        missing = [name for name in names if not hasattr(self, name)]
        if missing:
            raise UserError(
                f"The tokenizer {self.kind} has no attribute for its argument {missing[0]!r}.",
                f"Set self.{missing[0]} in the constructor, or override settings().",
            )
        return {name: getattr(self, name) for name in names}

    def key(self) -> dict[str, Any]:
        """Return the settings that the ids depend on besides the text, for the cache's key."""
        return {"kind": self.kind, **self.settings()}

    def rule(self) -> dict[str, Any]:
        """Return what else the ids depend on, such as a library's version, as plain values.

        A cache with another rule is not used. Settings and source files are known without it.
        """
        return {}

    def fit(self, train: Iterable[str], held_out: Iterable[str]) -> Self:
        """Return a fitted copy; only that can encode and decode.

        Args:
            train: blocks of the training split's text.
            held_out: blocks of the other splits' text. It may only decide whether an entry for
                unknown tokens is needed, unless a setting says otherwise.
        """
        return self

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids: they run from 0 to ``vocab_size - 1``."""

    @property
    def start_id(self) -> int:
        """The id that stands before a text's first token."""
        return 0

    @property
    def unknown_id(self) -> int | None:
        """The id of what is not in the vocabulary; None if everything can be encoded."""
        return None

    @property
    def lossless(self) -> bool:
        """Whether the ids determine the text of the data set, up to runs of blanks."""
        return False

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the ids of the text, int64, shape (n_tokens,)."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Return the text that the ids stand for, for a reader."""

    def token(self, token_id: int) -> str:
        """Return one token as text."""
        return self.decode([token_id])

    def fitted_state(self) -> dict[str, Any]:
        """Return what ``fit`` found, in containers fit for JSON."""
        return {}

    def with_fitted_state(self, fitted: dict[str, Any]) -> Self:
        """Return a fitted copy of this tokenizer from what ``fitted_state`` returned."""
        return copy.copy(self)

    def state(self) -> dict[str, Any]:
        """Return everything needed to rebuild the tokenizer, in containers fit for JSON.

        Raises:
            UserError: the class cannot be imported by its name, so nothing could rebuild it.
        """
        tokenizer_class(self.kind)
        return {"kind": self.kind, "settings": self.settings(), "fitted": self.fitted_state()}

    def save(self, path: Path) -> None:
        """Write the state as JSON.

        Raises:
            UserError: the state holds something that JSON does not know.
        """
        try:
            text = json.dumps(self.state(), ensure_ascii=False)
        except TypeError as error:
            raise UserError(
                f"The state of the tokenizer {self.kind} cannot be written as JSON: {error}.",
                "Return plain values, lists and dictionaries from settings() and fitted_state().",
            ) from error
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "Tokenizer":
        """Read what ``save`` wrote."""
        return tokenizer_from_state(json.loads(path.read_text(encoding="utf-8")))


def tokenizer_from_state(state: dict[str, Any]) -> Tokenizer:
    """Rebuild a fitted tokenizer from ``Tokenizer.state()``.

    Raises:
        UserError: its class cannot be imported, or its constructor takes other arguments now.
    """
    cls = tokenizer_class(state["kind"])
    try:
        tokenizer = cls(**state["settings"])
    except TypeError as error:
        raise UserError(
            f"The tokenizer {cls.kind} cannot be rebuilt from its stored settings: {error}.",
            "Its class has changed: restore the one that the run was trained with.",
        ) from error
    return tokenizer.with_fitted_state(state["fitted"])


def tokenizer_class(kind: str) -> type[Tokenizer]:
    """Return the class that a stored state names.

    This is the only place where a stored name becomes a tokenizer's class: what a run folder or a
    cache may import is decided here.

    Args:
        kind: short name of a shipped tokenizer, or the import path of another one.

    Raises:
        UserError: there is no such class.
    """
    if kind in Tokenizer._shipped:
        return Tokenizer._shipped[kind]
    module, _, name = kind.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"The tokenizer {kind!r} cannot be imported: {error}.",
            "Define the class at the top level of a module, and put the module's folder on "
            "PYTHONPATH.",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Tokenizer)):
        raise UserError(f"{kind} is not a Tokenizer.", "Derive it from trm_lightning.data's.")
    return found
