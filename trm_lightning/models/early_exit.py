"""Adaptive depth: states stop being refined when refinement no longer changes their answer.

A fixed point is looked for instead of learning when to halt (as the TRM paper does): it needs no
second loss, and it cannot look at the token that is to be predicted.

Shapes: B rows, S states, D width.
"""

import torch
from torch import Tensor

State = tuple[Tensor, Tensor]  # the answer y and the latent z, (B, S, D) each


class Halting:
    """Keeps the states that have stopped as they are, while the others go on.

    States that know the same tokens stop together: those of a chunk, as long as none of them has
    read another one's token. What later states see of one that has stopped is its last state.

    Args:
        below: a unit stops when a refinement changes its answers by less than this part of their
            size (root mean square, mean over the unit).
        units: (S,) the unit of each state, 0, 1, ….
    """

    def __init__(self, below: float, units: Tensor) -> None:
        self.below = below
        self.units = units
        self._sizes = units.bincount()
        self._going: Tensor | None = None

    @property
    def all_stopped(self) -> bool:
        """Whether there is nothing left to refine."""
        return self._going is not None and not bool(self._going.any())

    def __call__(self, old: State, new: State) -> State:
        """Return the ``new`` state where refinement goes on, and the ``old`` one elsewhere."""
        if self._going is not None:
            going = self._going
            y, z = (torch.where(going, b, a) for a, b in zip(old, new, strict=True))
            new = y, z
        still = self._changes(old[0].detach(), new[0].detach()) >= self.below
        self._going = still if self._going is None else self._going & still
        return new

    def _changes(self, old: Tensor, new: Tensor) -> Tensor:
        """Return the relative change of each state's unit, (B, S, 1)."""
        change = (new - old).norm(dim=-1) / new.norm(dim=-1)
        total = change.new_zeros(len(change), len(self._sizes)).index_add_(1, self.units, change)
        return (total / self._sizes)[:, self.units, None]
