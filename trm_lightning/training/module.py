"""One training loop for every model: supervision steps by manual optimization."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trm_lightning.data import TextDataModule
from trm_lightning.errors import UserError
from trm_lightning.evaluation.likelihood import LikelihoodSum
from trm_lightning.evaluation.puzzles import PuzzleSum
from trm_lightning.evaluation.tasks import AnyScore, new_sum, scorers_of
from trm_lightning.models import LanguageModel
from trm_lightning.models.base import LogProbs
from trm_lightning.optim.optimizers import make_optimizer
from trm_lightning.optim.schedules import TimeShare, make_schedule
from trm_lightning.training.carry import Carry, check_carry
from trm_lightning.training.cuda_graph import GraphedStep, can_be_graphed
from trm_lightning.training.ema import EmaWeights


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Explain settings that the function or class which gets them does not take."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UserError(f"The {what} could not be set up: {error}") from error


@dataclass(frozen=True)
class StepRecord:
    """What the log keeps of one batch; tensors stay on their device until they are logged."""

    nats: list[Tensor]  # one per supervision step
    grad_norm: Tensor
    optimizer_steps: int
    tokens_seen: int


class TrainingModule(L.LightningModule):
    """Trains a model for ``model.n_supervision`` optimizer steps per batch, and validates exactly.

    Each supervision step is a forward pass, a backward pass, clipping, an optimizer step, a
    scheduler step and an EMA step; the state goes on, detached, into the next. Counters are its
    own: Lightning's global step and batch index differ when a batch takes several steps.

    Args:
        model: the model to train.
        optimizer: makes the optimizer from the model.
        schedule: makes the schedule from the optimizer and ``total_steps``.
        grad_clip: largest gradient norm; None for no clipping.
        ema_decay: decay of the averaged weights that are validated; None for none.
        supervised_tokens: how many tokens at the end of each window count in the loss.
        total_steps: optimizer steps of the whole run, exactly.
        time_share: returns how much of a budget in seconds is used up, 0 to 1.
        cuda_graph: on one GPU, replay a training step as a CUDA graph where that is possible
            (``model.cuda_graph_safe``, :func:`can_be_graphed`).
        gradient_accumulation: parts that each batch is split into, one after the other, to save
            memory; the gradient is that of the whole batch.
        accumulate_supervision: sum the gradients of a batch's supervision steps for one optimizer
            step, instead of one after each.
        is_puzzle: score puzzles solved, not the perplexity of a text.
        carry: one supervision step per batch, windows carried over batches; see :class:`Carry`.
        halt_exploration: see :class:`Carry`.

    Attributes:
        scores: the last validation's scores, by names such as ``val/ppl``.
        scorers: gives what is called for them; the leak audit watches these calls.
        renamed: names that a score had before the leak audit took it away, by the name it has now.
    """

    runtime_arguments: ClassVar[frozenset[str]] = frozenset({"supervised_tokens", "is_puzzle"})

    def __init__(
        self,
        model: LanguageModel,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[..., LRScheduler],
        supervised_tokens: int,
        grad_clip: float | None = 1.0,
        ema_decay: float | None = None,
        total_steps: int = 0,
        time_share: TimeShare = lambda: 0.0,
        cuda_graph: bool = False,
        accumulate_supervision: bool = False,
        gradient_accumulation: int = 1,
        is_puzzle: bool = False,
        carry: bool = False,
        halt_exploration: float = 0.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.make_optimizer = optimizer
        self.make_schedule = schedule
        self.grad_clip = grad_clip
        self.ema = None if ema_decay is None else EmaWeights(model, ema_decay)
        self.supervised_tokens = supervised_tokens
        self.cuda_graph = cuda_graph
        self.accumulate_supervision = accumulate_supervision
        self.gradient_accumulation = gradient_accumulation
        self.is_puzzle = is_puzzle
        self.carry = Carry(model, halt_exploration) if carry else None
        if carry:
            check_carry(model, gradient_accumulation, halt_exploration)
        self._graphed: GraphedStep | None = None
        self.total_steps = total_steps
        self.time_share = time_share
        self.optimizer_steps = 0
        self.batches_seen = 0
        self.tokens_seen = 0  # tokens of the batches, each batch once
        self.record: StepRecord | None = None
        self.scores: dict[str, AnyScore] = {}
        self.scorers: Callable[[], dict[str, LogProbs]] = partial(scorers_of, model, is_puzzle)
        self.renamed: dict[str, str] = {}
        self._sums: dict[str, LikelihoodSum | PuzzleSum] = {}

    # Training.

    def configure_optimizers(self) -> Any:
        """Make the optimizer and its schedule; Lightning saves and restores both."""
        with _named("optimizer"):
            optimizer = make_optimizer(self.make_optimizer, self.model)
        self._groups = [
            {key: value for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        with _named("schedule"):
            steps, share = self.total_steps, self.time_share
            schedule = make_schedule(self.make_schedule, optimizer, steps, share)
        graphed = self.cuda_graph and self.model.cuda_graph_safe and self.gradient_accumulation == 1
        graphed = graphed and can_be_graphed(self.trainer, self, optimizer)
        self._graphed = GraphedStep(self._clipped_gradients, optimizer) if graphed else None
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_start(self) -> None:
        """Let this call's settings of the optimizer count, where a checkpoint brought its own."""
        groups = self.optimizers().param_groups  # type: ignore[union-attr]
        schedule: Any = self.lr_schedulers()
        for i, (group, wanted) in enumerate(zip(groups, self._groups, strict=True)):
            peak = group["initial_lr"]
            group.update({key: value for key, value in wanted.items() if key != "lr"})
            if wanted["lr"] != peak:
                schedule.base_lrs[i] = group["initial_lr"] = wanted["lr"]
                schedule._last_lr[i] = wanted["lr"] * (schedule._last_lr[i] / peak if peak else 1)
                group["lr"] = schedule._last_lr[i]

    def training_step(self, tokens: Tensor, batch_idx: int) -> None:
        """Train on one batch of ids (B, L) for all its supervision steps."""
        if self.carry is not None:
            self._carried_step(tokens, self.carry)
            return
        nats, grad_norm = [], torch.zeros((), device=tokens.device)
        parts = tokens.chunk(self.gradient_accumulation)
        states: list[Any] = [None] * len(parts)
        for i in range(self.model.n_supervision):
            # Every process counts alike, so all leave the loop together.
            if self.optimizer_steps >= self.total_steps:
                break
            if self._graphed is not None:
                self._graphed.tokens = tokens
                self._optimizer_step()
                nll, grad_norm = self._graphed.numbers
            else:
                nll, states = self._gradients(parts, states, i)
                if not self.accumulate_supervision or i == self.model.n_supervision - 1:
                    grad_norm = self._clipped_norm()
                    self._optimizer_step()
            nats.append(nll)
        self._record(tokens, nats, grad_norm)

    def _carried_step(self, batch: Tensor, carry: Carry) -> None:
        """Train for one supervision step on the windows in work."""
        tokens, state = carry.admit(batch)
        self.optimizers().zero_grad(set_to_none=True)  # type: ignore[union-attr]
        step = self.model.supervision_step(tokens, self._first(tokens), state)
        self.manual_backward(step.loss)
        grad_norm = self._clipped_norm()
        self._optimizer_step()
        carry.keep(step)
        self._record(tokens, [step.nll.detach()], grad_norm)

    def _record(self, tokens: Tensor, nats: list[Tensor], grad_norm: Tensor) -> None:
        """Count a batch, and keep its numbers for the log."""
        self.batches_seen += 1
        self.tokens_seen += tokens.numel() * self.trainer.world_size
        self.record = StepRecord(nats, grad_norm, self.optimizer_steps, self.tokens_seen)

    @property
    def steps_per_batch(self) -> int:
        """Optimizer steps on one batch."""
        one = self.accumulate_supervision or self.carry is not None
        return 1 if one else self.model.n_supervision

    @property
    def validation_is_due(self) -> bool:
        """Whether Lightning validates after the present batch."""
        return self.batches_seen % int(self.trainer.val_check_batch or 1) == 0

    def _clipped_gradients(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run a whole supervision step but for the update; return nats and gradient norm."""
        self.optimizers().zero_grad(set_to_none=True)  # type: ignore[union-attr]
        step = self.model.supervision_step(tokens, self._first(tokens))
        self.manual_backward(step.loss)
        return step.nll, self._clipped_norm()

    def _gradients(
        self, parts: Sequence[Tensor], states: list[Any], supervision_step: int
    ) -> tuple[Tensor, list[Any]]:
        """Add up the gradients of one supervision step on all parts of a batch.

        Returns:
            Nats per supervised token of the batch, and where each part goes on.
        """
        n_summed = self.model.n_supervision if self.accumulate_supervision else 1
        if n_summed == 1 or supervision_step == 0:
            self.optimizers().zero_grad(set_to_none=True)  # type: ignore[union-attr]
        n_windows, nll, after = sum(map(len, parts)), torch.zeros(()), []
        for part, state in zip(parts, states, strict=True):
            step = self.model.supervision_step(part, self._first(part), state)
            share = len(part) / n_windows
            self.manual_backward(step.loss * (share / n_summed))
            nll = nll.to(step.nll.device) + share * step.nll.detach()
            after.append(step.state)
        return nll, after

    def _first(self, tokens: Tensor) -> int:
        """Return the first position whose token counts in the loss."""
        return tokens.shape[1] - self.supervised_tokens

    def _clipped_norm(self) -> Tensor:
        """Clip the gradients; return their norm before that."""
        return torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.grad_clip or float("inf")
        )

    def _optimizer_step(self) -> None:
        self.optimizers().step()  # type: ignore[union-attr]
        # The whole training step runs in one autocast context, whose cache would go on serving
        # the weights of before this step.
        torch.clear_autocast_cache()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        if self.ema is not None:
            self.ema.update(self.model)
        self.optimizer_steps += 1

    # Validation.

    def on_validation_epoch_start(self) -> None:
        """Score the averaged weights, where there are any."""
        self._sums = {}
        if self.ema is not None:
            self.ema.exchange(self.model)

    def validation_step(
        self, batch: tuple[Tensor, int], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Score one batch of evaluation windows: ids (B, T) and the first scored position."""
        self._score(batch, self._data.eval_splits[dataloader_idx])

    def on_validation_epoch_end(self) -> None:
        """Put the training weights back, and turn sums over all processes into scores."""
        if self.ema is not None:
            self.ema.exchange(self.model)
        self.scores = {name: self._summed(name, total) for name, total in self._sums.items()}
        for name, score in self.scores.items():
            # For callbacks that monitor a metric, by the name that they were told; the loggers get
            # it against optimizer steps.
            split, _, now = name.partition("/")
            for monitored in {now, self.renamed.get(now, now)}:
                self.log(f"{split}/{monitored}", score.headline, logger=False)

    def on_test_epoch_start(self) -> None:
        """As in validation."""
        self.on_validation_epoch_start()

    def test_step(self, batch: tuple[Tensor, int], batch_idx: int) -> None:
        """Score one batch of evaluation windows of the test split."""
        self._score(batch, "test")

    def on_test_epoch_end(self) -> None:
        """As in validation."""
        self.on_validation_epoch_end()

    def _score(self, batch: tuple[Tensor, int], split: str) -> None:
        tokens, first = batch
        scorers = list(self.scorers().items())
        if self.trainer.state.fn == TrainerFn.FITTING:
            # Training is followed by the number it is for; the others come when it is over.
            scorers = scorers[:1]
        for name, log_probs in scorers:
            total = self._sums.setdefault(f"{split}/{name}", new_sum(self.is_puzzle))
            total.update(log_probs(tokens, first), tokens, first)

    def _summed(self, name: str, total: LikelihoodSum | PuzzleSum) -> AnyScore:
        """Add the other processes' sums and check that every token was scored once."""
        if self.trainer.world_size > 1:
            parts = self.all_gather(total.as_tensor().to(self.device))
            assert isinstance(parts, Tensor)
            total.take(parts.reshape(self.trainer.world_size, -1).sum(0))
        split = self._data.splits[name.partition("/")[0]]
        return total.score(split.counts)

    @property
    def _data(self) -> TextDataModule:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, TextDataModule)
        return data

    @contextmanager
    def scoring(self) -> Iterator[LanguageModel]:
        """Give the model as it is scored: averaged weights, no dropout, no gradient."""
        was_training = self.model.training
        self.model.eval()
        try:
            with self.ema.applied_to(self.model) if self.ema else nullcontext(), torch.no_grad():
                yield self.model
        finally:
            self.model.train(was_training)

    # State.

    def on_fit_start(self) -> None:
        """Move the averaged weights to where the net is."""
        if self.ema is not None:
            self.ema.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save counters and averaged weights as plain containers."""
        checkpoint["counters"] = {
            "optimizer_steps": self.optimizer_steps,
            "batches_seen": self.batches_seen,
            "tokens_seen": self.tokens_seen,
        }
        checkpoint["carry"] = None if self.carry is None else self.carry.state_dict()
        checkpoint["ema"] = None if self.ema is None else self.ema.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what :meth:`on_save_checkpoint` saved."""
        for name, value in checkpoint["counters"].items():
            setattr(self, name, value)
        if self.carry is not None and checkpoint.get("carry"):
            self.carry.load_state_dict(checkpoint["carry"], self.device)
        if self.ema is not None:
            weights = {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items()}
            self.ema.load_state(checkpoint["ema"] or {"n_updates": 0, "average": weights})
