"""Token ids on disk, in a folder named by a hash of everything that determines them."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from trm_lightning.data.corpora import Corpus
from trm_lightning.data.counts import TextCounts, count_block
from trm_lightning.data.download import disk_errors
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.errors import UserError
from trm_lightning.files import write_folder_atomically

CODE_VERSION = 1  # raise it when a change of code changes the ids of any data set
SCRAMBLED = "val_scrambled"
_PROGRESS_AFTER_SECONDS = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenSplit:
    """The token ids of one split, and what they stand for.

    Args:
        name: "train", "val", "test" or "val_scrambled".
        tokens: ids, a read-only memory map of shape (n_tokens,), uint16 or uint32.
        counts: of the text.
        entropy_floor_nats: exact nats per token of the text under its source, if that is known:
            no model can be expected to score below it.
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
    """Open the cache of this data set, building it first if there is none.

    Args:
        name: the data set's, the readable part of the folder's name.
        corpus: the text; need not be prepared.
        tokenizer: unfitted.
        cache_dir: where downloads and caches are kept.
        scrambled: also encode the validation text with an alphabet of its own.

    Raises:
        UserError: the source cannot be had or is bad, the disk is full, or the folder is damaged.
    """
    corpus.prepare(cache_dir)
    tokenizer.prepare(cache_dir)
    key = {
        "version": CODE_VERSION,
        "corpus": {"class": type(corpus).__name__, **corpus.key()},
        "tokenizer": tokenizer.key(),
    }
    fingerprint = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    # Text that is encoded once more leaves the other splits as they are: same data, own folder.
    suffix = "-scrambled" if scrambled else ""
    folder = cache_dir / "tokens" / f"{name}-{fingerprint}{suffix}"
    if folder.is_dir() and not _has_all_counts(folder):
        _log.info("%s was written by an earlier version: building it again.", folder)
        shutil.rmtree(folder)
    if not folder.is_dir():
        with disk_errors(cache_dir), write_folder_atomically(folder) as temporary:
            meta = _build(temporary, name, corpus, tokenizer, scrambled)
            (temporary / "meta.json").write_text(json.dumps({**meta, "key": key}, indent=2))
    return _open(folder, fingerprint)


def _build(
    folder: Path, name: str, corpus: Corpus, tokenizer: Tokenizer, scrambled: bool
) -> dict[str, Any]:
    train, *held_out = corpus.split_names()

    def read(split: str, what: str) -> Iterator[str]:
        size = corpus.size_estimate(split)
        return _with_progress(corpus.blocks(split), f"{name} {split}: {what}", size)

    fitted = tokenizer.fit(
        read(train, "counting"),
        chain.from_iterable(read(split, "counting") for split in held_out),
    )
    fitted.save(folder / "tokenizer.json")
    dtype = np.dtype(np.uint16 if fitted.vocab_size <= 1 << 16 else np.uint32)
    splits: dict[str, Any] = {}
    for split in corpus.split_names():
        path = folder / f"{split}.bin"
        counts = _write_ids(path, read(split, "tokenizing"), fitted, dtype)
        corpus.check_counts(split, counts.words, counts.lines)
        if counts.tokens == 0:
            raise UserError(f"The {split} split of {name} holds no tokens: its text is too short.")
        nats = corpus.total_nats(split) if fitted.lossless else None
        floor = None if nats is None else nats / counts.tokens
        splits[split] = {"counts": asdict(counts), "entropy_floor_nats": floor}
    if scrambled:
        own = tokenizer.fit(corpus.blocks("val"), ())
        if own.vocab_size > fitted.vocab_size:
            raise UserError(
                f"The validation text of {name} has {own.vocab_size} different characters and the "
                f"training text {fitted.vocab_size}: scrambled ids would not fit the vocabulary.",
                "Leave scrambled_validation_alphabet off for this text.",
            )
        counts = _write_ids(folder / f"{SCRAMBLED}.bin", corpus.blocks("val"), own, dtype)
        splits[SCRAMBLED] = {"counts": asdict(counts), "entropy_floor_nats": None}
    return {"name": name, "dtype": dtype.name, "splits": splits}


def _with_progress(blocks: Iterable[str], what: str, size: int) -> Iterator[str]:
    with tqdm(
        desc=what, total=size, unit="chr", unit_scale=True, delay=_PROGRESS_AFTER_SECONDS
    ) as bar:
        for block in blocks:
            yield block
            bar.update(len(block))


def _write_ids(
    path: Path, blocks: Iterable[str], tokenizer: Tokenizer, dtype: np.dtype[Any]
) -> TextCounts:
    counts = TextCounts()
    with path.open("wb") as file:
        for block in blocks:
            ids = tokenizer.encode(block)
            file.write(ids.astype(dtype).tobytes())
            counts += count_block(block, ids, tokenizer.unknown_id)
    return counts


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


def _has_all_counts(folder: Path) -> bool:
    """Say whether a cache has what this version counts; a damaged one is told of later."""
    try:
        splits = json.loads((folder / "meta.json").read_text())["splits"].values()
        wanted = {field.name for field in fields(TextCounts)}
        return all(split.get("counts", {}).keys() == wanted for split in splits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True


def _open_split(path: Path, dtype: np.dtype[Any], stored: dict[str, Any]) -> TokenSplit:
    counts = TextCounts(**stored["counts"])
    expected = counts.tokens * dtype.itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not {expected}")
    tokens = np.memmap(path, dtype=dtype, mode="r")
    return TokenSplit(path.stem, tokens, counts, stored["entropy_floor_nats"])
