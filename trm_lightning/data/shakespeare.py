"""Tiny Shakespeare: where it is downloaded from and how it is split."""

from collections.abc import Sequence
from pathlib import Path

from trm_lightning.data.corpus import FractionCorpus
from trm_lightning.data.find_or_download import PublishedFile, locate


class TinyShakespeare(FractionCorpus):
    """About a million characters of Shakespeare's plays, as published with char-rnn.

    Args:
        split: fractions of the characters for train, val and, if there are three, test.
        base_url: folder that holds ``input.txt``.

    Raises:
        UserError: bad fractions; and from ``prepare``: the file cannot be found or downloaded.
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
        """See ``Corpus``."""
        self._files = [locate(self._file, cache_dir)]
