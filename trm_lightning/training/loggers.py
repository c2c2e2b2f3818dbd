"""What loggers are told of a run before it starts."""

from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from torch.utils.tensorboard.summary import hparams

from trm_lightning.evaluation.metrics import MEANINGS
from trm_lightning.training.module import TrainingModule

# Groups and keys of the config that TensorBoard's HPARAMS table shows.
HPARAMS = ("model", "data", "optimizer", "schedule", "budget", "seed", "ema_decay", "precision")


def describe_to_loggers(trainer: L.Trainer, module: TrainingModule, facts: dict[str, Any]) -> None:
    """Tell the loggers the config, and TensorBoard also what each of the run's numbers means."""
    scores = [f"val/{name}" for name in module.model.scorers()]
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(facts["config"])
        else:
            _fill_hparams(logger, facts["config"], scores)
            config = OmegaConf.to_yaml(OmegaConf.create(facts["config"]))
            logger.experiment.add_text("config", "    " + config.replace("\n", "\n    "))
            meanings = [f"- **{name}**: {MEANINGS[name]}" for name in module.model.scorers()]
            logger.experiment.add_text("what the numbers mean", "\n".join(meanings))


@rank_zero_only
def _fill_hparams(logger: TensorBoardLogger, config: dict[str, Any], scores: list[str]) -> None:
    """Name the settings and the scores of TensorBoard's HPARAMS table, which sorts runs by them.

    Lightning's own method also writes a first value for each score, which no validation measured.
    """
    settings = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in _flat({key: config[key] for key in HPARAMS if key in config}).items()
    }
    for summary in hparams(settings, dict.fromkeys(scores, 0)):
        logger.experiment.file_writer.add_summary(summary)
    logger.hparams.update(config)  # saved as hparams.yaml


def _flat(config: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings as one level, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{before}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found
