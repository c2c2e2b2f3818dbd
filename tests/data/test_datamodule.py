"""The data module: from text to batches, through its cache, and what it says of bad input."""

import json
import re
import shutil
import threading
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch

from trm_lightning.data import (
    CharacterTokenizer,
    TextCorpus,
    TextDataModule,
    TinyShakespeare,
    WhitespaceTokenizer,
    WordTokenizer,
    text_data,
)
from trm_lightning.errors import UserError

TEXT = "".join(f"line {i} of a text that has {i * i} words.\n" for i in range(60))


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def module(path, tokenizer=None, split=(0.9, 0.1), **arguments) -> TextDataModule:
    arguments = {"window_size": 16, "batch_size": 4} | arguments
    cache_dir = Path(path).parent / "cache"
    corpus = TextCorpus(str(path), split)
    tokenizer = tokenizer or CharacterTokenizer()
    return TextDataModule("small", corpus, tokenizer, cache_dir=str(cache_dir), **arguments)


def ready(data: TextDataModule) -> TextDataModule:
    data.prepare_data()
    data.setup()
    return data


def cache_folders(path) -> list[Path]:
    return sorted((path.parent / "cache" / "tokens").iterdir())


def test_splits_hold_the_text_in_order(text_file):
    data = ready(module(text_file, split=(0.8, 0.1, 0.1)))
    n = len(TEXT)
    parts = {
        "train": TEXT[: int(0.8 * n)],
        "val": TEXT[int(0.8 * n) : int(0.9 * n)],
        "test": TEXT[int(0.9 * n) :],
    }
    assert list(data.splits) == list(parts)
    for name, part in parts.items():
        split = data.splits[name]
        assert isinstance(split.tokens, np.memmap) and split.tokens.dtype == np.uint16
        assert data.tokenizer.decode(split.tokens.tolist()) == part
        assert (split.n_tokens, split.counts.characters) == (len(part), len(part))
        assert (split.counts.words, split.counts.unknown) == (len(part.split()), 0)
        assert split.entropy_floor_nats is None


def test_unknown_words_are_counted(text_file):
    data = ready(module(text_file, WordTokenizer(min_count=2)))
    for split in data.splits.values():
        assert split.counts.unknown == (split.tokens == 1).sum() > 0


def test_more_than_65536_tokens_take_32_bits(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(map(str, range(80_000))))
    data = ready(module(path, WhitespaceTokenizer()))
    tokens = data.splits["train"].tokens
    assert tokens.dtype == np.uint32 and data.vocab_size > 1 << 16
    assert path.read_text().startswith(data.tokenizer.decode(tokens[:70_000].tolist()))


def test_batches_are_windows_of_the_training_split(text_file):
    data = ready(module(text_file))
    train = data.tokenizer.decode(data.splits["train"].tokens.tolist())
    batches = data.train_batches(5)
    assert len(batches) == 5
    for batch in batches:
        assert batch.shape == (4, 16)
        assert all(data.tokenizer.decode(row.tolist()) in train for row in batch)
    assert data.tokens_per_epoch == (len(train) - 15) // 16 * 16
    assert data.batches_per_epoch == data.tokens_per_epoch / 64
    seeded = ready(module(text_file, seed=1))
    assert not torch.equal(next(iter(seeded.train_batches(1))), next(iter(data.train_batches(1))))


def test_evaluation_windows_default_to_half_a_window(text_file):
    data = ready(module(text_file, eval_batch_tokens=48))
    windows = data.eval_windows("val")
    assert (windows.window_size, windows.stride, windows.batch_size) == (16, 8, 3)
    wide = data.eval_windows("val", window_size=40, stride=40, batch_size=2)
    assert next(iter(wide))[0].shape == (1, 40)
    for each in (windows, wide):
        scored = np.concatenate([tokens[:, first:].flatten() for tokens, first in each])
        assert np.array_equal(scored, data.splits["val"].tokens)


def test_supervised_tokens_default_to_the_window(text_file):
    assert module(text_file).supervised_tokens == 16
    assert module(text_file, supervised_tokens=2).supervised_tokens == 2


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


def test_arguments_out_of_range_are_named_all_at_once(text_file):
    bad = {
        "window_size": 0,
        "batch_size": 0,
        "windows": "sideways",
        "supervised_tokens": 17,
        "eval_stride": -1,
        "eval_batch_tokens": 0,
        "seed": -1,
        "scrambled_validation_alphabet": True,
    }
    with pytest.raises(UserError) as error:
        module(text_file, WordTokenizer(), **bad)
    for key in bad:
        assert key in error.value.what
    with pytest.raises(UserError, match="eval_stride is 17"):
        module(text_file, eval_stride=17)


