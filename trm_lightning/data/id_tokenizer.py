"""The tokenizer of ids without one."""

from collections.abc import Iterable

import numpy as np

from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.errors import UserError


class IdTokenizer(Tokenizer):
    """Ids that stand for nothing known: their text is the numbers themselves, between blanks.

    Args:
        vocab_size: number of ids.
        start_id: the id that stands before a text.

    Raises:
        UserError: a value out of range.
    """

    kind = "ids"
    vocab_size = 0
    start_id = 0

    def __init__(self, vocab_size: int, start_id: int = 0) -> None:
        if not 0 <= start_id < vocab_size:
            raise UserError(f"start_id is {start_id}; it must be 0 to vocab_size - 1.")
        self.vocab_size = vocab_size
        self.start_id = start_id

    def encode(self, text: str) -> np.ndarray:
        """See ``Tokenizer``.

        Raises:
            UserError: the text is not numbers of the vocabulary.
        """
        words = text.split()
        ids = [int(word) for word in words if word.isdecimal()]
        if len(ids) < len(words) or max(ids, default=0) >= self.vocab_size:
            raise UserError(
                f"The text {text[:60]!r} is not token ids from 0 to {self.vocab_size - 1}.",
                "These data have no tokenizer: write ids, such as '17 4 256'.",
            )
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the numbers."""
        return " ".join(str(int(i)) for i in ids)
