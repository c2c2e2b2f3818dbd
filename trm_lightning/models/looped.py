"""The looped Transformer: the blocks run again and again, the input added in every pass.

The control for TRM: is it the latent, or the loop?
"""

from typing import Any

import torch
from torch import Tensor

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
        start = run.inputs if self.injection == "none" else torch.zeros_like(run.inputs)
        return (start,) * (1 if self.lanes == 1 else 1 + self.lanes)

    def refine(self, run: Pass, state: State, n_recursions: int | None = None) -> State:
        """See :meth:`Recursive.refine`."""
        if self.lanes == 1:
            return (run(self.inject(state[0], run.inputs)),)
        _, *lanes = state
        stacked = torch.stack(lanes)
        i = self._at

        def mixed(weights: Tensor) -> Tensor:
            return torch.einsum("l,lbsd->bsd", weights, stacked)

        out = run(self.inject(mixed(self.lane_read[i]), run.inputs))
        lanes = [
            mixed(self.lane_mix[i, k]) + self.lane_write[i, k] * out for k in range(self.lanes)
        ]
        y = sum(w * lane for w, lane in zip(self.lane_last, lanes, strict=True))
        return (y, *lanes)

    def skip(self, run: Pass, state: State) -> None:
        """See :meth:`Recursive.skip`."""
        run.skip(self.inject(state[0], run.inputs))
