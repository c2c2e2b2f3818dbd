"""Exact likelihood: knows only "a model that scores tokens"."""

from trm_lightning.evaluation.likelihood import (
    LikelihoodSum,
    LogProbs,
    Score,
    TextCounts,
    score_windows,
)

__all__ = ["LikelihoodSum", "LogProbs", "Score", "TextCounts", "score_windows"]
