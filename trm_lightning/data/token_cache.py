"""Token ids on disk, in a folder named by a hash of everything that determines them."""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from trm_lightning.data.cache_key import cache_key, fingerprint_of
from trm_lightning.data.corpus import Corpus
from trm_lightning.data.find_or_download import disk_errors
from trm_lightning.data.text_counts import TextCounts, count_text
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.errors import UserError
from trm_lightning.files import write_folder_atomically, write_json

SCRAMBLED = "val_scrambled"
_PROGRESS_AFTER_SECONDS = 2.0
_COUNTS = {field.name for field in fields(TextCounts)}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenSplit:
    """The token ids of one split, and what they stand for.

    Args:
        name: "train", "val", "test" or "val_scrambled".
        tokens: ids, a read-only memory map of shape (n_tokens,), uint16 or uint32.
        counts: tokens, words, characters and so on of the split.
        entropy_floor_nats: exact nats per token of the text under its source, where that is known:
            no model's expected score is lower.
    """

    name: str
    tokens: np.ndarray
    counts: TextCounts
    entropy_floor_nats: float | None

    @property
    def n_tokens(self) -> int:
        """Number of ids."""
        return self.counts.tokens


@dataclass(frozen=True)
class TokenCache:
    """An open cache folder."""

    folder: Path
    fingerprint: str
    tokenizer: Tokenizer
    splits: dict[str, TokenSplit]


def open_or_build(
    name: str, corpus: Corpus, tokenizer: Tokenizer, cache_dir: Path, scrambled: bool = False
) -> TokenCache:
    """Open the cache of this data set; build it first if there is none.

    A cache whose counts are those of an earlier version is counted again; its ids stay.

    Args:
        name: of the data set, the readable part of the folder's name.
        corpus: the text; need not be prepared.
        tokenizer: unfitted.
        cache_dir: folder for downloads and caches.
        scrambled: also encode the validation text with an alphabet of its own.

    Raises:
        UserError: the source is missing or bad, the disk is full, or the folder is damaged.
    """
    corpus.prepare(cache_dir)
    tokenizer.prepare(cache_dir)
    key = cache_key(corpus, tokenizer)
    fingerprint = fingerprint_of(key)
    # The scrambled split leaves the others as they are: same fingerprint, a folder of its own.
    folder = cache_dir / "tokens" / f"{name}-{fingerprint}{'-scrambled' if scrambled else ''}"
    builder = _Builder(name, corpus, tokenizer, scrambled, key)
    with disk_errors(cache_dir):
        if not folder.is_dir():
            with write_folder_atomically(folder) as temporary:
                builder.build(temporary)
        elif _lacks_counts(folder):
            _log.info("Counting the text of %s again, for this version's scores.", folder.name)
            builder.count(folder)
    return _open(folder, fingerprint)


