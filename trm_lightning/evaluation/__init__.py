"""Exact scores: what a number means, and how it is computed."""

from trm_lightning.evaluation.likelihood import LikelihoodSum, score_windows
from trm_lightning.evaluation.metrics import Score

__all__ = ["LikelihoodSum", "Score", "score_windows"]
