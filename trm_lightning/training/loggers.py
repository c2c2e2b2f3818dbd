"""TensorBoard's logger, and what each kind of logger is told of a run."""

import textwrap
from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary, SummaryMetadata
from torch.utils.tensorboard.summary import hparams

from trm_lightning.cli.differences import flat
from trm_lightning.errors import need
from trm_lightning.evaluation.metrics import ALL_MEANINGS
from trm_lightning.training.module import TrainingModule
from trm_lightning.training.tensorboard_events import BY_TOKENS

# Groups and keys of the config that TensorBoard's HPARAMS table shows.
HPARAMS = ("model", "data", "optimizer", "schedule", "budget", "seed", "ema_decay", "precision")

# What the numbers of training are, by the part of their name behind "train/".
TRAINING = {
    "nats_per_token": "Loss: mean -log p of a supervised token, in nats, with dropout, in the "
    "first supervision step.",
    "ppl": "exp of train/nats_per_token.",
    "grad_norm": "Norm of the gradient before clipping.",
    "lr": "Learning rate of the first group of parameters.",
    "tokens_per_second": "Tokens of training windows per second of training.",
}
# As many columns as a card of TensorBoard shows.
_WRAPPER = textwrap.TextWrapper(
    100, expand_tabs=False, replace_whitespace=False, break_on_hyphens=False
)
EXTRAS = {"MLFlowLogger": "mlflow", "WandbLogger": "wandb"}  # named as their libraries
LATER_STEP = "Loss in a later supervision step, of weights that were just updated on the batch."


class Board(TensorBoardLogger):
    """Lightning's logger with a description beside each number, and with no file but the events.

    TensorBoard names a run after the folder that its events lie in.
    """

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write numbers, each with what it is."""
        for name, number in metrics.items():
            metadata = SummaryMetadata(
                display_name=name,
                summary_description=description(name),
                data_class=DATA_CLASS_SCALAR,
            )
            metadata.plugin_data.plugin_name = "scalars"
            value = Summary.Value(tag=name, simple_value=float(number), metadata=metadata)
            self.experiment._get_file_writer().add_summary(Summary(value=[value]), step)

    @rank_zero_only
    def save(self) -> None:
        """Write what waits; the config is in the run folder already."""
        self.experiment.flush()


def description(name: str) -> str:
    """Return what a logged number is; empty for one of somebody's own."""
    if name.startswith(BY_TOKENS):
        return f"{description(name.removeprefix(BY_TOKENS)).rstrip('.')}. The x axis is tokens."
    split, _, kind = name.partition("/")
    if split == "train":
        later = kind.startswith("nats_supervision_step_")
        return LATER_STEP if later else TRAINING.get(kind, "")
    for suffix, what in (
        ("_nats_per_token", "Nats per token of "),
        ("_bits_per_character", "Bits per character of "),
        ("_cells_right", "Share of the cells that are right, of "),
        ("_nats_per_cell", "Nats per cell of "),
    ):
        if kind.endswith(suffix):
            score = kind.removesuffix(suffix)
            return f"{what}{split}/{score}: {ALL_MEANINGS[score]}" if score in ALL_MEANINGS else ""
    return ALL_MEANINGS.get(kind, "")


def log_numbers(logger: Logger, values: dict[str, float], step: int, tokens: int) -> None:
    """Give a logger numbers against optimizer steps; TensorBoard also against tokens.

    Other loggers keep one x axis, so they get the number of tokens beside the numbers.
    """
    if not isinstance(logger, TensorBoardLogger):
        logger.log_metrics({**values, "tokens": float(tokens)}, step=step)
        return
    logger.log_metrics(values, step=step)
    by_tokens = {f"{BY_TOKENS}{k}": v for k, v in values.items() if k.endswith(("ppl", "solved"))}
    logger.log_metrics(by_tokens, step=tokens)


def log_sample(logger: Logger, text: str, step: int) -> None:
    """Give a logger what the model writes, where it takes text."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_text("samples", _as_it_is(text), step)
    elif isinstance(logger, WandbLogger):
        logger.log_text("samples", columns=["step", "text"], data=[[str(step), text]], step=step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_text(logger.run_id, text, f"samples/{step:08d}.txt")


def _as_it_is(text: str) -> str:
    """Return text as Markdown that shows it as it is: indented, and long lines broken."""
    lines = [part for line in text.split("\n") for part in _WRAPPER.wrap(line) or [""]]
    return "\n".join(f"    {line}" for line in lines)


def log_picture(logger: Logger, name: str, figure: Figure, step: int) -> None:
    """Give a logger a picture, where it takes some."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(name, figure, step)
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [figure], step=step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_figure(logger.run_id, figure, f"{name}/{step:08d}.png")


def takes_pictures(logger: Logger) -> bool:
    """Return whether :func:`log_picture` does anything with a logger."""
    return isinstance(logger, TensorBoardLogger | WandbLogger | MLFlowLogger)


def need_extras(loggers: Mapping[str, Any]) -> None:
    """Check that the libraries behind the loggers of a config are installed.

    Raises:
        UserError: with the command that installs the first that is missing.
    """
    for node in loggers.values():
        library = EXTRAS.get(str(node.get("_target_")).rpartition(".")[2])
        if library is not None:
            need(library, library)


def describe_to_loggers(trainer: L.Trainer, module: TrainingModule, facts: dict[str, Any]) -> None:
    """Tell the loggers the config, and TensorBoard also what each of the run's numbers means."""
    scores = [f"val/{name}" for name in module.scorers()]
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            # MLflow has no levels: settings are called as on the command line.
            has_levels = not isinstance(logger, MLFlowLogger)
            logger.log_hyperparams(facts["config"] if has_levels else flat(facts["config"]))
        else:
            _fill_hparams(logger, facts["config"], scores)
            config = OmegaConf.to_yaml(OmegaConf.create(facts["config"]))
            logger.experiment.add_text("config", _as_it_is(config))
            meanings = [f"- **{name}**: {ALL_MEANINGS[name]}" for name in module.scorers()]
            logger.experiment.add_text("what the numbers mean", "\n".join(meanings))


@rank_zero_only
def _fill_hparams(logger: TensorBoardLogger, config: dict[str, Any], scores: list[str]) -> None:
    """Name the settings and the scores of TensorBoard's HPARAMS table, which sorts runs by them.

    Lightning's own method also writes a first value for each score, which no validation measured.
    """
    settings = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat({key: config[key] for key in HPARAMS if key in config}).items()
    }
    for summary in hparams(settings, dict.fromkeys(scores, 0)):
        logger.experiment.file_writer.add_summary(summary)
