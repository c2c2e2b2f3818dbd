"""Write the files of a token cache: the fitted tokenizer, the ids, and ``meta.json``."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from trm_lightning.data.corpus import Corpus
from trm_lightning.data.text_counts import count_text
from trm_lightning.data.text_stream import file_sha256
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.errors import UserError
from trm_lightning.files import write_json

SCRAMBLED = "val_scrambled"
_PROGRESS_AFTER_SECONDS = 2.0


@dataclass(frozen=True)
class Builder:
    """Writes the files of a cache folder."""

    name: str
    corpus: Corpus
    tokenizer: Tokenizer
    scrambled: bool
    key: dict[str, Any]

    def build(self, folder: Path) -> None:
        """Fit the tokenizer and write every file, and last their checksums."""
        train, *held_out = self.corpus.split_names()
        fitted = self.tokenizer.fit(
            self._read(train, "fitting"),
            chain.from_iterable(self._read(split, "fitting") for split in held_out),
        )
        fitted.save(folder / "tokenizer.json")
        splits = {split: self._write(folder, split, fitted) for split in (train, *held_out)}
        if self.scrambled:
            splits[SCRAMBLED] = self._write_scrambled(folder, fitted)
        meta = {
            "name": self.name,
            "dtype": _dtype(fitted).name,
            "splits": splits,
            "key": self.key,
            "sha256": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        }
        write_json(folder / "meta.json", meta)

    def _write(self, folder: Path, split: str, fitted: Tokenizer) -> dict[str, Any]:
        """Write the ids of a split and return what ``meta.json`` says of it."""
        ids = _write_ids(folder / f"{split}.bin", self._read(split, "tokenizing"), fitted, fitted)
        if not ids.size:
            raise UserError(
                f"The {split} split of {self.name} holds no tokens: its text is too short."
            )
        counts = count_text(self._read(split, "counting"), ids, fitted.unknown_id)
        self.corpus.check_counts(split, counts)
        nats = self.corpus.total_nats(split) if fitted.lossless else None
        floor = None if nats is None else nats / counts.tokens
        return {"counts": asdict(counts), "entropy_floor_nats": floor}

    def _write_scrambled(self, folder: Path, fitted: Tokenizer) -> dict[str, Any]:
        """Write the validation text in an alphabet of its own."""
        own = self.tokenizer.fit(self.corpus.blocks("val"), ())
        if own.vocab_size > fitted.vocab_size:
            raise UserError(
                f"The validation text of {self.name} has {own.vocab_size} different characters "
                f"and the training text {fitted.vocab_size}: scrambled ids would not fit the "
                "vocabulary.",
                "Leave scrambled_validation_alphabet off for this text.",
            )
        ids = _write_ids(folder / f"{SCRAMBLED}.bin", self.corpus.blocks("val"), own, fitted)
        counts = count_text(self.corpus.blocks("val"), ids, unknown_id=None)
        return {"counts": asdict(counts), "entropy_floor_nats": None}

    def _read(self, split: str, what: str) -> Iterator[str]:
        size = self.corpus.size_estimate(split)
        return _with_progress(self.corpus.blocks(split), f"{self.name} {split}: {what}", size)


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
    path: Path, blocks: Iterable[str], tokenizer: Tokenizer, fitted: Tokenizer
) -> np.ndarray:
    """Write the ids of a split, as wide as the fitted vocabulary needs, and return them mapped."""
    dtype = _dtype(fitted)
    with path.open("wb") as file:
        for block in blocks:
            file.write(_encode(tokenizer, block).astype(dtype).tobytes())
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)


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
