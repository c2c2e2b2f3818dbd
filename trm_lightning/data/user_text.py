"""Text of the user's own: ``data=text data.path=FILE_OR_FOLDER``."""

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from trm_lightning.data.bpe_tokenizers import BPETokenizer
from trm_lightning.data.character_tokenizer import CharacterTokenizer
from trm_lightning.data.corpus import FractionCorpus
from trm_lightning.data.datamodule import TextDataModule
from trm_lightning.data.huggingface_tokenizer import HuggingFaceTokenizer
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.data.train_batches import Order
from trm_lightning.data.word_tokenizers import WordTokenizer
from trm_lightning.errors import UserError


class TextCorpus(FractionCorpus):
    """UTF-8 text files, those of a folder or a glob in the order of their paths.

    Args:
        path: a file, a folder, a glob such as ``books/**/*.txt``, or a list of these.
        split: fractions of the characters for train, val and, if there are three, test.
        pattern: which files of a folder and its sub-folders to read.

    Raises:
        UserError: bad fractions; and from ``prepare``: no such file, no file matches, or no text.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        split: Sequence[float] = (0.9, 0.1),
        pattern: str = "*.txt",
    ) -> None:
        super().__init__(split)
        self.path = path
        self.pattern = pattern

    def prepare(self, cache_dir: Path) -> None:
        """See ``Corpus``."""
        paths = [self.path] if isinstance(self.path, str) else self.path
        self._files = [file for path in paths for file in self._files_of(path)]
        if not any(file.stat().st_size for file in self._files):
            raise UserError(f"{', '.join(paths)} holds no text.")

    def _files_of(self, path: str) -> list[Path]:
        place = Path(path).expanduser()
        if place.is_dir():
            files = sorted(p for p in place.rglob(self.pattern) if p.is_file())
            if not files:
                raise UserError(
                    f"No file in the folder {place} matches {self.pattern!r}.",
                    "Use another pattern, for example data.pattern='*.md'.",
                )
            return files
        if place.exists():
            return [place]
        found = glob.glob(str(place), recursive=True)  # noqa: PTH207 (pathlib's needs a folder)
        matches = sorted(map(Path, found))
        if not matches:
            raise UserError(
                f"There is no file or folder {place.absolute()}.",
                "Give a UTF-8 text file, a folder of them, a glob or a list: "
                "data=text data.path=FILE_OR_FOLDER",
            )
        return [match for match in matches if match.is_file()]


def text_data(
    path: str | Sequence[str],
    level: Literal["char", "word", "bpe"],
    window_size: int,
    batch_size: int,
    split: Sequence[float] = (0.9, 0.1),
    pattern: str = "*.txt",
    vocab_size: int = 5000,
    tokenizer_json: str | None = None,
    tokenizer: Tokenizer | None = None,
    windows: Order = "sliding",
    supervised_tokens: int | None = None,
    train_tokens: int | None = None,
    eval_stride: int | None = None,
    eval_batch_tokens: int = 16384,
    seed: int = 0,
    cache_dir: str | None = None,
) -> TextDataModule:
    """Build the data module for text of the user's own.

    Args:
        path: see ``TextCorpus``.
        level: what a token is: a character, a word, or a piece of a byte pair encoding.
        window_size: see ``TextDataModule``.
        batch_size: see ``TextDataModule``.
        split: fractions of the characters for train, val and, if there are three, test.
        pattern: which files of a folder to read.
        vocab_size: largest number of ids, for words and byte pair encoding.
        tokenizer_json: file of the ``tokenizers`` library with a tokenizer that is used instead of
            the one that ``level`` names.
        tokenizer: used instead of both.
        windows: see ``TextDataModule``.
        supervised_tokens: see ``TextDataModule``.
        train_tokens: see ``TextDataModule``.
        eval_stride: see ``TextDataModule``.
        eval_batch_tokens: see ``TextDataModule``.
        seed: see ``TextDataModule``.
        cache_dir: see ``TextDataModule``.

    Raises:
        UserError: no such level, or an argument of the parts is out of range.
    """
    tokenizers: dict[str, Callable[[], Tokenizer]] = {
        "char": CharacterTokenizer,
        "word": lambda: WordTokenizer(vocab_size),
        "bpe": lambda: BPETokenizer(vocab_size),
    }
    if level not in tokenizers:
        raise UserError(f"data.level is {level!r}; it must be one of {', '.join(tokenizers)}.")
    if tokenizer is None and tokenizer_json is not None:
        tokenizer = HuggingFaceTokenizer(tokenizer_json)
    return TextDataModule(
        name=f"text_{type(tokenizer).__name__.lower() if tokenizer else level}",
        corpus=TextCorpus(path, split, pattern),
        tokenizer=tokenizer or tokenizers[level](),
        window_size=window_size,
        batch_size=batch_size,
        windows=windows,
        supervised_tokens=supervised_tokens,
        train_tokens=train_tokens,
        eval_stride=eval_stride,
        eval_batch_tokens=eval_batch_tokens,
        seed=seed,
        cache_dir=cache_dir,
    )
