"""Text of the user's own: files, folders, and what is said of bad ones."""

import pytest
from small_text import TEXT, module, ready

from trm_lightning.data import (
    TextCorpus,
    TinyShakespeare,
    WordTokenizer,
    text_data,
)
from trm_lightning.errors import UserError


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_files_of_a_folder_are_read_in_order_with_line_ends_between(tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "2.txt").write_bytes(b"second\r\nfile")
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbffirst \xc3\xa9")
    (folder / "c.txt").write_text("third\n" * 20)
    (folder / "note.md").write_text("not read")
    data = ready(module(folder))
    text = "".join(data.tokenizer.decode(s.tokens.tolist()) for s in data.splits.values())
    assert text == "first é\nsecond\nfile\n" + "third\n" * 20


@pytest.mark.parametrize("at", [5, (1 << 20) - 1, (1 << 20) + 17])
def test_a_byte_that_is_not_utf8_is_named(tmp_path, at):
    path = tmp_path / "text.txt"
    text = ("é" * (1 << 20)).encode()[: at - at % 2] + b"\xffabc"
    path.write_bytes(text)
    with pytest.raises(UserError) as error:
        ready(module(path))
    assert str(path) in error.value.what and f"0xff at offset {text.index(255)}" in error.value.what


def test_text_that_is_cut_within_a_character_at_its_end_is_named(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"abc\xc3")
    with pytest.raises(UserError, match="0xc3 at offset 3"):
        ready(module(path))


def test_missing_empty_and_short_texts_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no file or folder .*nowhere\.txt"):
        ready(module(tmp_path / "nowhere.txt"))
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(UserError, match=r"empty\.txt holds no text"):
        ready(module(empty))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(UserError, match=r"folder matches '\*\.txt'"):
        ready(module(folder))
    short = tmp_path / "short.txt"
    short.write_text("x" * 20)
    with pytest.raises(UserError, match="18 tokens, fewer than one window of 19"):
        ready(module(short, window_size=19))
    ready(module(short, window_size=18))
    short.write_text("x y z ")
    with pytest.raises(UserError, match="val split of small holds no tokens"):
        ready(module(short, WordTokenizer()))


@pytest.mark.parametrize("split", [(1.0,), (0.9, 0.2), (1.0, 0.0), (0.5, 0.2, 0.2, 0.1), "90%"])
def test_bad_fractions_are_named(split):
    with pytest.raises(UserError, match="sum to 1"):
        TinyShakespeare(split)


@pytest.mark.parametrize("level", ["char", "word", "bpe"])
def test_text_of_ones_own_at_every_level(text_file, tmp_path, level):
    data = ready(
        text_data(str(text_file), level, 16, 4, vocab_size=300, cache_dir=str(tmp_path / "cache"))
    )
    assert next(iter(data.train_batches(1))).shape == (4, 16)
    with pytest.raises(UserError, match="char, word, bpe"):
        text_data(str(text_file), "sentence", 16, 4)


def test_a_glob_and_a_list_of_files_are_read_in_order(tmp_path):
    for name in ("a/1.txt", "a/b/2.txt", "c.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}\n" * 20)

    def text_of(path) -> str:
        corpus = TextCorpus(path, (0.5, 0.5))
        corpus.prepare(tmp_path)
        return "".join(block for split in ("train", "val") for block in corpus.blocks(split))

    one, two, three = (f"text of {name}\n" * 20 for name in ("a/1.txt", "a/b/2.txt", "c.md"))
    assert text_of(str(tmp_path / "**" / "*.txt")) == one + two
    assert text_of([str(tmp_path / "c.md"), str(tmp_path / "a")]) == three + one + two
    with pytest.raises(UserError, match=r"no file or folder .*\*\.nothing"):
        text_of(str(tmp_path / "*.nothing"))
