"""Writing: links are never followed, and a disk that takes nothing is told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trm_lightning.errors import UserError
from trm_lightning.files import append_text, make_folder, write_json, write_text

WRITERS: dict[str, Callable[[Path], None]] = {
    "write": lambda path: write_text(path, "x"),
    "json": lambda path: write_json(path, {"x": "\ud800"}),
    "append": lambda path: append_text(path, "x"),
    "folder": make_folder,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_replaced_or_refused_and_never_followed(
    tmp_path: Path, name: str, there: bool
) -> None:
    target, link = tmp_path / "elsewhere", tmp_path / "run.txt"
    if there:
        target.write_text("kept")
    link.symlink_to(target)
    if name in ("append", "folder"):
        with pytest.raises(UserError, match=r"run\.txt"):
            WRITERS[name](link)
    else:
        WRITERS[name](link)
        assert not link.is_symlink()
    assert target.exists() == there and (not there or target.read_text() == "kept")


@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_written_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below", Path("/proc/nothing")):
        with pytest.raises(UserError, match="could not be written"):
            WRITERS[name](path)
