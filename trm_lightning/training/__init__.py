"""Training: deep supervision by manual optimization, callbacks, a run from start to end."""

from trm_lightning.training.module import TrainingModule

__all__ = ["TrainingModule"]
