"""What happens beside training: logs, checkpoints, the progress bar, samples, a clean stop."""

from trm_lightning.training.callbacks.boards import Boards
from trm_lightning.training.callbacks.checkpoints import CheckpointFiles, Checkpoints
from trm_lightning.training.callbacks.finite_loss import FiniteLoss
from trm_lightning.training.callbacks.leak_audit import LeakAudit
from trm_lightning.training.callbacks.leak_guard import LeakGuard
from trm_lightning.training.callbacks.progress import Progress
from trm_lightning.training.callbacks.puzzle_audit import PuzzleAudit
from trm_lightning.training.callbacks.samples import Samples
from trm_lightning.training.callbacks.stop import StopCleanly, TrainingStop
from trm_lightning.training.callbacks.time_budget import TimeBudget
from trm_lightning.training.callbacks.train_log import TrainLog

__all__ = [
    "Boards",
    "CheckpointFiles",
    "Checkpoints",
    "FiniteLoss",
    "LeakAudit",
    "LeakGuard",
    "Progress",
    "PuzzleAudit",
    "Samples",
    "StopCleanly",
    "TimeBudget",
    "TrainLog",
    "TrainingStop",
]
