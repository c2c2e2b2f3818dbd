"""What a split of text holds, counted once while it is tokenized."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TextCounts:
    """Counts of a split; they turn nats per token into units that tokenizers share.

    A new count needs a field here, a line in :func:`count_block`, and its use in
    ``evaluation/metrics.py``. Token caches that lack it are built again.

    Attributes:
        tokens: ids of the split.
        words: runs of non-blank characters.
        lines: line ends.
        characters: characters of the text.
        bytes: of the text in UTF-8.
        unknown: ids that stand for something outside the vocabulary.
    """

    tokens: int = 0
    words: int = 0
    lines: int = 0
    characters: int = 0
    bytes: int = 0
    unknown: int = 0

    def __add__(self, other: "TextCounts") -> "TextCounts":
        """Add the counts of the text that follows."""
        return TextCounts(**{k: v + getattr(other, k) for k, v in vars(self).items()})


def count_block(text: str, ids: np.ndarray, unknown_id: int | None) -> TextCounts:
    """Count a block of text that begins and ends between words, with its ids (n_tokens,)."""
    return TextCounts(
        tokens=len(ids),
        words=len(text.split()),
        lines=text.count("\n"),
        characters=len(text),
        bytes=len(text.encode("utf-8", "surrogatepass")),
        unknown=0 if unknown_id is None else int((ids == unknown_id).sum()),
    )
