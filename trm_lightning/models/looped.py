"""The looped Transformer: the blocks run again and again, the input added in every pass.

The control for TRM: is it the latent, or the loop?
"""

from typing import Any

import torch

from trm_lightning.models.early_exit import State
from trm_lightning.models.lookahead import Pass
from trm_lightning.models.recursive import Recursive


class Looped(Recursive):
    """Refines an answer ``y``, without a latent: ``n_refinements`` times y = net(x, y).

    Args:
        recursive: the arguments of :class:`Recursive`.
    """

    def __init__(self, **recursive: Any) -> None:
        super().__init__(**recursive)
        self.n_passes = self.n_refinements

    def initial_state(self, run: Pass) -> State:
        """Start y at zero; x enters in the first pass."""
        return (torch.zeros_like(run.inputs),)

    def refine(self, run: Pass, state: State, n_recursions: int | None = None) -> State:
        """See :meth:`Recursive.refine`."""
        return (run(state[0] + run.inputs),)

    def skip(self, run: Pass, state: State) -> None:
        """See :meth:`Recursive.skip`."""
        run.skip(state[0] + run.inputs)
