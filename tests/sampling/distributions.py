"""Pearson's test of sampled frequencies."""

import torch
from torch import Tensor


def chi_square(counts: Tensor, probs: Tensor) -> float:
    """Return Pearson's statistic; cells with an expectation below 5 count as one."""
    expected = probs.double() * counts.sum()
    rare = expected < 5
    expected = torch.cat((expected[~rare], expected[rare].sum()[None]))
    counts = torch.cat((counts[~rare], counts[rare].sum()[None]))
    return float(((counts - expected) ** 2 / expected.clamp(min=1)).sum())


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
