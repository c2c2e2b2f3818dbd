"""The token cache: built once, named by what determines it, and never half there."""

import logging
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from small_text import TEXT, cache_folders, module, ready

from trm_lightning.data import (
    CharacterTokenizer,
    TextCorpus,
    TextDataModule,
    WhitespaceTokenizer,
    WordTokenizer,
    token_cache,
)
from trm_lightning.data.build_lock import building
from trm_lightning.data.cache_builder import Builder
from trm_lightning.errors import UserError
from trm_lightning.files import partial_folder


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_more_than_65536_tokens_take_32_bits(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(map(str, range(80_000))))
    data = ready(module(path, WhitespaceTokenizer()))
    tokens = data.splits["train"].tokens
    assert tokens.dtype == np.uint32 and data.vocab_size > 1 << 16
    assert path.read_text().startswith(data.tokenizer.decode(tokens[:70_000].tolist()))


def test_fingerprint_says_what_determines_the_ids(text_file, tmp_path):
    first = ready(module(text_file)).fingerprint
    moved = tmp_path / "elsewhere.txt"
    shutil.copy(text_file, moved)
    same = [
        module(moved),
        module(text_file, window_size=8, batch_size=2, seed=9, windows="random"),
    ]
    assert {ready(data).fingerprint for data in same} == {first}
    changed = tmp_path / "changed.txt"
    changed.write_text(TEXT[:-1] + "!")
    different = [
        module(changed),
        module(text_file, split=(0.8, 0.2)),
        module(text_file, CharacterTokenizer(min_count=2)),
        module(text_file, WordTokenizer()),
    ]
    assert len({first} | {ready(data).fingerprint for data in different}) == 5


def test_the_cache_is_built_once(text_file, monkeypatch):
    first = ready(module(text_file))
    (folder,) = cache_folders(text_file)
    assert folder.name.startswith(f"small-{first.fingerprint}-")

    def no_reading(self, split):
        raise AssertionError("the text was read again")

    monkeypatch.setattr(TextCorpus, "blocks", no_reading)
    second = ready(module(text_file))
    assert np.array_equal(second.splits["val"].tokens, first.splits["val"].tokens)
    assert second.tokenizer.state() == first.tokenizer.state()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flip": flip,
    "truncate": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "zero": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "delete": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["train.bin", "val.bin", "tokenizer.json", "meta.json"])
def test_a_damaged_cache_is_named_and_built_again(text_file, name, damage, caplog):
    before = contents(ready(module(text_file)))
    (folder,) = cache_folders(text_file)
    DAMAGES[damage](folder / name)
    assert contents(ready(module(text_file))) == before
    assert len(caplog.messages) == 1 and str(folder / name) in caplog.messages[0]
    ready(module(text_file))
    assert len(caplog.messages) == 1 and cache_folders(text_file) == [folder]


def contents(data: TextDataModule) -> tuple:
    ids = {name: (split.tokens.tolist(), split.counts) for name, split in data.splits.items()}
    return ids, data.tokenizer.state(), data.fingerprint, data.ids_digest


def test_a_file_in_the_place_of_the_cache_is_replaced(text_file, caplog):
    ready(module(text_file))
    (folder,) = cache_folders(text_file)
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    ready(module(text_file))
    assert folder.is_dir() and len(caplog.messages) == 1


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".x", "", "x\n", "x" * 101, "C:\\x"])
def test_a_name_that_leaves_the_cache_folder_is_refused(text_file, name):
    data = {"window_size": 16, "batch_size": 4, "cache_dir": str(text_file.parent)}
    with pytest.raises(UserError, match="it must be a short name"):
        TextDataModule(name, TextCorpus(str(text_file)), CharacterTokenizer(), **data)


