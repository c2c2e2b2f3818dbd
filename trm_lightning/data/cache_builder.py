"""Write the files of a token cache: the fitted tokenizer, the ids, and ``meta.json``.

A builder that was stopped goes on: a tokenizer that is there is fitted, and ids that are marked
are right, since the folder's name is a hash of everything that determines them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from trm_lightning.data.corpus import Corpus
from trm_lightning.data.split_writer import Encode, remove_marks, write_split
from trm_lightning.data.text_counts import TextCounts
from trm_lightning.data.text_stream import file_sha256
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.data.workers import Blocks, Workers
from trm_lightning.errors import UserError
from trm_lightning.files import remove_temporary, write_json

SCRAMBLED = "val_scrambled"
META = "meta.json"
_PROGRESS_AFTER_SECONDS = 2.0


@dataclass(frozen=True)
class Builder:
    """Writes the files of a cache folder."""

    name: str
    corpus: Corpus
    tokenizer: Tokenizer
    scrambled: bool
    key: dict[str, Any]
    workers: Workers

    def build(self, folder: Path) -> None:
        """Fit the tokenizer and write every file, and last their checksums."""
        remove_temporary(folder)
        (folder / META).unlink(missing_ok=True)  # of a build that was killed just before its end
        fitted = self._fitted(folder / "tokenizer.json")
        splits = {split: self._write(folder, split, fitted) for split in self.corpus.split_names()}
        if self.scrambled:
            splits[SCRAMBLED] = self._write_scrambled(folder, fitted)
        remove_marks(folder)
        meta = {
            "name": self.name,
            "dtype": _dtype(fitted).name,
            "splits": splits,
            "key": self.key,
            "sha256": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        }
        write_json(folder / META, meta)

    def _fitted(self, path: Path) -> Tokenizer:
        if path.is_file():
            return Tokenizer.load(path)
        train, *held_out = self.corpus.split_names()
        fitted = self.tokenizer.fit(self._read("fitting", train), self._read("fitting", *held_out))
        fitted.save(path)
        return fitted

    def _write(self, folder: Path, split: str, fitted: Tokenizer) -> dict[str, Any]:
        """Write the ids of a split and return what ``meta.json`` says of it."""
        encode = Encode(fitted, _dtype(fitted), fitted.unknown_id)
        counts = self._write_ids(folder / f"{split}.bin", split, encode)
        if not counts.tokens:
            raise UserError(
                f"The {split} split of {self.name} holds no tokens: its text is too short."
            )
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
        encode = Encode(own, _dtype(fitted), unknown_id=None)
        counts = self._write_ids(folder / f"{SCRAMBLED}.bin", "val", encode)
        return {"counts": asdict(counts), "entropy_floor_nats": None}

    def _write_ids(self, path: Path, split: str, encode: Encode) -> TextCounts:
        return write_split(path, self._read("tokenizing", split), encode)

    def _read(self, what: str, *splits: str) -> Blocks:
        sizes = [self.corpus.size_estimate(split) for split in splits]
        texts = (
            _with_progress(self.corpus.blocks(split), f"{self.name} {split}: {what}", size)
            for split, size in zip(splits, sizes, strict=True)
        )
        return Blocks(chain.from_iterable(texts), self.workers, sum(sizes))


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def _with_progress(blocks: Iterable[str], what: str, size: int) -> Iterator[str]:
    with tqdm(
        desc=what, total=size, unit="chr", unit_scale=True, delay=_PROGRESS_AFTER_SECONDS
    ) as bar:
        for block in blocks:
            yield block
            bar.update(len(block))
