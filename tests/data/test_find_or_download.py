"""Published files: found, downloaded from a small server, checked."""

import hashlib
import http.server
import threading
import warnings
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trm_lightning.data import TextDataModule, TinyShakespeare, WhitespaceTokenizer, WikiText
from trm_lightning.data import wikitext as wikitext_module
from trm_lightning.errors import UserError

LINES = [" \n", " = Title = \n", " \n", " A <unk> of words . \n"] * 30
TEXT = {"train": "".join(LINES * 3), "val": "".join(LINES), "test": "".join(LINES[:40])}
PARQUET = {"train": "train", "val": "validation", "test": "test"}
TOKENS = {"train": "train", "val": "valid", "test": "test"}


class Handler(http.server.SimpleHTTPRequestHandler):
    failures = 0
    requests: list[str]

    def do_GET(self):
        type(self).requests.append(self.path)
        if Handler.failures > 0:
            Handler.failures -= 1
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *arguments):
        pass


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    monkeypatch.delenv("TRM_DATA_DIR", raising=False)
    monkeypatch.setenv("TRM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between two tries


@pytest.fixture
def server(tmp_path):
    """A folder, and the address that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    Handler.failures, Handler.requests = 0, []
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(folder))
    ) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


@pytest.fixture
def wikitext(server, monkeypatch):
    """The address of a small WikiText in the published form, pinned as published."""
    folder, address = server
    checksums: dict[str, list[str]] = {}
    for split, text in TEXT.items():
        # The published rows: a line with its line end, and "" for a blank one.
        rows = ["" if not line.strip() else line for line in text.splitlines(keepends=True)]
        parts = [rows[:100], rows[100:]] if split == "train" else [rows]
        checksums[split] = []
        for i, part in enumerate(parts):
            name = f"{PARQUET[split]}-{i:05d}-of-{len(parts):05d}.parquet"
            path = folder / "wikitext-2-v1" / name
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.table({"text": part}), path)
            checksums[split].append(hashlib.sha256(path.read_bytes()).hexdigest())
    counts = {split: len(text.split()) + text.count("\n") for split, text in TEXT.items()}
    monkeypatch.setitem(wikitext_module.PARQUET_SHA256, (2, "v1"), checksums)
    monkeypatch.setitem(wikitext_module.N_TOKENS, (2, "v1"), counts)
    return address


def module(address: str, **arguments) -> TextDataModule:
    corpus = WikiText(2, base_url=address, **arguments)
    return TextDataModule("wikitext2", corpus, WhitespaceTokenizer(), 8, 2)


def put_text_files(folder: Path) -> None:
    for split, text in TEXT.items():
        path = folder / "wikitext-2" / f"wiki.{TOKENS[split]}.tokens"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_parquet_is_downloaded_once_and_gives_the_published_text(wikitext, capfd):
    data = module(wikitext)
    data.prepare_data()
    for split, text in TEXT.items():
        assert "".join(data.corpus.blocks(split)) == text
        assert data.splits[split].n_tokens == len(text.split()) + text.count("\n")
        assert data.splits[split].counts.characters == len(text)
    assert "100%" in capfd.readouterr().err  # the progress bar
    assert len(Handler.requests) == 4
    again = module(wikitext)
    again.prepare_data()
    assert len(Handler.requests) == 4 and again.fingerprint == data.fingerprint


def test_text_files_at_hand_come_first(wikitext, tmp_path, monkeypatch):
    put_text_files(tmp_path / "data")
    monkeypatch.setenv("TRM_DATA_DIR", str(tmp_path / "data"))
    data = module(wikitext)
    with pytest.warns(UserWarning) as caught:
        data.prepare_data()
    changed = [Path(str(w.message).split(" is not the published file")[0]).name for w in caught]
    assert changed == ["wiki.valid.tokens", "wiki.test.tokens"]
    assert not Handler.requests
    assert "".join(data.corpus.blocks("train")) == TEXT["train"]


def test_a_server_that_fails_twice_is_asked_again(wikitext):
    Handler.failures = 2
    module(wikitext).prepare_data()
    assert len(Handler.requests) == 6


def test_a_download_that_differs_is_refused_and_not_kept(wikitext, server, tmp_path):
    served = server[0] / "wikitext-2-v1" / "validation-00000-of-00001.parquet"
    served.write_bytes(served.read_bytes() + b"x")
    with pytest.raises(UserError, match="does not have the published checksum") as error:
        module(wikitext).prepare_data()
    assert served.name in error.value.what and "data=builtin_word" in error.value.hint
    kept = [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert all(name.startswith("train-") for name in kept) and len(kept) == 2


def test_a_missing_network_says_what_to_do(tmp_path):
    corpus = TinyShakespeare(base_url="http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"tinyshakespeare/input\.txt .*127\.0\.0\.1:9") as error:
        corpus.prepare(tmp_path / "cache")
    hint = error.value.hint
    assert str(tmp_path / "cache" / "downloads" / "tinyshakespeare" / "input.txt") in hint
    assert "TRM_DATA_DIR" in hint and "data=builtin_word" in hint


def test_a_file_put_where_the_hint_says_is_found(wikitext, server, tmp_path):
    target = tmp_path / "cache" / "downloads" / "wikitext-2-v1"
    target.mkdir(parents=True)
    for path in (server[0] / "wikitext-2-v1").iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    data = module("http://127.0.0.1:9")
    data.prepare_data()
    assert data.splits["train"].n_tokens == 1_080


def test_word_counts_that_differ_are_an_error_in_a_download(wikitext, monkeypatch):
    wrong = wikitext_module.N_TOKENS[2, "v1"] | {"train": 1_000}
    monkeypatch.setitem(wikitext_module.N_TOKENS, (2, "v1"), wrong)
    with pytest.raises(UserError, match=r"train split of WikiText-2 has 1,080 .*1,000.*\+80"):
        module(wikitext).prepare_data()


def test_word_counts_that_differ_are_a_warning_in_a_file_at_hand(wikitext, tmp_path, monkeypatch):
    put_text_files(tmp_path / "data")
    train = tmp_path / "data" / "wikitext-2" / "wiki.train.tokens"
    train.write_text(TEXT["train"] + " one more \n")
    monkeypatch.setenv("TRM_DATA_DIR", str(tmp_path / "data"))
    with pytest.warns(UserWarning) as caught:
        module(wikitext).prepare_data()
    assert any("difference +3" in str(w.message) and str(train) in str(w.message) for w in caught)


def test_a_published_file_at_hand_gives_no_warning(wikitext, server, monkeypatch):
    monkeypatch.setenv("TRM_DATA_DIR", str(server[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = module("http://127.0.0.1:9")
        data.prepare_data()
    assert data.splits["train"].n_tokens == 1_080


def test_a_broken_parquet_file_is_named(wikitext, server, monkeypatch):
    path = server[0] / "wikitext-2-v1" / "test-00000-of-00001.parquet"
    path.write_bytes(b"no parquet")
    monkeypatch.setenv("TRM_DATA_DIR", str(server[0]))
    with pytest.warns(UserWarning), pytest.raises(UserError, match="cannot be read as parquet"):
        module(wikitext).prepare_data()


def test_a_data_folder_that_does_not_exist_is_named(wikitext, tmp_path, monkeypatch):
    monkeypatch.setenv("TRM_DATA_DIR", str(tmp_path / "no_such"))
    with pytest.raises(UserError, match=r"TRM_DATA_DIR names .*no_such"):
        module(wikitext).prepare_data()


def test_sizes_and_variants_are_checked():
    with pytest.raises(UserError, match="no WikiText-3 in variant 'v2'"):
        WikiText(3, "v2")
