"""LightningModules: losses, deep supervision by manual optimization, exact validation."""

from trm_lightning.modules.ar import ARModule
from trm_lightning.modules.base import LanguageModule, Supervised
from trm_lightning.modules.trm import TRMModule

__all__ = ["ARModule", "LanguageModule", "Supervised", "TRMModule"]
