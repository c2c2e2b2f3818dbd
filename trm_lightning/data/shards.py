"""Token ids that are there already: ``train.bin``, ``val.bin`` as nanoGPT writes them.

A shard is ids and nothing else, uint16 or uint32 in this machine's order. What ids stand for says a
``tokenizer.json`` beside them: one of this package's runs, or of the ``tokenizers`` library. A
``meta.pkl`` is not read: a pickle can run any code.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trm_lightning.data.corpus import SPLIT_NAMES
from trm_lightning.data.datamodule import TextDataModule
from trm_lightning.data.huggingface_tokenizer import HuggingFaceTokenizer
from trm_lightning.data.id_tokenizer import IdTokenizer
from trm_lightning.data.text_counts import TextCounts, count_text
from trm_lightning.data.text_stream import file_sha256
from trm_lightning.data.token_cache import TokenCache, TokenSplit, fingerprint_of
from trm_lightning.data.tokenizer import Tokenizer, tokenizer_from_state
from trm_lightning.data.train_batches import Order
from trm_lightning.errors import UserError
from trm_lightning.files import make_folder, write_atomically

_IDS_AT_A_TIME = 1 << 20
_MOST_DECODED = 1 << 24  # ids; the rest of a split is taken to be like these


class ShardsDataModule(TextDataModule):
    """Token ids from ``train.bin``, ``val.bin`` and, if there is one, ``test.bin``.

    The files are mapped, not copied. Words and characters are counted in their decoded text, of a
    split of over 16 Mi ids in so many; without a tokenizer, each id counts as one of either.

    Args:
        path: folder of the files.
        vocab_size: number of ids; None for that of ``tokenizer.json`` beside the shards.
        dtype: of the files: "uint16" or "uint32"; None for what the vocabulary needs.
        start_id: the id that stands before a text; None for the tokenizer's, or else 0.
        window_size: see ``TextDataModule``.
        batch_size: see ``TextDataModule``.
        name: see ``TextDataModule``.
        windows: see ``TextDataModule``.
        supervised_tokens: see ``TextDataModule``.
        train_tokens: see ``TextDataModule``.
        eval_stride: see ``TextDataModule``.
        eval_batch_tokens: see ``TextDataModule``.
        seed: see ``TextDataModule``.
        cache_dir: not used.

    Raises:
        UserError: values out of range; and from ``setup``: a file is missing or holds other ids.
    """

    def __init__(
        self,
        path: str,
        window_size: int,
        batch_size: int,
        vocab_size: int | None = None,
        dtype: str | None = None,
        start_id: int | None = None,
        name: str = "shards",
        windows: Order = "sliding",
        supervised_tokens: int | None = None,
        train_tokens: int | None = None,
        eval_stride: int | None = None,
        eval_batch_tokens: int = 16384,
        seed: int = 0,
        cache_dir: str | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self.shard_dtype = dtype
        tokenizer = _tokenizer_beside(self.path, vocab_size, start_id)
        super().__init__(
            name, None, tokenizer, window_size, batch_size, windows, supervised_tokens,
            train_tokens, eval_stride, eval_batch_tokens, seed, cache_dir,
        )  # fmt: skip

    def _open(self) -> TokenCache:
        if self._cache is None:
            self._cache = _opened(self.path, self.unfitted_tokenizer, self.shard_dtype)
        return self._cache


def write_shards(data: TextDataModule, folder: Path) -> list[Path]:
    """Write the ids of a data set as shards, and its tokenizer beside them.

    Args:
        data: prepared.
        folder: made where it is not there yet; files of these names are replaced.

    Returns:
        The files.
    """
    make_folder(folder)
    files = []
    for split in SPLIT_NAMES:
        if split in data.splits:
            files.append(folder / f"{split}.bin")
            with write_atomically(files[-1]) as temporary, temporary.open("xb") as file:
                for piece in _pieces(data.splits[split].tokens):
                    file.write(piece.tobytes())
    files.append(folder / "tokenizer.json")
    data.tokenizer.save(files[-1])
    return files


def _tokenizer_beside(folder: Path, vocab_size: int | None, start_id: int | None) -> Tokenizer:
    path = folder / "tokenizer.json"
    if vocab_size is not None and not path.is_file():
        return IdTokenizer(vocab_size, start_id or 0)
    if not path.is_file():
        raise UserError(
            f"There is no {path}, and data.vocab_size is not set.",
            "Say how many ids there are: data.vocab_size=50257 (nanoGPT's GPT-2 shards).",
        )
    tokenizer = _load(path)
    if vocab_size not in (None, tokenizer.vocab_size) or start_id not in (None, tokenizer.start_id):
        raise UserError(
            f"{path} has {tokenizer.vocab_size} ids and starts a text with {tokenizer.start_id}; "
            f"data.vocab_size is {vocab_size}, data.start_id {start_id}.",
            "Leave both out.",
        )
    return tokenizer


def _load(path: Path) -> Tokenizer:
    """Load a tokenizer of either kind; of this package's own only, since another could be code."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        shipped = state.get("kind") in Tokenizer._shipped
        return tokenizer_from_state(state) if shipped else HuggingFaceTokenizer(str(path)).fit()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a tokenizer: {error!r}.") from error


