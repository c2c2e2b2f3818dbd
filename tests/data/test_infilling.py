"""Windows with blanks: what is hidden, what is scored, and that no model sees it elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Configure
from omegaconf import DictConfig

from trm_lightning.data import CharacterTokenizer, InfillingDataModule, TextCorpus, WordTokenizer
from trm_lightning.data.infilling import Blanks
from trm_lightning.errors import UserError
from trm_lightning.training.fit import train


@pytest.fixture
def data(tmp_path: Path) -> InfillingDataModule:
    """Infilling of a short text whose words are all different from their neighbours."""
    text = tmp_path / "text.txt"
    random = np.random.default_rng(0)
    text.write_text(" ".join(f"w{i}" for i in random.integers(50, size=3000)))
    made = InfillingDataModule(
        name="fill", corpus=TextCorpus(str(text), split=(0.8, 0.1, 0.1)),
        tokenizer=WordTokenizer(100), window_size=12, batch_size=6, windows="random",
        n_blanks=2, gap=1, eval_stride=3,
    )  # fmt: skip
    made.prepare_data()
    made.setup()
    return made


def test_blanks_hide_the_answers_and_nothing_else(data: InfillingDataModule) -> None:
    plain = np.asarray(data._opened.splits["val"].tokens)
    blank, done = data.tokenizer.start_id, 0
    for windows, first in data.eval_windows("val"):
        assert windows.shape[1] == 12 and first == 10
        for window in windows.numpy():
            start = 3 * done
            original = plain[start : start + 10]
            hidden = np.flatnonzero(window[:10] == blank)
            assert len(hidden) == 2 and hidden[1] == hidden[0] + 1
            assert (window[10:] == original[hidden]).all()
            kept = np.delete(np.arange(10), hidden)
            assert (window[kept] == original[kept]).all()
            done += 1
    assert done == len(range(0, len(plain) - 10 + 1, 3))


def test_the_split_is_what_is_scored(data: InfillingDataModule) -> None:
    scored = np.concatenate([w[:, first:].numpy().ravel() for w, first in data.eval_windows("val")])
    split = data.splits["val"]
    assert (scored == split.tokens).all() and split.counts.tokens == len(scored)
    texts = [data.tokenizer.token(int(i)) for i in scored]
    assert split.counts.characters == sum(map(len, texts)) and split.counts.words == len(texts)
    again = list(data.eval_windows("val"))
    assert all(
        torch.equal(a, b) for (a, _), (b, _) in zip(again, data.eval_windows("val"), strict=True)
    )


def test_training_blanks_depend_on_seed_and_batch_alone(data: InfillingDataModule) -> None:
    whole = list(data.train_batches(4))
    assert whole[0].shape == (6, 12)
    resumed = list(data.train_batches(4, start_batch=2))
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], resumed, strict=True))
    ranks = [list(data.train_batches(4, rank=rank, world_size=2)) for rank in (0, 1)]
    assert torch.equal(whole[3], torch.stack((ranks[0][3], ranks[1][3]), 1).flatten(0, 1))
    assert not torch.equal(whole[0] == data.tokenizer.start_id, whole[1] == data.tokenizer.start_id)


@pytest.mark.parametrize(("gap", "k"), [(1, 2), (3, 3), (None, 4)])
def test_places_are_in_the_window_ascending_and_spread(gap: int | None, k: int) -> None:
    places = Blanks(20, k, gap, 0).draw(4000, (1,))
    assert places.min() == 0 and places.max() == 19
    steps = np.diff(places, axis=1)
    assert (steps == gap).all() if gap else (steps >= 1).all()
    assert (np.bincount(places.ravel(), minlength=20) > 0).all()


def test_other_blanks_are_other_data(data: InfillingDataModule) -> None:
    def fingerprint(**changes: int) -> str:
        made = InfillingDataModule(
            name="fill", corpus=data.corpus, tokenizer=data.unfitted_tokenizer, window_size=12,
            batch_size=6, **({"eval_stride": 3} | changes),
        )  # fmt: skip
        made.prepare_data()
        made.setup()
        return made.fingerprint

    assert fingerprint() == data.fingerprint
    assert len({fingerprint(), fingerprint(gap=2), fingerprint(eval_stride=4)}) == 3
    with pytest.raises(UserError, match="Leave stride"):
        data.eval_windows("val", stride=5)


def test_blanks_that_do_not_fit_and_texts_with_the_blank_are_refused(
    data: InfillingDataModule,
) -> None:
    common = {"name": "fill", "corpus": data.corpus, "batch_size": 6}
    with pytest.raises(UserError, match="do not fit"):
        InfillingDataModule(
            tokenizer=data.unfitted_tokenizer, window_size=6, n_blanks=3, gap=2, **common
        )
    characters = InfillingDataModule(tokenizer=CharacterTokenizer(), window_size=12, **common)
    characters.prepare_data()
    with pytest.raises(UserError, match="cannot stand for a blank"):
        characters.setup()


def infilled(configure: Configure, data: InfillingDataModule, model: str) -> DictConfig:
    """Return the config of a run on the fixture's data."""
    cfg = configure("data=text", "data.path=unused", f"model={model}")
    target = "trm_lightning.data."
    cfg.data = {
        "_target_": target + "InfillingDataModule", "name": "fill", "window_size": 12,
        "batch_size": 6, "n_blanks": 2, "eval_stride": 3, "seed": 1,
        "corpus": {"_target_": target + "TextCorpus", "path": str(data.corpus.path),
                   "split": [0.8, 0.1, 0.1]},
        "tokenizer": {"_target_": target + "WordTokenizer", "vocab_size": 100},
    }  # fmt: skip
    return cfg


def test_a_run_trains_is_audited_and_scores_its_blanks(
    configure: Configure, data: InfillingDataModule
) -> None:
    cfg = infilled(configure, data, "looped")
    cfg.model.chunk_size = 2
    results = train(cfg)
    assert results["is_likelihood"] and results["audit"]["passed"]
    assert results["final"]["val/ppl"]["tokens"] == len(data.splits["val"].tokens)
    assert results["data_fingerprint"] == data.fingerprint


def test_a_model_that_sees_the_answers_is_caught(
    configure: Configure, data: InfillingDataModule
) -> None:
    results = train(infilled(configure, data, "leaky_context_mask"))
    assert not results["is_likelihood"] and "val/not_a_perplexity" in results["final"]
