"""The run's numbers: to the loggers, to ``metrics.jsonl``, and a line per validation."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from trm_lightning.evaluation.metrics import safe_exp
from trm_lightning.runs.history import append_line, drop_lines_after
from trm_lightning.training import TrainingModule
from trm_lightning.training.callbacks.time_budget import TimeBudget

_log = logging.getLogger(__name__)


class TrainLog(L.Callback):
    """Logs against optimizer steps and against tokens, without a device sync between logs.

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
        self._nats: list[list[Tensor]] = []
        self._next_log = 0
        self._tokens_logged = 0
        self._seconds_logged = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drop lines that a killed run wrote after its last checkpoint."""
        module = _training_module(pl_module)
        self._next_log = module.optimizer_steps + self.log_every
        self._tokens_logged, self._seconds_logged = module.tokens_seen, self.clock.seconds
        if trainer.is_global_zero and self.path.exists():
            drop_lines_after(self.path, module.optimizer_steps)

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
        if not self._nats or module.record is None:
            return
        first = torch.stack([batch[0] for batch in self._nats]).double().mean().item()
        seconds = self.clock.tick()
        elapsed = max(seconds - self._seconds_logged, 1e-9)
        values: dict[str, float] = {
            "train/nats_per_token": first,
            "train/ppl": safe_exp(first),
            "train/grad_norm": float(module.record.grad_norm),
            "train/lr": float(module.lr_schedulers().get_last_lr()[0]),  # type: ignore[union-attr]
            "train/tokens_per_second": (module.tokens_seen - self._tokens_logged) / elapsed,
        }
        for k, loss in enumerate(self._nats[-1][1:], start=2):
            values[f"train/nats_supervision_step_{k}"] = float(loss)
        self._nats.clear()
        self._next_log = module.optimizer_steps + self.log_every
        self._tokens_logged, self._seconds_logged = module.tokens_seen, seconds
        self._write(trainer, module, values)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the validation's scores."""
        module = _training_module(pl_module)
        self.validated_step = module.optimizer_steps
        values = {}
        for name, score in module.scores.items():
            values[name] = score.perplexity
            values[f"{name}_nats_per_token"] = score.nats_per_token
            values[f"{name}_bits_per_character"] = score.bits_per_character
        self._write(trainer, module, values)
        if trainer.is_global_zero:
            shown = ", ".join(
                f"{name} {score.perplexity:.4g}" for name, score in module.scores.items()
            )
            steps = f"step {module.optimizer_steps:,} of {module.total_steps:,}"
            _log.info("%s: %s (%.0f s of training)", steps, shown, self.clock.seconds)

    def _write(self, trainer: L.Trainer, module: TrainingModule, values: dict[str, float]) -> None:
        self.latest.update(values)
        if not trainer.is_global_zero:
            return
        step, tokens = module.optimizer_steps, module.tokens_seen
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
            by_tokens = {f"by_tokens/{k}": v for k, v in values.items() if k.endswith("ppl")}
            logger.log_metrics(by_tokens, step=tokens)
        seconds = round(self.clock.seconds, 3)
        append_line(self.path, {"step": step, "tokens": tokens, "seconds": seconds, **values})


def _training_module(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
