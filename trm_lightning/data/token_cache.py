"""Token ids on disk, in a folder named by a hash of everything that determines them.

``meta.json`` holds the checksum of every file, its own included. All are verified whenever a cache
is opened, so a file that was damaged on the disk is found and the cache is built again.
"""

import contextlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trm_lightning.data.build_lock import building
from trm_lightning.data.cache_builder import META, Builder
from trm_lightning.data.cache_key import cache_key, code_key, fingerprint_of
from trm_lightning.data.corpus import Corpus
from trm_lightning.data.find_or_download import disk_errors
from trm_lightning.data.split_writer import is_marked
from trm_lightning.data.text_counts import TextCounts
from trm_lightning.data.text_stream import file_sha256
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.data.workers import Workers
from trm_lightning.errors import UserError
from trm_lightning.files import read_json, write_folder_atomically

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
    """An open cache folder.

    Attributes:
        folder: where it lies.
        fingerprint: hash of text, split, tokenizer and their versions.
        ids_digest: hash of the ids themselves.
        tokenizer: fitted.
        splits: by name.
    """

    folder: Path
    fingerprint: str
    ids_digest: str
    tokenizer: Tokenizer
    splits: dict[str, TokenSplit]


class _DamagedError(UserError):
    """A file of a cache is missing or not what was written."""


def open_or_build(
    name: str, corpus: Corpus, tokenizer: Tokenizer, cache_dir: Path, scrambled: bool = False
) -> TokenCache:
    """Open the cache of this data set; build it if there is none or it is damaged.

    Of several processes at once, one builds and the others wait. A good cache is opened without
    a lock, so its folder may be read-only.

    Args:
        name: of the data set, the readable part of the folder's name.
        corpus: the text; need not be prepared.
        tokenizer: unfitted.
        cache_dir: folder for downloads and caches.
        scrambled: also encode the validation text with an alphabet of its own.

    Raises:
        UserError: the source is missing or bad, or the disk is full.
    """
    corpus.prepare(cache_dir)
    tokenizer.prepare(cache_dir)
    key = cache_key(corpus, tokenizer)
    fingerprint = fingerprint_of(key)
    key["code"] = code_key(corpus, tokenizer)
    # The scrambled split leaves the others as they are: same fingerprint, a folder of its own.
    ending = f"{fingerprint_of(key)[:8]}{'-scrambled' if scrambled else ''}"
    folder = cache_dir / "tokens" / f"{name}-{fingerprint}-{ending}"
    with contextlib.suppress(_DamagedError):
        return _open(folder, fingerprint)
    with disk_errors(cache_dir), building(folder):
        try:
            return _open(folder, fingerprint)  # built while this process waited
        except _DamagedError as damage:
            if os.path.lexists(folder):
                _log.warning("%s The cache is built again.", damage.what)
                _remove(folder)
        with write_folder_atomically(folder, keep=is_marked) as partial, Workers() as workers:
            Builder(name, corpus, tokenizer, scrambled, key, workers).build(partial)
        return _open(folder, fingerprint)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _open(folder: Path, fingerprint: str) -> TokenCache:
    """Open a cache.

    Raises:
        _DamagedError: naming the file that is not what was written.
    """
    meta = _read_meta(folder / META)
    for name, checksum in meta["sha256"].items():
        _verify(folder / name, checksum)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    splits = {
        split: TokenSplit(
            split,
            np.memmap(folder / f"{split}.bin", dtype=meta["dtype"], mode="r"),
            TextCounts(**stored["counts"]),
            stored["entropy_floor_nats"],
        )
        for split, stored in meta["splits"].items()
    }
    digest = fingerprint_of({name: meta["sha256"][f"{name}.bin"] for name in splits})
    return TokenCache(folder, fingerprint, digest, tokenizer, splits)


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise _DamagedError(f"The token cache's {path} cannot be read ({error!r}).") from error


def _verify(path: Path, checksum: str) -> None:
    try:
        same = file_sha256(path) == checksum
    except UserError as error:
        raise _DamagedError(f"The token cache is damaged: {error.what}") from error
    if not same:
        raise _DamagedError(f"The token cache's {path} is damaged: its checksum differs.")