@pytest.mark.parametrize("split", [(1.0,), (0.9, 0.2), (1.0, 0.0), (0.5, 0.2, 0.2, 0.1), "90%"])
def test_bad_fractions_are_named(split):
    with pytest.raises(UserError, match="sum to 1"):
        TinyShakespeare(split)


def test_bad_requests_are_named(text_file):
    data = ready(module(text_file))
    with pytest.raises(UserError, match="no split 'test'") as error:
        data.test_dataloader()
    assert "train, val" in error.value.hint
    with pytest.raises(UserError, match="stride of 17"):
        data.eval_windows("val", stride=17)
    with pytest.raises(UserError, match="divided among 3 devices"):
        data.train_batches(1, world_size=3)


@pytest.mark.parametrize("level", ["char", "word", "bpe"])
def test_text_of_ones_own_at_every_level(text_file, tmp_path, level):
    data = ready(
        text_data(str(text_file), level, 16, 4, vocab_size=300, cache_dir=str(tmp_path / "cache"))
    )
    assert next(iter(data.train_batches(1))).shape == (4, 16)
    with pytest.raises(UserError, match="char, word, bpe"):
        text_data(str(text_file), "sentence", 16, 4)


class Recorder(lightning.LightningModule):
    """Keeps the batches that Lightning hands to it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.scored = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        tokens, first_scored = batch
        self.scored.append(tokens[:, first_scored:].flatten())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAfterFour(lightning.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 3:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "four.ckpt")


def trainer(folder, **arguments) -> lightning.Trainer:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return lightning.Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=folder, num_sanity_val_steps=0,
        enable_checkpointing=False, **quiet, **arguments,
    )  # fmt: skip


def test_a_resumed_fit_goes_on_where_the_stream_stopped(text_file, tmp_path):
    data = module(text_file)
    data.show(9)
    whole = Recorder()
    trainer(tmp_path).fit(whole, data)
    assert len(whole.seen) == 9
    assert torch.equal(
        torch.cat(whole.scored), torch.from_numpy(data.splits["val"].tokens.astype(np.int64))
    )
    trainer(tmp_path, callbacks=[SaveAfterFour()]).fit(Recorder(), data)
    again = module(text_file)
    again.n_batches, again.start_batch = 9, 4
    resumed = Recorder()
    trainer(tmp_path).fit(resumed, again, ckpt_path=tmp_path / "four.ckpt")
    assert torch.equal(torch.stack(resumed.seen), torch.stack(whole.seen[4:]))
    assert len(resumed.scored) == len(whole.scored)


def test_training_for_one_epoch_is_the_default(text_file):
    data = ready(module(text_file))
    assert len(data.train_dataloader()) == int(np.ceil(data.batches_per_epoch))


def test_a_changed_rule_for_words_is_another_data_set(text_file, monkeypatch):
    """Old ids are never read under a new rule."""
    before = ready(module(text_file, WordTokenizer()))
    monkeypatch.setattr(WordTokenizer, "_pattern", re.compile(r"[\w']+|[^\w\s]"))
    assert ready(module(text_file, WordTokenizer())).fingerprint != before.fingerprint
    monkeypatch.setattr(CharacterTokenizer, "version", 2)
    assert ready(module(text_file)).fingerprint != before.fingerprint


def test_counts_are_those_of_the_text(text_file):
    text = "naïve café — 12 €\n" * 200
    text_file.write_text(text, encoding="utf-8")
    counts = ready(module(text_file, split=(0.5, 0.5))).splits["train"].counts
    part = text[: len(text) // 2]
    assert counts.bytes == len(part.encode()) > counts.characters == len(part)
    assert (counts.words, counts.lines) == (len(part.split()), part.count("\n"))
    assert (counts.tokens, counts.unknown) == (len(part), 0)


def test_a_cache_without_todays_counts_is_built_again(text_file, caplog):
    first = ready(module(text_file))
    (folder,) = cache_folders(text_file)
    meta = json.loads((folder / "meta.json").read_text())
    del meta["splits"]["val"]["counts"]["bytes"]
    (folder / "meta.json").write_text(json.dumps(meta))
    with caplog.at_level("INFO"):
        again = ready(module(text_file))
    assert "built" in caplog.text or "building it again" in caplog.text
    assert again.splits["val"].counts == first.splits["val"].counts
