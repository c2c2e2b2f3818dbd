"""Parquet files: read in bounded memory, and refused where they are not WikiText's."""

import importlib.util
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trm_lightning.data import WikiText, parquet_text
from trm_lightning.data.parquet_text import read_parquet_lines
from trm_lightning.errors import UserError


def written(folder: Path, column: object, name: str = "text", **settings: object) -> Path:
    path = folder / "text.parquet"
    pq.write_table(pa.table({name: column}), path, **settings)
    return path


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_rows_are_lines(tmp_path: Path, kind: pa.DataType) -> None:
    rows = ["", " = T = \n", "one", "", "one"] * 3000
    path = written(tmp_path, pa.array(rows, kind))
    assert "".join(read_parquet_lines(path)) == " \n = T = \none\n \none\n" * 3000


@pytest.mark.parametrize(
    ("column", "name"),
    [([1, 2], "text"), (["a"], "other"), ([b"a"], "text"), ([["a"]], "text")],
)
def test_a_column_that_is_no_text_is_refused(tmp_path: Path, column: list, name: str) -> None:
    path = written(tmp_path, column, name)
    with pytest.raises(UserError, match="no column of strings named text") as error:
        list(read_parquet_lines(path))
    assert str(path) in error.value.what


def test_a_row_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a row has no text"):
        list(read_parquet_lines(written(tmp_path, ["a", None])))


def test_a_small_file_that_repeats_a_long_text_takes_little_memory(tmp_path: Path) -> None:
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int32()), ["x" * 1_000_000])
    path = written(tmp_path, rows, compression="zstd")
    assert path.stat().st_size < 10_000
    tracemalloc.start()
    n = sum(map(len, read_parquet_lines(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 500 * 1_000_001 and peak < 20e6


@pytest.mark.parametrize("limit", ["MOST_BYTES_OF_A_ROW_GROUP", "MOST_BYTES_OF_A_CELL"])
def test_a_small_file_that_holds_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    path = written(tmp_path, ["x" * 1_000_000], compression="zstd", use_dictionary=False)
    assert sum(map(len, read_parquet_lines(path))) == 1_000_001
    monkeypatch.setattr(parquet_text, limit, 999_999)
    with pytest.raises(UserError, match="over 999,999") as error:
        list(read_parquet_lines(path))
    assert str(path) in error.value.what


def test_without_pyarrow_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("TRM_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match="pyarrow") as error:
        WikiText().prepare(tmp_path)  # before anything is downloaded
    assert error.value.hint == "pip install 'trm-lightning[parquet]'"
