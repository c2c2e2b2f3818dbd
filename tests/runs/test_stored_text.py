"""Text files of a stranger's run folder: bounded, in UTF-8, and without control characters."""

import json
from pathlib import Path

import pytest

from trm_lightning.errors import UserError
from trm_lightning.runs import stored_text
from trm_lightning.runs.history import append_line, drop_lines_after, read_lines
from trm_lightning.runs.stored_text import read_bytes, read_json, read_text, read_yaml_list

LINES = [{"step": k, "tokens": 10 * k, "seconds": 0.5 * k, "val/ppl": 9.0} for k in (1, 2, 3)]


def history(folder: Path, *extra: str | bytes) -> Path:
    texts = [json.dumps(line).encode() for line in LINES]
    texts += [text.encode() if isinstance(text, str) else text for text in extra]
    (folder / "metrics.jsonl").write_bytes(b"\n".join(texts))
    return folder / "metrics.jsonl"


@pytest.mark.parametrize("deep", ["[" * 100_000 + "]" * 100_000, '{"a":' * 40 + "1" + "}" * 40])
def test_deep_nesting_is_refused(tmp_path: Path, deep: str) -> None:
    (tmp_path / "deep.json").write_text(deep)
    with pytest.raises(UserError, match="nested too deeply"):
        read_json(tmp_path / "deep.json")
    with pytest.raises(UserError, match=r"line 4, .*nested too deeply"):
        read_lines(history(tmp_path, deep, "{}"))
    (tmp_path / "deep.yaml").write_text(deep)
    with pytest.raises(UserError, match=r"deep\.yaml"):
        read_yaml_list(tmp_path / "deep.yaml")


def test_large_files_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "large.json"
    with file.open("wb") as stream:
        stream.truncate(stored_text.MOST_BYTES + 1)
    for read in (read_json, read_text, read_bytes, read_yaml_list):
        with pytest.raises(UserError, match="is larger than"):
            read(file)
    path = history(tmp_path)
    monkeypatch.setattr(stored_text, "MOST_LINES_BYTES", path.stat().st_size - 1)
    with pytest.raises(UserError, match="is larger than"):
        read_lines(path)


def test_control_characters_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text('{"na\\u001bme": ["\\u009b2J\\n", "\\ud800", "\u009d0;title\\u0007"]}')
    assert read_json(file) == {"na\\x1bme": ["\\x9b2J\n", "\\ud800", "\\x9d0;title\\x07"]}
    file.write_bytes(b"a\x1b[31m\tb\r\n\xff")
    assert read_text(file, errors="replace") == "a\\x1b[31m\tb\\x0d\n\ufffd"
    with pytest.raises(UserError, match="no UTF-8"):
        read_text(file)


def test_a_link_that_leads_elsewhere_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "own").write_text("{}")
    for name in ("secret", "own"):
        (tmp_path / "run" / f"{name}.json").symlink_to(
            tmp_path / name if name == "secret" else "own"
        )
    assert read_json(tmp_path / "run" / "own.json") == {}
    with pytest.raises(UserError, match="leads out of its folder"):
        read_json(tmp_path / "run" / "secret.json")


@pytest.mark.parametrize("text", ["- 1\n", "a: b\n", "- [x]\n", "", "- !!python/name:os.system\n",
                                  "- 'a", "&a [*a]\n"])  # fmt: skip
def test_overrides_are_a_list_of_words(tmp_path: Path, text: str) -> None:
    file = tmp_path / "overrides.yaml"
    file.write_text("- model=ar\n- 'seed=1'\n")
    assert read_yaml_list(file) == ["model=ar", "seed=1"]
    file.write_text(text)
    with pytest.raises(UserError, match=r"overrides\.yaml"):
        read_yaml_list(file)


def test_a_history_is_read_but_for_a_last_line_cut_short(tmp_path: Path) -> None:
    assert read_lines(history(tmp_path)) == LINES
    for cut in ('{"step": 4, "tok', b'{"step\xc3', b"\x00\x00\x00"):
        path = history(tmp_path, cut)
        assert read_lines(path) == LINES
    assert drop_lines_after(path, 2) == LINES[:2] == read_lines(path)
    append_line(path, LINES[2])
    assert read_lines(path) == LINES


@pytest.mark.parametrize(
    ("line", "told"),
    [(b"\xff\xfe", "line 4"), ("7", "line 4, is damaged: it must be an object"),
     ("{}", "it lacks step"),
     ('{"step": null, "tokens": 1, "seconds": 1}', "step must be a whole number"),
     ('{"step": 4, "tokens": 1, "seconds": 1, "x": "y"}', "x must be a number")],
)  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, line: str | bytes, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_lines(history(tmp_path, line, json.dumps(LINES[0])))
