"""Plain torch networks: they know nothing of Lightning or Hydra."""

from trm_lightning.models.ar import AutoregressiveNet
from trm_lightning.models.base import LanguageNet
from trm_lightning.models.trm import RecursiveNet

__all__ = ["AutoregressiveNet", "LanguageNet", "RecursiveNet"]
