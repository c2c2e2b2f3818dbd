"""Read WikiText's parquet files as a stream of text, in bounded memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trm_lightning.errors import UserError

# A few kilobytes can declare gigabytes. No published file holds this much, let alone a part of it.
MOST_BYTES_OF_A_ROW_GROUP = 1 << 29
MOST_BYTES_OF_A_CELL = 1 << 24
_NO_TEXT = "it has no column of strings named text"
_ROWS_AT_A_TIME = 4096
_PIECE_CHARACTERS = 1 << 20


def read_parquet_lines(path: Path) -> Iterator[str]:
    """Yield the text of a WikiText parquet file, equal to that of the published ``.tokens`` file.

    A row of the column ``text`` is a line, with or without line end; "" is the line " ".

    Raises:
        UserError: the file is not parquet, has no such column of text, or is too large unpacked.
    """
    import pyarrow.parquet as pq

    # As a dictionary, a text that many rows repeat is held once.
    with _parquet_errors(path), pq.ParquetFile(path, read_dictionary=["text"]) as file:
        _check(path, file)
        piece, size = [], 0
        for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=["text"]):
            for row in _rows(path, batch.column("text")):
                line = row if row.endswith("\n") else (row or " ") + "\n"
                piece.append(line)
                size += len(line)
                if size >= _PIECE_CHARACTERS:
                    yield "".join(piece)
                    piece, size = [], 0
        yield "".join(piece)


def parquet_text_bytes(path: Path) -> int:
    """Return about how many bytes of text a parquet file holds.

    Raises:
        UserError: the file is not parquet.
    """
    import pyarrow.parquet as pq

    with _parquet_errors(path):
        return sum(_row_group_bytes(pq.read_metadata(path)))


def _row_group_bytes(metadata: Any) -> list[int]:
    return [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]


def _check(path: Path, file: Any) -> None:
    """Check what the file says of itself, before any of it is unpacked."""
    import pyarrow as pa

    kinds = [pa.dictionary(pa.int32(), kind()) for kind in (pa.string, pa.large_string)]
    if file.schema_arrow.field("text").type not in kinds:
        raise _unreadable(path, _NO_TEXT)
    largest = max(_row_group_bytes(file.metadata), default=0)
    if largest > MOST_BYTES_OF_A_ROW_GROUP:
        raise _unreadable(
            path, f"a row group has {largest:,} bytes, over {MOST_BYTES_OF_A_ROW_GROUP:,}"
        )


def _rows(path: Path, column: Any) -> Iterator[str]:
    import pyarrow.compute as pc

    if column.null_count:
        raise _unreadable(path, "a row has no text")
    longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
    if longest > MOST_BYTES_OF_A_CELL:
        raise _unreadable(path, f"a row has {longest:,} bytes, over {MOST_BYTES_OF_A_CELL:,}")
    texts = column.dictionary.to_pylist()
    for index in column.indices.to_pylist():
        yield texts[index]


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error).rstrip(".")) from error
    except KeyError as error:  # how pyarrow says that a column is missing
        raise _unreadable(path, _NO_TEXT) from error


def _unreadable(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} cannot be read as parquet: {why}.",
        "Delete the file; the published one is downloaded where there is none.",
    )