def _opened(folder: Path, tokenizer: Tokenizer, dtype: str | None) -> TokenCache:
    kind = np.dtype(dtype or ("uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"))
    splits = {}
    for split in SPLIT_NAMES:
        path = folder / f"{split}.bin"
        if path.is_file() or split != "test":
            ids = _mapped(path, kind, tokenizer.vocab_size)
            splits[split] = TokenSplit(split, ids, _counts(ids, tokenizer), None)
    hashes = {split: file_sha256(folder / f"{split}.bin") for split in splits}
    key = {"files": hashes, "dtype": kind.name, "tokenizer": tokenizer.state()}
    return TokenCache(folder, fingerprint_of(key), fingerprint_of(hashes), tokenizer, splits)


def _mapped(path: Path, dtype: np.dtype[Any], vocab_size: int) -> np.ndarray:
    """Map a shard, and check its ids.

    Raises:
        UserError: it is missing, empty, cut off, or holds ids that are not of the vocabulary.
    """
    try:
        n_bytes = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"There is no shard {path}.", "data.path is a folder with train.bin and val.bin."
        ) from error
    if not n_bytes or n_bytes % dtype.itemsize:
        raise UserError(
            f"{path} has {n_bytes:,} bytes, which are no ids of {dtype.itemsize} bytes each.",
            "Say which they are: data.dtype=uint16 or uint32.",
        )
    ids = np.memmap(path, dtype=dtype, mode="r")
    largest = max(int(piece.max()) for piece in _pieces(ids))
    if largest >= vocab_size:
        raise UserError(
            f"{path} holds the id {largest:,}, but there are {vocab_size:,} ids.",
            "Correct data.vocab_size, or data.dtype (uint16 or uint32).",
        )
    return ids


def _counts(ids: np.ndarray, tokenizer: Tokenizer) -> TextCounts:
    n = len(ids)
    if isinstance(tokenizer, IdTokenizer):
        return TextCounts(tokens=n, words=n, lines=0, characters=n, bytes=n, unknown=0)
    decoded = ids[:_MOST_DECODED]
    texts = (tokenizer.decode(piece.tolist()) for piece in _pieces(decoded))
    counts = count_text(texts, ids, tokenizer.unknown_id)
    part = n / len(decoded)
    return TextCounts(
        tokens=n,
        words=round(counts.words * part),
        lines=round(counts.lines * part),
        characters=round(counts.characters * part),
        bytes=round(counts.bytes * part),
        unknown=counts.unknown,
    )


def _pieces(ids: np.ndarray) -> Iterator[np.ndarray]:
    return (ids[i : i + _IDS_AT_A_TIME] for i in range(0, len(ids), _IDS_AT_A_TIME))
