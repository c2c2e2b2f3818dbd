"""The learning rate by steps and by time."""

import math

import pytest
import torch
from conftest import Configure
from hydra.utils import instantiate


def rates(
    configure: Configure, shares: list[float], total_steps: int, *overrides: str
) -> list[float]:
    """Return the rates, as parts of the peak, of steps that begin with these shares of the time."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    now = [shares[0]]
    cfg = configure("model=ar", *overrides)
    make = instantiate(cfg.schedule)
    schedule = make(optimizer, total_steps=total_steps, time_share=lambda: now[0])
    found = []
    for share in [*shares[1:], 1.0]:
        found.append(optimizer.param_groups[0]["lr"])
        now[0] = share
        optimizer.step()
        schedule.step()
    return found


def half_cosine(progress: float) -> float:
    return 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2


def test_warm_up_and_cosine_by_steps(configure: Configure) -> None:
    found = rates(configure, [0.0] * 40, 40, "schedule.warmup_steps=3")
    assert found[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert found[3:] == pytest.approx([half_cosine(k / 37) for k in range(37)])
    # A tenth of the steps at most.
    assert rates(configure, [0.0] * 20, 20, "schedule.warmup_steps=9")[:3] == pytest.approx(
        [1 / 2, 1, 1]
    )


def test_warm_up_and_cosine_by_time(configure: Configure) -> None:
    """A run by the clock that gets through fewer steps than its warm-up has learns all the same."""
    shares = [k / 50 for k in range(50)]
    found = rates(configure, shares, 10**9, "schedule.warmup_steps=100")
    assert found[:5] == pytest.approx([1 / 100, 2 / 10, 4 / 10, 6 / 10, 8 / 10])
    assert found[5:] == pytest.approx([half_cosine(share) for share in shares[5:]])
    # Where steps are faster, the warm-up is as long as it is set.
    short = rates(configure, [k / 1000 for k in range(50)], 10**9, "schedule.warmup_steps=10")
    assert short[:9] == pytest.approx([k / 10 for k in range(1, 10)])
    assert short[9:] == pytest.approx([half_cosine(k / 1000) for k in range(9, 50)])


def test_constant_after_the_warm_up(configure: Configure) -> None:
    settings = ("schedule=constant", "schedule.warmup_steps=4")
    assert rates(configure, [0.0] * 6, 6, *settings) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
