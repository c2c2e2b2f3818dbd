"""Exact scores: what a number means, and how it is computed."""

from trm_lightning.evaluation.likelihood import LikelihoodSum, score_windows
from trm_lightning.evaluation.metrics import MEANINGS, Score, described, safe_exp
from trm_lightning.evaluation.puzzles import PuzzleScore, PuzzleSum

__all__ = [
    "MEANINGS",
    "LikelihoodSum",
    "PuzzleScore",
    "PuzzleSum",
    "Score",
    "described",
    "safe_exp",
    "score_windows",
]
