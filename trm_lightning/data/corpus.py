"""The interface of every text source, and the base of those split by fractions."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from trm_lightning.data.text_counts import TextCounts
from trm_lightning.data.text_stream import (
    character_range,
    count_characters,
    file_sha256,
    read_utf8,
    safe_blocks,
)
from trm_lightning.errors import UserError

SPLIT_NAMES = ("train", "val", "test")


class Corpus(ABC):
    """Text in splits, read as a stream of blocks that can be tokenized one by one."""

    version: ClassVar[int] = 1
    """Raise it when a change of a shipped class changes the text of any split: it is part of the
    cache's key. Of a class outside the package, the source code is."""

    def prepare(self, cache_dir: Path) -> None:  # noqa: B027  (nothing to do for some)
        """Find or download the source; cheap once that is done."""

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Return what the splits' text depends on, as plain values; call ``prepare`` first."""

    @abstractmethod
    def split_names(self) -> Sequence[str]:
        """Return "train" and "val", and "test" if there is one."""

    @abstractmethod
    def blocks(self, split: str) -> Iterator[str]:
        """Yield the split's text in order, in blocks of about a million characters."""

    @abstractmethod
    def size_estimate(self, split: str) -> int:
        """Return about how many characters the split has, for progress bars."""

    def total_nats(self, split: str) -> float | None:
        """Return the exact -log probability of the split's text; None where it is not known."""
        return None

    def check_counts(self, split: str, counts: TextCounts) -> None:  # noqa: B027
        """Compare the split with the counts published for it; raise or warn if they differ."""


class FractionCorpus(Corpus):
    """Files read one after the other and split by fractions of their characters."""

    def __init__(self, split: Sequence[float]) -> None:
        self.fractions = _checked_fractions(split)
        self._files: list[Path] = []

    def key(self) -> dict[str, Any]:
        """See ``Corpus``."""
        together = hashlib.sha256("".join(map(file_sha256, self._files)).encode())
        return {"source": together.hexdigest(), "split": list(self.fractions)}

    def split_names(self) -> Sequence[str]:
        """See ``Corpus``."""
        return SPLIT_NAMES[: len(self.fractions)]

    def blocks(self, split: str) -> Iterator[str]:
        """See ``Corpus``."""
        start, stop = self._bounds[split]
        return safe_blocks(character_range(self._pieces(), start, stop))

    def size_estimate(self, split: str) -> int:
        """See ``Corpus``."""
        start, stop = self._bounds[split]
        return stop - start

    def _pieces(self) -> Iterator[str]:
        for path in self._files:
            last = "\n"
            for piece in read_utf8(path):
                last = piece[-1]
                yield piece
            if last != "\n" and path != self._files[-1]:
                yield "\n"

    @cached_property
    def _bounds(self) -> dict[str, tuple[int, int]]:
        n = count_characters(self._pieces())
        ends = [int(sum(self.fractions[: i + 1]) * n) for i in range(len(self.fractions) - 1)] + [n]
        return dict(zip(self.split_names(), zip([0, *ends], ends, strict=False), strict=True))


def _checked_fractions(split: Sequence[float]) -> tuple[float, ...]:
    numbers = all(isinstance(fraction, int | float) for fraction in split)
    fractions = tuple(map(float, split)) if numbers else ()
    if len(fractions) not in (2, 3) or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise UserError(
            f"split is {split}; it must be two or three positive fractions "
            "(train, val, and perhaps test) that sum to 1.",
            "For example [0.9,0.05,0.05].",
        )
    return fractions
