"""The run's numbers: to the loggers, to ``metrics.jsonl``, and a line per validation."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from trm_lightning.evaluation.metrics import safe_exp
from trm_lightning.optim.schedules import UNLIMITED
from trm_lightning.runs.history import append_line, drop_lines_after
from trm_lightning.training import TrainingModule
from trm_lightning.training.callbacks.time_budget import TimeBudget
from trm_lightning.training.loggers import log_numbers

_log = logging.getLogger(__name__)


class TrainLog(L.Callback):
    """Logs against optimizer steps and against tokens, without a device sync between logs.

    A resumed run writes the lines of an uninterrupted one, each once: what a killed run wrote
    after its last checkpoint is dropped, and losses that wait for their line are in the checkpoint.

    The train loss is that of supervision step 1: later steps on a batch score weights that were
    just updated on it.

    Args:
        log_every: optimizer steps between two lines.
        path: file of JSON lines, one per logged point; resumed runs continue in it.
        clock: counts the seconds of training.
    """

    def __init__(self, log_every: int, path: Path, clock: TimeBudget) -> None:
        self.log_every = log_every
        self.path = path
        self.clock = clock
        self.validated_step = -1
        self.latest: dict[str, float] = {}
        self._nats: list[list[Tensor]] = []  # of batches whose losses are still on the device
        self._losses: list[float] = []  # of step 1, of the other batches since the last line
        self._later_losses: list[float] = []  # of steps 2 …, of the last batch
        self._next_log = 0
        self._tokens_logged = 0
        self._seconds_logged = 0.0
        self._written: set[tuple[Any, ...]] = set()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop lines that a killed run wrote after its last checkpoint."""
        step = _training_module(pl_module).optimizer_steps
        if trainer.is_global_zero and self.path.exists():
            self._written = {_names(line) for line in drop_lines_after(self.path, step)}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start to count."""
        self._next_log = self._multiple_after(_training_module(pl_module).optimizer_steps)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Collect the batch's losses; log when ``log_every`` steps have gone by."""
        module = _training_module(pl_module)
        assert module.record is not None
        if module.record.nats:
            self._nats.append(module.record.nats)
        if module.optimizer_steps >= min(self._next_log, module.total_steps):
            self.flush(trainer, module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what has been collected."""
        self.flush(trainer, _training_module(pl_module))

    def flush(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Log what has been collected since the last line."""
        self._fetch_losses(trainer)
        if not self._losses or module.record is None:
            return
        first = sum(self._losses) / len(self._losses)
        seconds = self.clock.tick()
        elapsed = max(seconds - self._seconds_logged, 1e-9)
        values: dict[str, float] = {
            "train/nats_per_token": first,
            "train/grad_norm": float(module.record.grad_norm),
            "train/lr": float(module.lr_schedulers().get_last_lr()[0]),  # type: ignore[union-attr]
            "train/tokens_per_second": (module.tokens_seen - self._tokens_logged) / elapsed,
        }
        if not module.is_puzzle:
            values["train/ppl"] = safe_exp(first)
        for k, loss in enumerate(self._later_losses, start=2):
            values[f"train/nats_supervision_step_{k}"] = loss
        self._losses.clear()
        self._next_log = self._multiple_after(module.optimizer_steps)
        self._tokens_logged, self._seconds_logged = module.tokens_seen, seconds
        self._write(trainer, module, values)

    def _fetch_losses(self, trainer: L.Trainer) -> None:
        """Read the collected losses from the device, as means over all processes."""
        if not self._nats:
            return
        firsts, later = torch.stack([batch[0] for batch in self._nats]), self._nats[-1][1:]
        losses = torch.cat((firsts, torch.stack(later))) if later else firsts
        means = torch.as_tensor(trainer.strategy.reduce(losses, reduce_op="mean")).tolist()
        self._losses += means[: len(firsts)]
        self._later_losses = means[len(firsts) :]
        self._nats.clear()

    def _multiple_after(self, steps: int) -> int:
        return (steps // self.log_every + 1) * self.log_every

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the validation's scores."""
        module = _training_module(pl_module)
        self.validated_step = module.optimizer_steps
        if self._write(trainer, module, _logged(module)):
            shown = ", ".join(
                f"{name} {score.headline:.4g}" for name, score in module.scores.items()
            )
            steps = f"step {module.optimizer_steps:,}"
            if module.total_steps < UNLIMITED:
                steps += f" of {module.total_steps:,}"
            _log.info("%s: %s (%.0f s of training)", steps, shown, self.clock.seconds)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the loggers the test's scores, at the step of the weights that were scored."""
        module = _training_module(pl_module)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(_logged(module), step=module.optimizer_steps)

    def _write(self, trainer: L.Trainer, module: TrainingModule, values: dict[str, float]) -> bool:
        """Write a line, in the first process and once; return whether it did."""
        self.latest.update(values)
        step, tokens = module.optimizer_steps, module.tokens_seen
        seconds = round(self.clock.seconds, 3)
        line = {"step": step, "tokens": tokens, "seconds": seconds, **values}
        if not trainer.is_global_zero or _names(line) in self._written:
            return False
        self._written.add(_names(line))
        append_line(self.path, line)
        for logger in trainer.loggers:
            log_numbers(logger, values, step, tokens)
        return True

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save what waits for the next line."""
        self._fetch_losses(trainer)
        checkpoint["train_log"] = {
            "losses": list(self._losses),
            "tokens_logged": self._tokens_logged,
            "seconds_logged": self._seconds_logged,
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from what waited for its line."""
        if trainer.state.fn == TrainerFn.FITTING:  # not from the best weights, for the test
            stored = checkpoint["train_log"]
            self._losses = list(stored["losses"])
            self._tokens_logged = stored["tokens_logged"]
            self._seconds_logged = stored["seconds_logged"]


def _logged(module: TrainingModule) -> dict[str, float]:
    """Return the numbers of the last validation or test, by name."""
    values: dict[str, float] = {}
    for name, score in module.scores.items():
        values |= score.logged(name)
    return values


def _names(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells a line of the history from others: its step and what it holds."""
    return (line["step"], *sorted(key for key in line if "/" in key))


def _training_module(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
