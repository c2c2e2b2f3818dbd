"""A build that was stopped goes on where its marks say, if the file holds what they say."""

import pytest
from small_text import TEXT, cache_folders, module, ready

from trm_lightning.data import WordTokenizer, corpus, split_writer
from trm_lightning.data.text_stream import safe_blocks
from trm_lightning.data.word_tokenizers import WordTokenizer as Words


@pytest.fixture
def text_file(tmp_path, monkeypatch):
    """A text of many small blocks, with a mark after every second one."""
    monkeypatch.setattr(split_writer, "BLOCKS_PER_MARK", 2)
    monkeypatch.setattr(corpus, "safe_blocks", lambda pieces: safe_blocks(pieces, 200))
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def interrupt_after(monkeypatch, n_blocks: int | None) -> list[str]:
    """Let the tokenizer end the process after so many blocks; return those it has encoded."""
    encoded: list[str] = []
    encode = Words.encode

    def counted(self, text):
        if len(encoded) == n_blocks:
            raise KeyboardInterrupt
        encoded.append(text)
        return encode(self, text)

    monkeypatch.setattr(Words, "encode", counted)
    return encoded


def contents(data) -> tuple:
    counts = {name: split.counts for name, split in data.splits.items()}
    return data.ids_digest, counts, data.tokenizer.state()


@pytest.fixture
def whole(text_file):
    data = contents(ready(module(text_file, WordTokenizer())))
    (folder,) = cache_folders(text_file)
    folder.rename(text_file.parent / "whole")
    return data


def stopped(text_file, n_blocks: int):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, n_blocks)
        ready(module(text_file, WordTokenizer()))
    (folder,) = cache_folders(text_file)
    assert folder.suffix == ".partial"
    return folder


def test_a_stopped_build_goes_on_after_the_last_mark(text_file, whole, monkeypatch):
    stopped(text_file, 7)
    monkeypatch.setattr(WordTokenizer, "fit", lambda *_: pytest.fail("it was fitted again"))
    rest = interrupt_after(monkeypatch, None)
    assert contents(ready(module(text_file, WordTokenizer()))) == whole
    blocks = list(safe_blocks([TEXT[: len(TEXT) * 9 // 10]], 200))
    assert rest[: len(blocks) - 6] == blocks[6:]
    (folder,) = cache_folders(text_file)
    names = {path.name for path in folder.iterdir()}
    assert names == {"meta.json", "tokenizer.json", "train.bin", "val.bin"}


@pytest.mark.parametrize("damage", ["flip", "truncate", "mark", "no mark"])
def test_ids_that_are_not_those_marked_are_made_again(text_file, whole, monkeypatch, damage):
    folder = stopped(text_file, 7)
    ids, mark = folder / "train.bin", folder / "train.mark"
    content = bytearray(ids.read_bytes())
    content[3] ^= 1
    if damage == "flip":
        ids.write_bytes(content)
    elif damage == "truncate":
        ids.write_bytes(content[:10])
    elif damage == "mark":
        mark.write_text(mark.read_text().replace('"n_blocks": 6', '"n_blocks": 4'))
    else:
        mark.unlink()
    encoded = interrupt_after(monkeypatch, None)
    assert contents(ready(module(text_file, WordTokenizer()))) == whole
    assert TEXT.startswith(encoded[0])
