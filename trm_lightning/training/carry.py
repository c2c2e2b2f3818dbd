"""Windows that are carried over batches, as the TRM paper trains.

Each optimizer step is one supervision step of every window of the batch. A window stays, with its
state, until it has had ``n_supervision`` of them or the halting head holds it for solved; then a
window of the next batch takes its place. Some stay longer than the head says, so that it sees what
more steps do to what it holds for solved.

Shapes: B windows, L tokens, S states, D width.
"""

from typing import Any

import torch
from torch import Tensor

from trm_lightning.errors import UserError
from trm_lightning.models import LanguageModel
from trm_lightning.models.base import SupervisionStep


def check_carry(model: LanguageModel, gradient_accumulation: int, halt_exploration: float) -> None:
    """Check that there is something to carry, and how.

    Raises:
        UserError: naming the setting that does not fit.
    """
    if model.n_supervision < 2:
        raise UserError(
            "carry=true carries windows over supervision steps, and there is one.",
            "Set model.n_supervision to 2 or more, 16 in the paper, or leave carry out.",
        )
    if gradient_accumulation > 1:
        raise UserError("carry=true needs gradient_accumulation=1: windows stay in their rows.")
    if not 0 <= halt_exploration <= 1:
        raise UserError(f"halt_exploration must lie in [0, 1] (is {halt_exploration}).")


class Carry:
    """The windows in work.

    Args:
        model: that is trained.
        halt_exploration: chance in each step that a window stays although the head says it may go,
            unless it has had a random number of steps, 2 to ``n_supervision``; the paper's code
            has 0.1.

    Attributes:
        tokens: (B, L) ids; None before the first batch.
        state: where each window's next supervision step continues; see ``SupervisionStep``.
        n_steps: (B,) supervision steps that each window has had.
        done: (B,) which windows the next batch replaces.
    """

    def __init__(self, model: LanguageModel, halt_exploration: float = 0.0) -> None:
        self.model = model
        self.halt_exploration = halt_exploration
        self.tokens: Tensor | None = None
        self.state: Any = None
        self.n_steps = self.done = torch.zeros(0)

    def admit(self, batch: Tensor) -> tuple[Tensor, Any]:
        """Put windows of a batch (B, L) where old ones are done; return all, and their states."""
        if self.tokens is None or self.tokens.shape != batch.shape:
            self.tokens, self.state = batch, None
            self.n_steps = torch.zeros(len(batch), dtype=torch.long, device=batch.device)
            return batch, None
        self.tokens = torch.where(self.done[:, None], batch, self.tokens)
        self.state = self.model.restarted(self.state, self.done)
        self.n_steps = self.n_steps.masked_fill(self.done, 0)
        return self.tokens, self.state

    def keep(self, step: SupervisionStep) -> None:
        """Take over the state of a supervision step, and decide which windows are done."""
        self.state = step.state
        self.n_steps = self.n_steps + 1
        self.done = self.n_steps >= self.model.n_supervision
        if step.halted is not None:
            self.done = self.done | (step.halted & ~self._explores())

    def _explores(self) -> Tensor:
        """Draw which windows (B,) stay whatever the head says."""
        if self.halt_exploration == 0:
            return torch.zeros_like(self.n_steps, dtype=torch.bool)
        least = torch.randint_like(self.n_steps, 2, self.model.n_supervision + 1)
        chosen = torch.rand(self.n_steps.shape, device=least.device) < self.halt_exploration
        return chosen & (self.n_steps < least)

    def state_dict(self) -> dict[str, Any]:
        """Return everything for a checkpoint, as plain containers."""
        return {name: getattr(self, name) for name in ("tokens", "state", "n_steps", "done")}

    def load_state_dict(self, stored: dict[str, Any], device: torch.device) -> None:
        """Restore what :meth:`state_dict` returned, on a device."""
        if stored["tokens"] is None:
            return
        self.tokens = stored["tokens"].to(device)
        self.state = tuple(part.to(device) for part in stored["state"])
        self.n_steps, self.done = (stored[name].to(device) for name in ("n_steps", "done"))
