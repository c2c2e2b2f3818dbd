"""``results.json`` read back: whole, ours and of this version, or one clear line."""

import json
from pathlib import Path
from typing import Any

import pytest

from trm_lightning.errors import UserError
from trm_lightning.runs.checkpoint_file import FORMAT
from trm_lightning.runs.results_file import KEYS, read_results

WHOLE: dict[str, Any] = dict.fromkeys(KEYS, 1) | {"format": FORMAT}


def write(folder: Path, content: Any) -> Path:
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def test_results_of_this_version_are_read(tmp_path: Path) -> None:
    assert read_results(write(tmp_path, WHOLE)) == WHOLE


@pytest.mark.parametrize(
    ("found", "reader"),
    [(None, "0.1.0 (commit 872299a)"), (1, "0.1.0 (commit 872299a)"),
     (FORMAT - 1, "0.1.0 (commit 6b1c55c)"), (FORMAT + 1, "a newer version"),
     ([FORMAT], "a newer version")],
)  # fmt: skip
def test_other_formats_are_refused_with_the_version_that_reads_them(
    tmp_path: Path, found: Any, reader: str
) -> None:
    content = {k: v for k, v in (WHOLE | {"format": found}).items() if v is not None}
    with pytest.raises(UserError) as caught:
        read_results(write(tmp_path, content))
    assert reader in caught.value.what and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(KEYS - {"final", "config"}))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    content = {k: v for k, v in WHOLE.items() if k != key}
    with pytest.raises(UserError, match=rf"results\.json lacks {key}\.") as caught:
        read_results(write(tmp_path, content))
    assert "Train" in caught.value.hint


@pytest.mark.parametrize("content", [[], 7, None, {"accuracy": 1}])
def test_other_programs_files_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(UserError, match="not written by trm_lightning"):
        read_results(write(tmp_path, content))


def test_damage_is_told(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"final": ')
    with pytest.raises(UserError, match="cannot be read"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_results(tmp_path)
