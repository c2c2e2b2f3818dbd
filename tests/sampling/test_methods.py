"""What temperature and the filters leave to draw from."""

from typing import Any

import pytest
import torch
from distributions import chi_square, rng

from trm_lightning.sampling.methods import Sampler


def possible(log_probs: list[float], **settings: Any) -> set[int]:
    """Return the ids that 2,000 draws give."""
    rows = torch.tensor(log_probs).expand(2000, -1)
    return set(Sampler(rng(), **settings)(rows).tolist())


PROBS = [0.05, 0.4, 0.1, 0.25, 0.2]


@pytest.mark.parametrize(
    ("settings", "ids"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"temperature": 0}, {1}),
        ({"temperature": 1e-30}, {1}),
        ({"top_k": 1}, {1}),
        ({"top_k": 3}, {1, 3, 4}),
        ({"top_k": 99}, {0, 1, 2, 3, 4}),
        ({"top_p": 1e-9}, {1}),
        ({"top_p": 0.39}, {1}),
        ({"top_p": 0.41}, {1, 3}),
        ({"top_p": 0.9}, {1, 3, 4, 2}),
        ({"top_p": 1.0}, {0, 1, 2, 3, 4}),
        # Of the three that top_k leaves, the first two hold 0.65 / 0.85 = 0.76.
        ({"top_k": 3, "top_p": 0.7}, {1, 3}),
        # Squared and normalised the first holds 0.59 and the first two 0.82.
        ({"temperature": 0.5, "top_p": 0.55}, {1}),
    ],
)
def test_filters_leave_what_they_say(settings: dict[str, Any], ids: set[int]) -> None:
    assert possible(torch.tensor(PROBS).log().tolist(), **settings) == ids


def test_top_k_among_equals_still_leaves_k() -> None:
    assert len(possible([0.0] * 6, top_k=2)) == 2


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_is_a_power_of_the_probabilities(temperature: float) -> None:
    probs = torch.tensor(PROBS)
    ids = Sampler(rng(), temperature=temperature)(probs.log().expand(20_000, -1))
    counts = torch.bincount(ids, minlength=5)
    powers = probs ** (1 / temperature)
    # 23.5 is the 0.9999 quantile at 4 degrees of freedom.
    assert chi_square(counts, powers / powers.sum()) < 23.5
    assert chi_square(counts, probs) > 23.5


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_k": 2}, {"top_p": 0.5}])
def test_what_is_drawn_from_sums_to_one(settings: dict[str, Any]) -> None:
    log_probs = torch.tensor([PROBS, PROBS[::-1]]).log()
    probs = Sampler(rng(), **settings).probs(log_probs)
    torch.testing.assert_close(probs.sum(dim=-1), torch.ones(2, dtype=torch.float64))
    assert probs.argmax(dim=-1).tolist() == [1, 3]
