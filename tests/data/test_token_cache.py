"""The token cache: built once, named by what determines it, and never half there."""

import shutil
import threading
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
)
from trm_lightning.errors import UserError


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
    assert folder.name == f"small-{first.fingerprint}"

    def no_reading(self, split):
        raise AssertionError("the text was read again")

    monkeypatch.setattr(TextCorpus, "blocks", no_reading)
    second = ready(module(text_file))
    assert np.array_equal(second.splits["val"].tokens, first.splits["val"].tokens)
    assert second.tokenizer.state() == first.tokenizer.state()


@pytest.mark.parametrize("damage", ["truncate", "no meta", "bad meta", "no tokenizer"])
def test_a_damaged_cache_is_named_and_mended_by_deleting_it(text_file, damage):
    ready(module(text_file))
    (folder,) = cache_folders(text_file)
    if damage == "truncate":
        (folder / "val.bin").write_bytes((folder / "val.bin").read_bytes()[:-2])
    elif damage == "bad meta":
        (folder / "meta.json").write_text("{")
    else:
        (folder / f"{damage.split()[1]}.json").unlink()
    with pytest.raises(UserError) as error:
        ready(module(text_file))
    assert str(folder) in error.value.what and "rm -r" in error.value.hint
    shutil.rmtree(folder)
    ready(module(text_file))


def test_builders_at_the_same_time_leave_one_good_cache(text_file, monkeypatch):
    barrier = threading.Barrier(4)
    encode = CharacterTokenizer.encode

    def all_together(self, text):
        barrier.wait(timeout=20)
        return encode(self, text)

    monkeypatch.setattr(CharacterTokenizer, "encode", all_together)
    modules = [module(text_file) for _ in range(4)]
    threads = [threading.Thread(target=ready, args=(data,)) for data in modules]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache_folders(text_file)) == 1
    for data in modules:
        assert (
            data.tokenizer.decode(data.splits["val"].tokens.tolist())
            == TEXT[int(0.9 * len(TEXT)) :]
        )


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
    assert (tmp_path / "from_environment" / "tokens" / f"small-{data.fingerprint}").is_dir()


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
