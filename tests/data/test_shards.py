"""Shards as nanoGPT writes and reads them, in and out."""

import json
import math
import pickle

import numpy as np
import pytest
from conftest import Configure
from omegaconf import OmegaConf
from small_text import TEXT, module, ready

from trm_lightning.data import (
    BPETokenizer,
    CharacterTokenizer,
    IdTokenizer,
    ShardsDataModule,
    WordTokenizer,
    huggingface_tokenizer_json,
    write_shards,
)
from trm_lightning.data.command import prepare
from trm_lightning.errors import UserError
from trm_lightning.training.fit import train


class Explodes:
    def __reduce__(self):
        return pytest.fail, ("meta.pkl was read",)


@pytest.fixture
def nanogpt(tmp_path):
    """What nanoGPT's data/shakespeare_char/prepare.py does, with another text."""
    chars = sorted(set(TEXT))
    stoi = {ch: i for i, ch in enumerate(chars)}
    n = len(TEXT)
    for split, data in (("train", TEXT[: int(n * 0.9)]), ("val", TEXT[int(n * 0.9) :])):
        np.array([stoi[c] for c in data], dtype=np.uint16).tofile(tmp_path / f"{split}.bin")
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(Explodes()))
    return tmp_path, len(chars)


def shards(folder, vocab_size=None, **arguments) -> ShardsDataModule:
    return ready(ShardsDataModule(str(folder), 16, 4, vocab_size, **arguments))


def test_shards_of_nanogpt_are_read_as_nanogpt_reads_them(nanogpt):
    folder, vocab_size = nanogpt
    data = shards(folder, vocab_size)
    theirs = np.memmap(folder / "val.bin", dtype=np.uint16, mode="r")  # as its get_batch
    assert np.array_equal(data.splits["val"].tokens, theirs)
    assert data.vocab_size == vocab_size
    (folder / "text.txt").write_text(TEXT)
    ours = ready(module(folder / "text.txt"))
    for split in ("train", "val"):
        assert np.array_equal(ours.splits[split].tokens, data.splits[split].tokens)
    assert data.tokenizer.decode(theirs[:3]) == " ".join(map(str, theirs[:3]))
    assert data.splits["val"].counts.characters == len(theirs)


def test_training_on_shards_is_scored_over_every_token(configure: Configure, nanogpt):
    folder, vocab_size = nanogpt
    cfg = configure(
        "data=shards", f"data.path={folder}", f"data.vocab_size={vocab_size}", "model=ar",
        "data.window_size=16", "budget.steps=3", "eval_every=3", "test=false",
    )  # fmt: skip
    score = train(cfg)["final"]["val/ppl"]
    assert score["tokens"] == (folder / "val.bin").stat().st_size // 2
    assert 1 < score["perplexity"] < 10 * vocab_size
    bits = score["total_nats"] / math.log(2) / score["tokens"]
    assert score["bits_per_character"] == pytest.approx(bits)  # an id counts as a character


@pytest.mark.parametrize(
    "tokenizer", [CharacterTokenizer(), WordTokenizer(min_count=1), BPETokenizer(300)]
)
def test_shards_that_are_written_here_are_read_back(tmp_path, tokenizer):
    (tmp_path / "text.txt").write_text(TEXT)
    data = ready(module(tmp_path / "text.txt", tokenizer, split=(0.8, 0.1, 0.1)))
    files = write_shards(data, tmp_path / "shards")
    names = ["train.bin", "val.bin", "test.bin", "tokenizer.json"]
    assert [file.name for file in files] == names
    back = shards(tmp_path / "shards")
    assert back.tokenizer.state() == data.tokenizer.state()
    for name, split in data.splits.items():
        as_nanogpt = np.fromfile(tmp_path / "shards" / f"{name}.bin", dtype=np.uint16)
        assert np.array_equal(as_nanogpt, split.tokens)
        assert np.array_equal(back.splits[name].tokens, split.tokens)
        if tokenizer.kind != "words":  # whose text is not what was read
            assert back.splits[name].counts == split.counts


def test_the_command_writes_shards(configure: Configure, tmp_path, capsys):
    data = configure("data=builtin_char").data
    prepare(OmegaConf.create({"data": data, "shards": str(tmp_path / "out")}))
    printed = capsys.readouterr().out
    back = shards(tmp_path / "out")
    assert f"{back.splits['train'].n_tokens:,} tokens" in printed and "val.bin" in printed


def test_a_tokenizer_of_the_library_beside_shards_says_what_ids_mean(tmp_path):
    tokenizer = BPETokenizer(300).fit([TEXT], ())
    for split in ("train", "val"):
        tokenizer.encode(TEXT).astype(np.uint32).tofile(tmp_path / f"{split}.bin")
    (tmp_path / "tokenizer.json").write_text(huggingface_tokenizer_json(tokenizer))
    data = shards(tmp_path, dtype="uint32")
    assert data.tokenizer.decode(data.splits["val"].tokens) == TEXT
    assert data.splits["val"].counts.characters == len(TEXT)
    with pytest.raises(UserError, match="Leave both out"):
        shards(tmp_path, 77)


def test_a_tokenizer_that_could_be_code_is_not_loaded(tmp_path):
    state = {"kind": "os.system", "settings": {}, "fitted": {}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="not a tokenizer"):
        shards(tmp_path)


def test_bad_shards_are_named(nanogpt):
    folder, vocab_size = nanogpt
    with pytest.raises(UserError, match=r"vocab_size is not set"):
        shards(folder)
    with pytest.raises(UserError, match=rf"train\.bin holds the id {vocab_size - 1}"):
        shards(folder, vocab_size - 1)
    with pytest.raises(UserError, match=r"no ids of 4 bytes"):
        (folder / "train.bin").write_bytes(bytes(6))
        shards(folder, vocab_size, dtype="uint32")
    (folder / "val.bin").unlink()
    with pytest.raises(UserError, match=r"no shard .*val\.bin"):
        shards(folder, vocab_size)


def test_ids_without_a_tokenizer_are_written_as_numbers():
    ids = IdTokenizer(50, start_id=3)
    assert ids.decode(ids.encode("17 4\n49")) == "17 4 49" and ids.start_id == 3
    for text in ("17 word", "50", "-1"):
        with pytest.raises(UserError, match="not token ids from 0 to 49"):
            ids.encode(text)
