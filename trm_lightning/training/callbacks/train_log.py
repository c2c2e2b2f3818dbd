"""The run's numbers: to the loggers, and as lines of JSON that reports are made from."""

import json
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from trm_lightning.errors import TrainingError
from trm_lightning.evaluation.metrics import safe_exp
from trm_lightning.files import write_text
from trm_lightning.training import TrainingModule


class TrainLog(L.Callback):
    """Logs against optimizer steps and against tokens, without a device sync between logs.

    The train loss is that of supervision step 1: later steps on a batch score weights that were
    just updated on it.

    Args:
        log_every: optimizer steps between two lines.
        max_seconds: ends training after the batch in which it is reached; None for no limit.
        path: file of JSON lines, one per logged point; resumed runs go on in it.

    Raises:
        TrainingError: when a loss is NaN or infinite, naming the optimizer step.
    """

    def __init__(self, log_every: int, path: Path, max_seconds: float | None = None) -> None:
        self.log_every = log_every
        self.max_seconds = max_seconds
        self.path = path
        self.seconds = 0.0  # spent training, validation not counted, over all resumes
        self.validated_step = -1
        self.latest: dict[str, float] = {}
        self._nats: list[list[Tensor]] = []
        self._next_log = 0
        self._tokens_logged = 0
        self._seconds_logged = 0.0
        self._clock: float | None = None  # None while the clock stands still

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, and drop lines that a killed run wrote after its last checkpoint."""
        module = _language_module(pl_module)
        self._next_log = module.optimizer_steps + self.log_every
        self._tokens_logged, self._seconds_logged = module.tokens_seen, self.seconds
        if trainer.is_global_zero and self.path.exists():
            drop_lines_after(self.path, module.optimizer_steps)
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any
    ) -> None:
        """Collect the batch's losses; log when ``log_every`` steps have gone by."""
        module = _language_module(pl_module)
        assert module.record is not None
        if module.record.nats:
            self._nats.append(module.record.nats)
        if module.optimizer_steps >= min(self._next_log, module.total_steps):
            self.flush(trainer, module)
        self._tick()
        if self.max_seconds is not None:
            over = self.time_share() >= 1
            # Clocks differ, and all processes must leave together.
            over = trainer.strategy.reduce_boolean_decision(over, all=False)
            trainer.should_stop = trainer.should_stop or over

    def time_share(self) -> float:
        """Return how much of ``max_seconds`` is used up, 0 without such a limit."""
        return self.seconds / self.max_seconds if self.max_seconds else 0.0

    def flush(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Check and log what has been collected since the last line."""
        if not self._nats or module.record is None:
            return
        losses = torch.stack([loss for batch in self._nats for loss in batch]).tolist()
        self._check_finite(losses, module.optimizer_steps)
        self._tick()
        first = torch.stack([batch[0] for batch in self._nats]).double().mean().item()
        seconds = max(self.seconds - self._seconds_logged, 1e-9)
        values: dict[str, float] = {
            "train/nats_per_token": first,
            "train/ppl": safe_exp(first),
            "train/grad_norm": float(module.record.grad_norm),
            "train/lr": float(module.lr_schedulers().get_last_lr()[0]),  # type: ignore[union-attr]
            "train/tokens_per_second": (module.tokens_seen - self._tokens_logged) / seconds,
        }
        for k, loss in enumerate(self._nats[-1][1:], start=2):
            values[f"train/nats_supervision_step_{k}"] = float(loss)
        self._nats.clear()
        self._next_log = module.optimizer_steps + self.log_every
        self._tokens_logged, self._seconds_logged = module.tokens_seen, self.seconds
        self._write(trainer, module, values)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the training clock."""
        if trainer.state.fn == TrainerFn.FITTING:
            self.flush(trainer, _language_module(pl_module))
            self._tick()
            self._clock = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the validation's scores and start the clock again."""
        module = _language_module(pl_module)
        self.validated_step = module.optimizer_steps
        values = {}
        for name, score in module.scores.items():
            values[name] = score.perplexity
            values[f"{name}_nats_per_token"] = score.nats_per_token
            values[f"{name}_bits_per_character"] = score.bits_per_character
        self._write(trainer, module, values)
        if trainer.state.fn == TrainerFn.FITTING:
            self._clock = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the training clock for good."""
        self._tick()
        self._clock = None

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds trained so far."""
        self._tick()
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting from a checkpoint's seconds."""
        self.seconds = state_dict["seconds"]

    def _tick(self) -> None:
        if self._clock is not None:
            now = time.perf_counter()
            self.seconds += now - self._clock
            self._clock = now

    def _check_finite(self, losses: list[float], step: int) -> None:
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is not None:
            raise TrainingError(
                f"The loss became {losses[bad]} at optimizer step {step - len(losses) + bad + 1}.",
                "The checkpoints from before are kept. Try a lower learning rate "
                "(optimizer.lr=…), more warm-up (schedule.warmup_steps=…) or precision=32-true.",
            )

    def _write(self, trainer: L.Trainer, module: TrainingModule, values: dict[str, float]) -> None:
        self.latest.update(values)
        if not trainer.is_global_zero:
            return
        step, tokens = module.optimizer_steps, module.tokens_seen
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
            by_tokens = {f"by_tokens/{k}": v for k, v in values.items() if k.endswith("ppl")}
            logger.log_metrics(by_tokens, step=tokens)
        line = {"step": step, "tokens": tokens, "seconds": round(self.seconds, 3), **values}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, float]]:
    """Read a file of JSON lines; a last line that a kill cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def drop_lines_after(path: Path, step: int) -> None:
    """Keep the lines up to optimizer step ``step``, in one atomic exchange of the file."""
    kept = [line for line in read_lines(path) if line["step"] <= step]
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def _language_module(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
