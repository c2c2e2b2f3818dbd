"""The data module: splits, windows and batches, and what it says of bad arguments."""

from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from small_text import TEXT, module, ready

from trm_lightning.data import (
    WordTokenizer,
)
from trm_lightning.errors import UserError


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


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


def test_bad_requests_are_named(text_file):
    data = ready(module(text_file))
    with pytest.raises(UserError, match="no split 'test'") as error:
        data.test_dataloader()
    assert "train, val" in error.value.hint
    with pytest.raises(UserError, match="stride of 17"):
        data.eval_windows("val", stride=17)
    with pytest.raises(UserError, match="divided among 3 devices"):
        data.train_batches(1, world_size=3)


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
    again.show(9, start_batch=4)
    resumed = Recorder()
    trainer(tmp_path).fit(resumed, again, ckpt_path=tmp_path / "four.ckpt")
    assert torch.equal(torch.stack(resumed.seen), torch.stack(whole.seen[4:]))
    assert len(resumed.scored) == len(whole.scored)


def test_training_for_one_epoch_is_the_default(text_file):
    data = ready(module(text_file))
    assert len(data.train_dataloader()) == int(np.ceil(data.batches_per_epoch))
