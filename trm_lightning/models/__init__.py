"""Language models in plain torch: they know nothing of Lightning or Hydra."""

from trm_lightning.models.ar import AR
from trm_lightning.models.base import IncrementalWindow, LanguageModel, Reading, SupervisionStep
from trm_lightning.models.looped import Looped
from trm_lightning.models.source_trm import SourceTRM
from trm_lightning.models.transformer import Transformer
from trm_lightning.models.trm import TRM

__all__ = [
    "AR",
    "TRM",
    "IncrementalWindow",
    "LanguageModel",
    "Looped",
    "Reading",
    "SourceTRM",
    "SupervisionStep",
    "Transformer",
]
