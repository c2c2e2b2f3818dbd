"""Training batches against slow references."""

from collections import Counter

import numpy as np
import pytest
import torch

from trm_lightning.data import TrainBatches


def train(
    n_tokens=103, window_size=10, batch_size=4, order="sliding", seed=1, n_batches=30, **more
):
    return TrainBatches(
        np.arange(n_tokens, dtype=np.uint16),
        window_size,
        batch_size,
        order,
        seed,
        n_batches,
        **more,
    )


def rows(batches):
    return torch.cat(list(batches))


@pytest.mark.parametrize("order", ["sliding", "random"])
def test_batches_are_int64_windows_of_consecutive_tokens(order):
    batches = train(order=order)
    assert len(batches) == 30
    for batch in batches:
        assert batch.shape == (4, 10) and batch.dtype == torch.int64
        assert (batch.diff(dim=1) == 1).all() and batch.max() < 103


@pytest.mark.parametrize("order", ["sliding", "random"])
def test_a_batch_depends_on_seed_and_number_alone(order):
    everything = list(train(order=order))
    resumed = list(train(order=order, start_batch=17))
    assert len(resumed) == 13 and len(train(order=order, start_batch=17)) == 30
    assert all(torch.equal(a, b) for a, b in zip(everything[17:], resumed, strict=True))
    assert torch.equal(rows(train(order=order)), rows(everything))
    assert not torch.equal(rows(train(order=order, seed=2)), rows(everything))


@pytest.mark.parametrize("order", ["sliding", "random"])
def test_ranks_share_each_batch_without_overlap(order):
    whole = list(train(order=order))
    parts = [list(train(order=order, rank=rank, world_size=2)) for rank in range(2)]
    for i, batch in enumerate(whole):
        assert torch.equal(parts[0][i], batch[0::2]) and torch.equal(parts[1][i], batch[1::2])


def test_each_sliding_epoch_shows_each_token_once_from_its_own_offset():
    n_windows = (103 - 10 + 1) // 10
    stream = rows(train(n_batches=100))
    offsets, orders = set(), set()
    for epoch in range(100 * 4 // n_windows):
        windows = stream[epoch * n_windows : (epoch + 1) * n_windows]
        assert max(Counter(windows.flatten().tolist()).values()) == 1
        starts = windows[:, 0]
        assert len({int(s) % 10 for s in starts}) == 1
        offsets.add(int(starts[0]) % 10)
        orders.add(tuple((starts // 10).tolist()))
    assert offsets == set(range(10)) and len(orders) > 40


@pytest.mark.parametrize("n_tokens", [10, 11, 18, 19])
def test_a_text_smaller_than_a_batch_works(n_tokens):
    stream = rows(train(n_tokens=n_tokens, n_batches=20))
    assert stream.shape == (80, 10)
    assert len(stream.unique()) == n_tokens  # every token is shown at some epoch's offset


def test_random_windows_reach_every_place_evenly():
    starts = rows(train(n_tokens=19, order="random", n_batches=2500))[:, 0]
    counts = torch.bincount(starts, minlength=10).double()
    assert len(counts) == 10
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 27.9  # 99.9 % quantile with 9 degrees of freedom