def test_builders_at_the_same_time_build_once(text_file, monkeypatch, caplog):
    """They meet in encode(), if more than one gets there; later ones open the first one's cache."""
    built = []
    build = Builder.build

    def slowly(self, folder):
        built.append(folder)
        time.sleep(0.5)
        build(self, folder)

    monkeypatch.setattr(Builder, "build", slowly)
    modules = [module(text_file) for _ in range(4)]
    threads = [threading.Thread(target=ready, args=(data,)) for data in modules]
    with caplog.at_level(logging.INFO, logger="trm_lightning"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(built) == 1 and sum("waiting" in message for message in caplog.messages) == 3
    assert len(cache_folders(text_file)) == 1  # and no lock
    assert len({str(contents(data)) for data in modules}) == 1


def test_the_next_build_removes_what_killed_builders_left(text_file):
    tokens = text_file.parent / "cache" / "tokens"
    week_old, useful = tokens / ".old-0.partial", tokens / ".useful-0.partial"
    for partial in (tokens / ".small-0.partial", week_old, useful):
        partial.mkdir(parents=True)
        (partial / "train.bin").write_bytes(b"0")
    for partial in (week_old, useful):
        (partial / "train.mark").write_bytes(b"0")
    os.utime(week_old, (0, time.time() - 8 * 24 * 3600))
    (tokens / ".small-0.lock").touch()
    with building(tokens / "other-0-1"):  # its builder lives
        in_use = tokens / ".other-0-1.partial"
        in_use.mkdir()
        thread = threading.Thread(target=ready, args=(module(text_file),))
        thread.start()
        thread.join()
        left = [path for path in cache_folders(text_file) if path.name.startswith(".")]
        assert left == [tokens / ".other-0-1.lock", in_use, useful]
    ready(module(text_file, CharacterTokenizer(min_count=2)))
    assert [p for p in cache_folders(text_file) if p.name.startswith(".")] == [useful]


def test_a_build_that_was_killed_just_before_its_end_is_built_again(text_file):
    """All files are there, meta.json among them, but the folder has not got its name."""
    whole = contents(ready(module(text_file)))
    (folder,) = cache_folders(text_file)
    folder.rename(partial_folder(folder))
    assert contents(ready(module(text_file))) == whole
    assert cache_folders(text_file) == [folder]


def test_a_good_cache_is_opened_without_a_lock(text_file, monkeypatch):
    locked = []
    build = token_cache.building

    def noted(folder):
        locked.append(folder)
        return build(folder)

    monkeypatch.setattr(token_cache, "building", noted)
    ready(module(text_file))
    assert len(locked) == 1  # for the first, which builds it
    ready(module(text_file))
    assert len(locked) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_and_nothing_is_left(text_file, monkeypatch):
    path_open = Path.open

    def full(self, mode="r", *arguments, **keywords):
        is_ids = mode == "wb" and self.suffix == ".bin"
        return path_open(Path("/dev/full") if is_ids else self, mode, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match="the disk is full") as error:
        ready(module(text_file))
    assert "TRM_CACHE_DIR" in error.value.hint
    assert cache_folders(text_file) == []


def test_an_interrupted_build_leaves_nothing(text_file, monkeypatch):
    def interrupt(self, text):
        raise KeyboardInterrupt

    monkeypatch.setattr(CharacterTokenizer, "encode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ready(module(text_file))
    assert cache_folders(text_file) == []


def test_a_cache_folder_that_is_a_file_is_reported(text_file):
    (text_file.parent / "cache").write_text("")
    with pytest.raises(UserError, match="Cannot write to"):
        ready(module(text_file))


def test_the_cache_folder_comes_from_the_environment(text_file, tmp_path, monkeypatch):
    monkeypatch.setenv("TRM_CACHE_DIR", str(tmp_path / "from_environment"))
    data = TextDataModule("small", TextCorpus(str(text_file)), CharacterTokenizer(), 16, 4)
    data.prepare_data()
    assert list((tmp_path / "from_environment" / "tokens").glob(f"small-{data.fingerprint}-*"))


def test_scrambled_validation_has_the_alphabet_of_its_own_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcdef" * 30 + "bdf" * 6 + "bd")
    data = ready(module(path, scrambled_validation_alphabet=True))
    val, scrambled = data.splits["val"], data.splits["val_scrambled"]
    own = sorted(set("bdf"))
    assert "".join(own[i] for i in scrambled.tokens) == data.tokenizer.decode(val.tokens.tolist())
    assert not np.array_equal(val.tokens, scrambled.tokens)
    plain, other = data.val_dataloader()
    assert plain.tokens is val.tokens and other.tokens is scrambled.tokens
    one_split = ready(module(path))
    assert one_split.val_dataloader().tokens.tolist() == val.tokens.tolist()
    assert one_split.fingerprint == data.fingerprint  # the other splits are the same text


def test_scrambled_ids_must_fit_the_vocabulary(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("ab" * 90 + "cdefghijkl" * 2)
    with pytest.raises(UserError, match="10 different characters"):
        ready(module(path, scrambled_validation_alphabet=True))
