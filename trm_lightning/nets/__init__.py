"""Plain torch networks: they know nothing of Lightning or Hydra."""

from trm_lightning.nets.ar import AutoregressiveNet
from trm_lightning.nets.base import LanguageNet
from trm_lightning.nets.trm import RecursiveNet

__all__ = ["AutoregressiveNet", "LanguageNet", "RecursiveNet"]
