"""Write the token ids of a split, and mark how far that has got, so that a killed build goes on."""

import os
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trm_lightning.data.text_counts import TextCounts, count_text
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.data.workers import Blocks
from trm_lightning.errors import UserError
from trm_lightning.files import read_json, write_json

BLOCKS_PER_MARK = 64  # some 64 million characters
_PIECE_BYTES = 1 << 24


@dataclass(frozen=True)
class Encode:
    """Encode a block, and count what it holds; workers receive it pickled.

    Args:
        tokenizer: fitted.
        dtype: of the ids.
        unknown_id: see ``count_text``.
    """

    tokenizer: Tokenizer
    dtype: np.dtype[Any]
    unknown_id: int | None

    def __call__(self, block: str) -> tuple[np.ndarray, TextCounts]:
        """Return the block's ids, and the counts of the block.

        Raises:
            UserError: the tokenizer did not return a row of whole numbers from 0 to
                ``vocab_size - 1``.
        """
        tokenizer = self.tokenizer
        ids = np.asarray(tokenizer.encode(block))
        whole = ids.ndim == 1 and (not ids.size or np.issubdtype(ids.dtype, np.integer))
        if not whole or (ids.size and not 0 <= ids.min() <= ids.max() < tokenizer.vocab_size):
            raise UserError(
                f"encode() of the tokenizer {tokenizer.kind} did not return ids: {ids!r}.",
                f"It must return whole numbers from 0 to {tokenizer.vocab_size - 1}, one per "
                "token.",
            )
        return ids.astype(self.dtype), count_text([block], ids, self.unknown_id)


@dataclass(frozen=True)
class _Mark:
    """What of a split is written: so many blocks, which make so many bytes with this checksum."""

    n_blocks: int = 0
    n_bytes: int = 0
    crc: int = 0
    counts: TextCounts = field(default_factory=TextCounts)

    def after(self, ids: bytes, counts: TextCounts) -> "_Mark":
        crc = zlib.crc32(ids, self.crc)
        return _Mark(self.n_blocks + 1, self.n_bytes + len(ids), crc, self.counts + counts)


def write_split(path: Path, blocks: Blocks, encode: Encode) -> TextCounts:
    """Write the ids of all blocks to a file, after those that an earlier process has marked.

    Args:
        path: of the file.
        blocks: the split's text from its beginning.
        encode: makes ids of a block.
    """
    mark = _read_mark(path)
    with path.open("r+b" if mark.n_bytes else "wb") as file:
        if mark.n_bytes:
            file.seek(mark.n_bytes)
            file.truncate()
        for ids, counts in blocks.map(encode, skip=mark.n_blocks):
            content = ids.tobytes()
            file.write(content)
            mark = mark.after(content, counts)
            if mark.n_blocks % BLOCKS_PER_MARK == 0:
                _write_mark(path, file, mark)
    return mark.counts


def remove_marks(folder: Path) -> None:
    """Remove the marks of a folder whose splits are complete."""
    for path in folder.glob("*.mark"):
        path.unlink()


def is_marked(folder: Path) -> bool:
    """Return whether something in a folder is worth going on with."""
    return any(folder.glob("*.mark"))


def _write_mark(path: Path, file: BinaryIO, mark: _Mark) -> None:
    file.flush()
    os.fsync(file.fileno())
    write_json(path.with_suffix(".mark"), asdict(mark))


def _read_mark(path: Path) -> _Mark:
    """Return the mark of a file; the empty one where none fits what the file holds."""
    try:
        stored = read_json(path.with_suffix(".mark"))
        mark = _Mark(**{**stored, "counts": TextCounts(**stored["counts"])})
        same = _crc(path, mark.n_bytes) == mark.crc
    except (OSError, ValueError):
        return _Mark()
    return mark if same else _Mark()


def _crc(path: Path, n_bytes: int) -> int:
    crc = 0
    with path.open("rb") as file:
        while n_bytes and (piece := file.read(min(n_bytes, _PIECE_BYTES))):
            crc = zlib.crc32(piece, crc)
            n_bytes -= len(piece)
    return -1 if n_bytes else crc
