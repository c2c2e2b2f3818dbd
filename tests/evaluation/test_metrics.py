"""The numbers of a score against independent counts, and what they are called."""

import math
from pathlib import Path

import pytest
import torch

from trm_lightning.data import CharacterTokenizer, TextCorpus, TextCounts, TextDataModule
from trm_lightning.evaluation import MEANINGS, LikelihoodSum, Score, described, score_windows

TEXT = "naïve café, 中文 😀\n" * 30


def uniform_log_probs(vocab_size: int):
    def log_probs(tokens: torch.Tensor, first: int) -> torch.Tensor:
        shape = (*tokens[:, first:].shape, vocab_size)
        return torch.full(shape, -math.log(vocab_size), dtype=torch.float64)

    return log_probs


def test_bits_per_byte_and_character_of_a_uniform_model(tmp_path: Path) -> None:
    """log2 V bits for each character, and so many bytes as the file has."""
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    corpus = TextCorpus(str(path), (0.5, 0.5))
    data = TextDataModule("t", corpus, CharacterTokenizer(), 8, 2, cache_dir=str(tmp_path / "c"))
    data.prepare_data()
    n_bytes = bits = 0.0
    for split in data.splits.values():
        total = score_windows(
            uniform_log_probs(data.vocab_size), data.eval_windows(split.name), torch.device("cpu")
        )
        numbers = total.score(split.counts).as_dict()
        assert numbers["bits_per_character"] == pytest.approx(math.log2(data.vocab_size))
        assert numbers["perplexity"] == pytest.approx(data.vocab_size)
        bits += numbers["bits_per_byte"] * numbers["bytes"]
        n_bytes += numbers["bytes"]
    assert n_bytes == path.stat().st_size == 30 * 26
    assert bits == pytest.approx(len(TEXT) * math.log2(data.vocab_size))


def test_numbers_of_a_score() -> None:
    counts = TextCounts(tokens=4, words=2, lines=1, characters=8, bytes=10, unknown=1)
    numbers = Score(nats=8 * math.log(2), counts=counts).as_dict()
    assert numbers["nats_per_token"] == pytest.approx(2 * math.log(2))
    assert numbers["perplexity"] == pytest.approx(4)
    assert numbers["word_perplexity"] == pytest.approx(16)
    assert numbers["bits_per_character"] == pytest.approx(1)
    assert numbers["bits_per_byte"] == pytest.approx(0.8)
    assert numbers["unknown_share"] == 0.25
    assert Score(1e6, counts).perplexity == math.inf


def test_every_token_must_be_scored_once() -> None:
    counts = TextCounts(tokens=5, words=2, lines=1, characters=8, bytes=8, unknown=0)
    total = LikelihoodSum()
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    total.update(torch.zeros(1, 4, 2), tokens, first=0)
    with pytest.raises(RuntimeError, match="scored 4 tokens of a split of 5"):
        total.score(counts)


@pytest.mark.parametrize("name", MEANINGS)
def test_only_perplexities_are_likelihoods(name: str) -> None:
    counts = TextCounts(tokens=1, words=1, lines=1, characters=1, bytes=1, unknown=0)
    content = described(f"val/{name}", Score(1.0, counts))
    assert content["meaning"] == MEANINGS[name]
    assert content["is_likelihood"] == ("NOT A LIKELIHOOD" not in content["meaning"])
    assert content["total_nats"] == 1.0
