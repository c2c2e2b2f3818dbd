"""The data module for text of the user's own: `data=text data.path=FILE_OR_FOLDER`."""

from collections.abc import Callable, Sequence
from typing import Literal

from trm_lightning.data.bpe import BPETokenizer
from trm_lightning.data.characters import CharacterTokenizer
from trm_lightning.data.corpora import TextCorpus
from trm_lightning.data.datamodule import TextDataModule
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.data.windows import Order
from trm_lightning.data.words import WordTokenizer
from trm_lightning.errors import UserError


def text_data(
    path: str,
    level: Literal["char", "word", "bpe"],
    window_size: int,
    batch_size: int,
    split: Sequence[float] = (0.9, 0.1),
    pattern: str = "*.txt",
    vocab_size: int = 5000,
    windows: Order = "sliding",
    supervised_tokens: int | None = None,
    eval_stride: int | None = None,
    eval_batch_tokens: int = 16384,
    seed: int = 0,
    cache_dir: str | None = None,
) -> TextDataModule:
    """A data module for text of the user's own.

    Args:
        path: a UTF-8 file, or a folder of them.
        level: what a token is: a character, a word, or a piece of a byte pair encoding.
        window_size: this and all from `windows` on are the arguments of `TextDataModule`.
        batch_size: see `TextDataModule`.
        split: fractions of the characters for train, val and, if there are three, test.
        pattern: which files of a folder to read.
        vocab_size: most entries, for words and byte pair encoding.
        windows: see `TextDataModule`.
        supervised_tokens: see `TextDataModule`.
        eval_stride: see `TextDataModule`.
        eval_batch_tokens: see `TextDataModule`.
        seed: see `TextDataModule`.
        cache_dir: see `TextDataModule`.

    Raises:
        UserError: no such level; and whatever the parts raise.
    """
    tokenizers: dict[str, Callable[[], Tokenizer]] = {
        "char": CharacterTokenizer,
        "word": lambda: WordTokenizer(vocab_size),
        "bpe": lambda: BPETokenizer(vocab_size),
    }
    if level not in tokenizers:
        raise UserError(f"data.level is {level!r}; it must be one of {', '.join(tokenizers)}.")
    return TextDataModule(
        name=f"text_{level}",
        corpus=TextCorpus(path, split, pattern),
        tokenizer=tokenizers[level](),
        window_size=window_size,
        batch_size=batch_size,
        windows=windows,
        supervised_tokens=supervised_tokens,
        eval_stride=eval_stride,
        eval_batch_tokens=eval_batch_tokens,
        seed=seed,
        cache_dir=cache_dir,
    )
