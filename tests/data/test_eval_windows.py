"""Evaluation windows against a slow statement of their rule."""

from itertools import islice

import numpy as np
import pytest
import torch

from trm_lightning.data import EvalWindows


@pytest.mark.parametrize("n_tokens", [1, 7, 8, 9, 12, 13, 50])
@pytest.mark.parametrize("stride", [1, 3, 4, 8])
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_token_is_scored_once_with_the_promised_context(n_tokens, stride, world_size):
    scored = {}
    for rank in range(world_size):
        windows = EvalWindows(np.arange(n_tokens), 8, stride, 3, rank, world_size)
        batches = list(windows)
        assert len(windows) == len(batches)
        for tokens, first_scored in batches:
            assert tokens.dtype == torch.int64 and len(tokens) <= 3
            for row in tokens:
                assert (row.diff() == 1).all()
                if row[0] > 0:
                    assert first_scored == 8 - stride
                for position, token in enumerate(row.tolist()[first_scored:], first_scored):
                    assert token not in scored
                    scored[token] = position
    assert sorted(scored) == list(range(n_tokens))
    # A slow statement of the rule: where in its window each token is scored.
    for token, position in scored.items():
        expected = token if token < 8 else 8 - stride + (token - 8) % stride
        assert position == expected


def test_equal_windows_share_a_batch():
    shapes = [(tuple(t.shape), first) for t, first in EvalWindows(np.arange(45), 8, 4, 5)]
    assert shapes == [((1, 8), 0), ((5, 8), 4), ((4, 8), 4), ((1, 5), 4)]


def test_windows_come_in_the_order_of_the_text():
    tokens = [int(t[0, first]) for t, first in islice(EvalWindows(np.arange(45), 8, 4, 1), 4)]
    assert tokens == [0, 8, 12, 16]
