"""The learning-rate range test: a ramp of the rate, and where the loss falls fastest."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Configure

from trm_lightning.optim.schedules import exponential
from trm_lightning.training.callbacks.lr_range import FEWEST, smoothed, steepest
from trm_lightning.training.fit import train

RATIOS = np.logspace(-3, 2, 200).tolist()


def falling_at(rate: float) -> list[float]:
    """Return losses that fall from 6 to 4, fastest at a rate."""
    return [6 - 2 / (1 + (rate / ratio) ** 3) for ratio in RATIOS]


@pytest.mark.parametrize("rate", [0.03, 0.3, 3.0])
def test_the_steepest_fall_is_found(rate: float) -> None:
    found = steepest(RATIOS, falling_at(rate))
    assert found is not None and rate < found < 2 * rate  # a smoothed loss comes late


def test_noise_moves_it_little_and_a_rise_is_no_fall() -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, len(RATIOS))
    found = steepest(RATIOS, (np.array(falling_at(0.3)) + noise).tolist())
    assert found is not None and 0.15 < found < 1.2
    assert steepest(RATIOS, list(reversed(falling_at(0.3)))) is None
    assert steepest(RATIOS[: FEWEST - 1], falling_at(0.3)[: FEWEST - 1]) is None


def test_smoothing_keeps_a_constant() -> None:
    assert smoothed([3.0] * 20) == pytest.approx([3.0] * 20)


def test_the_rate_goes_by_equal_factors() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = exponential(optimizer, 5, lambda: 0.0, first_ratio=0.01, last_ratio=100.0)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.005, 0.05, 0.5, 5.0, 50.0])


def test_a_run_tells_a_rate_that_trains(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rates are those of the command's own optimizer; the ramp ends where the loss is worse."""
    words = ("debug=lr_range", "model=ar", "optimizer=adamw", "schedule.last_ratio=100000")
    with caplog.at_level(logging.INFO):
        results = train(configure(*words, "budget.steps=80", "eval_every=80"))
    (told,) = [text for text in caplog.messages if "falls fastest at" in text]
    ratio = float(told.partition("fastest at ")[2].partition(" x")[0])
    rate = float(told.partition("optimizer.lr=")[2].split()[0])
    assert rate == pytest.approx(0.002 * ratio, rel=0.1) and 0.1 < ratio < 1000
    assert (tmp_path / "run" / "lr_range.svg").is_file()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    losses = [line["train/nats_per_token"] for line in lines if "train/nats_per_token" in line]
    assert min(losses) < losses[0] - 0.3 and losses[-1] > min(losses) + 0.3
    assert results["optimizer_steps"] < 80 and math.isfinite(losses[-1])
