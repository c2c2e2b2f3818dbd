"""Where text comes from: any files of the user's, and Tiny Shakespeare."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from trm_lightning.data.download import PublishedFile, locate
from trm_lightning.data.reading import (
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

    def prepare(self, cache_dir: Path) -> None:  # noqa: B027  (nothing to do for some)
        """Find or download the source; cheap if that is done."""

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """All that the text of the splits depends on, as plain values; after `prepare`."""

    @abstractmethod
    def split_names(self) -> Sequence[str]:
        """ "train" and "val", and "test" if there is one."""

    @abstractmethod
    def blocks(self, split: str) -> Iterator[str]:
        """The split's text in order, in blocks of about a million characters."""

    @abstractmethod
    def size_estimate(self, split: str) -> int:
        """About how many characters the split has; for progress bars."""

    def total_nats(self, split: str) -> float | None:
        """Exact -log probability of the split's text, where the source's distribution is known."""
        return None

    def check_counts(self, split: str, n_words: int, n_lines: int) -> None:  # noqa: B027
        """Compare the split with what was published about it."""


class FractionCorpus(Corpus):
    """Files read one after the other and split by fractions of their characters."""

    def __init__(self, split: Sequence[float]) -> None:
        self.fractions = _checked_fractions(split)
        self._files: list[Path] = []

    def key(self) -> dict[str, Any]:
        """See `Corpus`."""
        together = hashlib.sha256("".join(map(file_sha256, self._files)).encode())
        return {"source": together.hexdigest(), "split": list(self.fractions)}

    def split_names(self) -> Sequence[str]:
        """See `Corpus`."""
        return SPLIT_NAMES[: len(self.fractions)]

    def blocks(self, split: str) -> Iterator[str]:
        """See `Corpus`."""
        start, stop = self._bounds[split]
        return safe_blocks(character_range(self._pieces(), start, stop))

    def size_estimate(self, split: str) -> int:
        """See `Corpus`."""
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


class TextCorpus(FractionCorpus):
    """A UTF-8 text file of the user's, or all the text files of a folder, in order of their paths.

    Args:
        path: file or folder.
        split: fractions of the characters for train, val and, if there are three, test.
        pattern: which files of a folder and its sub-folders to read.

    Raises:
        UserError: bad fractions; and from `prepare`: no such file, no file matches, or no text.
    """

    def __init__(
        self, path: str, split: Sequence[float] = (0.9, 0.1), pattern: str = "*.txt"
    ) -> None:
        super().__init__(split)
        self.path = Path(path).expanduser()
        self.pattern = pattern

    def prepare(self, cache_dir: Path) -> None:
        """See `Corpus`."""
        if self.path.is_dir():
            self._files = sorted(p for p in self.path.rglob(self.pattern) if p.is_file())
            if not self._files:
                raise UserError(
                    f"No file in the folder {self.path} matches {self.pattern!r}.",
                    "Name another pattern, for example data.pattern='*.md'.",
                )
        elif self.path.exists():
            self._files = [self.path]
        else:
            raise UserError(
                f"There is no file or folder {self.path.absolute()}.",
                "Give a UTF-8 text file or a folder of them: data=text data.path=FILE_OR_FOLDER",
            )
        if not any(path.stat().st_size for path in self._files):
            raise UserError(f"{self.path} holds no text.")


class TinyShakespeare(FractionCorpus):
    """About a million characters of Shakespeare's plays, as published with char-rnn.

    Args:
        split: fractions of the characters for train, val and, if there are three, test.
        base_url: folder that holds `input.txt`.

    Raises:
        UserError: bad fractions; and from `prepare`: the file cannot be had.
    """

    _sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

    def __init__(
        self,
        split: Sequence[float] = (0.9, 0.1),
        base_url: str = (
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare"
        ),
    ) -> None:
        super().__init__(split)
        url = f"{base_url.rstrip('/')}/input.txt"
        self._file = PublishedFile("tinyshakespeare/input.txt", self._sha256, url)

    def prepare(self, cache_dir: Path) -> None:
        """See `Corpus`."""
        self._files = [locate(self._file, cache_dir)]


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
