"""The numbers of a score, against their definitions."""

import math

import pytest

from trm_lightning.data import TextCounts
from trm_lightning.evaluation.metrics import Score, described


def test_numbers_follow_from_nats_and_counts() -> None:
    counts = TextCounts(tokens=100, words=80, lines=4, characters=500, bytes=550, unknown=7)
    found = described("val/ppl", Score(230.0, counts))
    assert found["perplexity"] == pytest.approx(math.exp(2.3))
    assert found["word_perplexity"] == pytest.approx(math.exp(230 / 80))
    assert found["bits_per_character"] == pytest.approx(230 / math.log(2) / 500)
    assert found["bits_per_byte"] == pytest.approx(230 / math.log(2) / 550)
    assert found["unknown_share"] == 0.07 and found["is_likelihood"]
    assert not described("val/warm_start_ppl", Score(230.0, counts))["is_likelihood"]


def test_what_overflows_is_infinite() -> None:
    assert Score(1e6, TextCounts(tokens=1, characters=1, bytes=1)).perplexity == math.inf
