"""What refinement does to a trained net's predictions, measured exactly on a split of text."""

from trm_lightning.analysis.command import analyze

__all__ = ["analyze"]
