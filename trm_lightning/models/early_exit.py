"""Adaptive depth: states stop being refined when their answer is done.

By default that is where a refinement no longer changes the answer, a fixed point: there is no
second loss. With a halting head it is where the head, as in the TRM paper, expects the answer to be
right. Neither knows the token to predict.

Shapes: B rows, S states, D width.
"""

import torch
from torch import Tensor, nn

State = tuple[Tensor, ...]  # the answer y first, then a latent z where there is one; (B, S, D) each


def halting_head(width: int) -> nn.Linear:
    """Return a head that maps answers (…, D) to the logit (…, 1) of being right.

    It begins as in the paper: sure that nothing is, so that nothing halts before it has learned.
    """
    head = nn.Linear(width, 1)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, -5.0)
    return head


def halting_loss(guesses: Tensor, right: Tensor) -> Tensor:
    """Return the cross-entropy of a head's guesses, logits (…), of which answers are right (…)."""
    return nn.functional.binary_cross_entropy_with_logits(guesses, right.to(guesses.dtype))


class EarlyExit:
    """Freezes the states that have converged, while the others continue.

    States that know the same tokens exit together: those of a chunk, as long as none of them has
    read another one's token. Later states see the last state of one that has exited.

    Args:
        threshold: a group exits when a refinement changes its answers by less than this part of
            their norm (mean over the group); with ``halt``, when the probability of its answers
            being right exceeds this (of the mean logit over the group).
        groups: (S,) the exit group of each state, 0, 1, ….
        halt: maps answers (B, S, D) to the logit (B, S, 1) of being right; None for a fixed point.
    """

    def __init__(self, threshold: float, groups: Tensor, halt: nn.Module | None = None) -> None:
        self.threshold = threshold
        self.groups = groups
        self.halt = halt
        self._sizes = groups.bincount()
        self._active: Tensor | None = None  # (B, S, 1)

    @property
    def all_exited(self) -> bool:
        """Whether nothing is left to refine."""
        return self._active is not None and not bool(self._active.any())

    def __call__(self, old: State, new: State) -> State:
        """Return the ``new`` state where refinement continues, the ``old`` one elsewhere."""
        if self._active is not None:
            active = self._active
            new = tuple(torch.where(active, b, a) for a, b in zip(old, new, strict=True))
        active = ~self.stops(old[0].detach(), new[0].detach())
        self._active = active if self._active is None else self._active & active
        return new

    def stops(self, old: Tensor, new: Tensor) -> Tensor:
        """Say which states (B, S, 1) exit when their answers become ``new`` after ``old``."""
        if self.halt is None:
            return self._changes(old, new) < self.threshold
        return self._group_means(self.halt(new)[:, :, 0]).sigmoid() > self.threshold

    def _changes(self, old: Tensor, new: Tensor) -> Tensor:
        """Return the relative change of each state's group, (B, S, 1)."""
        return self._group_means((new - old).norm(dim=-1) / new.norm(dim=-1))

    def _group_means(self, values: Tensor) -> Tensor:
        """Return the mean of each state's group, (B, S, 1)."""
        total = values.new_zeros(len(values), len(self._sizes)).index_add_(1, self.groups, values)
        return (total / self._sizes)[:, self.groups, None]