@dataclass(frozen=True)
class _Builder:
    """Writes the files of a cache folder."""

    name: str
    corpus: Corpus
    tokenizer: Tokenizer
    scrambled: bool
    key: dict[str, Any]

    def build(self, folder: Path) -> None:
        """Fit the tokenizer and write every file."""
        train, *held_out = self.corpus.split_names()
        fitted = self.tokenizer.fit(
            self._read(train, "fitting"),
            chain.from_iterable(self._read(split, "fitting") for split in held_out),
        )
        fitted.save(folder / "tokenizer.json")
        for split in (train, *held_out):
            blocks = self._read(split, "tokenizing")
            if not _write_ids(folder / f"{split}.bin", blocks, fitted, _dtype(fitted)):
                raise UserError(
                    f"The {split} split of {self.name} holds no tokens: its text is too short."
                )
        if self.scrambled:
            own, blocks = self._own_alphabet(fitted), self.corpus.blocks("val")
            _write_ids(folder / f"{SCRAMBLED}.bin", blocks, own, _dtype(fitted))
        self.count(folder)

    def count(self, folder: Path) -> None:
        """Count the text of every split and write ``meta.json``."""
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        dtype = _dtype(tokenizer)
        splits = {}
        for split in self.corpus.split_names():
            ids = np.memmap(folder / f"{split}.bin", dtype=dtype, mode="r")
            counts = count_text(self._read(split, "counting"), ids, tokenizer.unknown_id)
            self.corpus.check_counts(split, counts)
            nats = self.corpus.total_nats(split) if tokenizer.lossless else None
            floor = None if nats is None else nats / counts.tokens
            splits[split] = {"counts": asdict(counts), "entropy_floor_nats": floor}
        if self.scrambled:
            ids = np.memmap(folder / f"{SCRAMBLED}.bin", dtype=dtype, mode="r")
            counts = count_text(self.corpus.blocks("val"), ids, unknown_id=None)
            splits[SCRAMBLED] = {"counts": asdict(counts), "entropy_floor_nats": None}
        meta = {"name": self.name, "dtype": dtype.name, "splits": splits, "key": self.key}
        write_json(folder / "meta.json", meta)

    def _read(self, split: str, what: str) -> Iterator[str]:
        size = self.corpus.size_estimate(split)
        return _with_progress(self.corpus.blocks(split), f"{self.name} {split}: {what}", size)

    def _own_alphabet(self, fitted: Tokenizer) -> Tokenizer:
        own = self.tokenizer.fit(self.corpus.blocks("val"), ())
        if own.vocab_size > fitted.vocab_size:
            raise UserError(
                f"The validation text of {self.name} has {own.vocab_size} different characters "
                f"and the training text {fitted.vocab_size}: scrambled ids would not fit the "
                "vocabulary.",
                "Leave scrambled_validation_alphabet off for this text.",
            )
        return own


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def _with_progress(blocks: Iterable[str], what: str, size: int) -> Iterator[str]:
    with tqdm(
        desc=what, total=size, unit="chr", unit_scale=True, delay=_PROGRESS_AFTER_SECONDS
    ) as bar:
        for block in blocks:
            yield block
            bar.update(len(block))


def _write_ids(
    path: Path, blocks: Iterable[str], tokenizer: Tokenizer, dtype: np.dtype[Any]
) -> int:
    """Write the ids of a split and return their number."""
    n_tokens = 0
    with path.open("wb") as file:
        for block in blocks:
            ids = _encode(tokenizer, block)
            file.write(ids.astype(dtype).tobytes())
            n_tokens += len(ids)
    return n_tokens


def _encode(tokenizer: Tokenizer, block: str) -> np.ndarray:
    """Encode a block, and check what the tokenizer returned.

    Raises:
        UserError: not a row of whole numbers from 0 to ``vocab_size - 1``.
    """
    ids = np.asarray(tokenizer.encode(block))
    whole = ids.ndim == 1 and (not ids.size or np.issubdtype(ids.dtype, np.integer))
    if not whole or (ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size):
        raise UserError(
            f"encode() of the tokenizer {tokenizer.kind} did not return ids: {ids!r}.",
            f"It must return whole numbers from 0 to {tokenizer.vocab_size - 1}, one per token.",
        )
    return ids


def _lacks_counts(folder: Path) -> bool:
    """Whether an earlier version, which counted less, wrote this cache; False if it is damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        dtype = np.dtype(meta["dtype"])
        for split, stored in meta["splits"].items():
            counts = stored.get("counts", stored)  # once, the counts lay beside the entropy
            n_tokens = counts.get("tokens", counts.get("n_tokens"))
            if (folder / f"{split}.bin").stat().st_size != n_tokens * dtype.itemsize:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return any(_COUNTS - stored.get("counts", {}).keys() for stored in meta["splits"].values())


def _open(folder: Path, fingerprint: str) -> TokenCache:
    try:
        meta = json.loads((folder / "meta.json").read_text())
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        splits = {
            split: _open_split(folder / f"{split}.bin", np.dtype(meta["dtype"]), stored)
            for split, stored in meta["splits"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The token cache {folder} is damaged ({error}).",
            f"Delete it and it will be built again: rm -r '{folder}'",
        ) from error
    return TokenCache(folder, fingerprint, tokenizer, splits)


def _open_split(path: Path, dtype: np.dtype[Any], stored: dict[str, Any]) -> TokenSplit:
    counts = TextCounts(**{name: stored["counts"][name] for name in _COUNTS})
    expected = counts.tokens * dtype.itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not {expected}")
    tokens = np.memmap(path, dtype=dtype, mode="r")
    return TokenSplit(path.stem, tokens, counts, stored["entropy_floor_nats"])
