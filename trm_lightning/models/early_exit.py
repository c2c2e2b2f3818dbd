"""Adaptive depth: states stop being refined when a refinement no longer changes their answer.

Looks for a fixed point instead of learning when to halt (as the TRM paper does): there is no
second loss, and the decision cannot depend on the token to predict.

Shapes: B rows, S states, D width.
"""

import torch
from torch import Tensor

State = tuple[Tensor, ...]  # the answer y first, then a latent z where there is one; (B, S, D) each


class EarlyExit:
    """Freezes the states that have converged, while the others continue.

    States that know the same tokens exit together: those of a chunk, as long as none of them has
    read another one's token. Later states see the last state of one that has exited.

    Args:
        threshold: a group exits when a refinement changes its answers by less than this part of
            their norm (mean over the group).
        groups: (S,) the exit group of each state, 0, 1, ….
    """

    def __init__(self, threshold: float, groups: Tensor) -> None:
        self.threshold = threshold
        self.groups = groups
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
        active = self._changes(old[0].detach(), new[0].detach()) >= self.threshold
        self._active = active if self._active is None else self._active & active
        return new

    def _changes(self, old: Tensor, new: Tensor) -> Tensor:
        """Return the relative change of each state's group, (B, S, 1)."""
        change = (new - old).norm(dim=-1) / new.norm(dim=-1)
        total = change.new_zeros(len(change), len(self._sizes)).index_add_(1, self.groups, change)
        return (total / self._sizes)[:, self.groups, None]
