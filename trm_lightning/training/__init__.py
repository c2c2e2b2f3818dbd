"""LightningModules: losses, deep supervision by manual optimization, exact validation."""

from trm_lightning.training.ar import ARModule
from trm_lightning.training.module import LanguageModule, Supervised
from trm_lightning.training.trm import TRMModule

__all__ = ["ARModule", "LanguageModule", "Supervised", "TRMModule"]
