"""The Tiny Recursive Model (arXiv 2510.04871, figure 3) for text."""

import copy
from typing import Any

import torch
from torch import Tensor

from trm_lightning.models.arguments import (
    MOST_PASSES,
    least_problems,
    most_problems,
    raise_problems,
)
from trm_lightning.models.base import LogProbs
from trm_lightning.models.early_exit import State
from trm_lightning.models.lookahead import Pass
from trm_lightning.models.recursive import Recursive


class TRM(Recursive):
    """Refines an answer ``y`` and a latent ``z`` for every state with one small network.

    In the paper's symbols, with ``x`` the input (the token embeddings):

        repeat T times:                  a refinement
            repeat n times: z = net(x, y, z)
            y = net(y, z)

    and N_sup supervision steps of this per batch, ``y`` and ``z`` carried over, detached.

    Args:
        n_recursions: n in the paper, updates of the latent before each update of the answer.
        answer_sees_input: the answer's update sees ``x`` too, y = net(x, y, z). The paper leaves
            it out there.
        recursive: the arguments of :class:`Recursive`.
    """

    def __init__(
        self, *, n_recursions: int, answer_sees_input: bool = True, **recursive: Any
    ) -> None:
        raise_problems(
            least_problems({"n_recursions": (n_recursions, 1)})
            + most_problems({"n_recursions": n_recursions}, MOST_PASSES)
        )
        super().__init__(**recursive)
        self.n_recursions = n_recursions
        self.answer_sees_input = answer_sees_input
        self.n_passes = self.n_refinements * (n_recursions + 1)

    def initial_state(self, run: Pass) -> State:
        """Start y and z at zero; x enters in the first pass."""
        nothing: Tensor = torch.zeros_like(run.inputs)
        return nothing, nothing

    def refine(self, run: Pass, state: State, n_recursions: int | None = None) -> State:
        """See :meth:`Recursive.refine`."""
        y, z = state
        for _ in range(self.n_recursions if n_recursions is None else n_recursions):
            z = run(y + z + run.inputs)
        y = run(y + z + run.inputs if self.answer_sees_input else y + z)
        return y, z

    def ablations(self) -> dict[str, tuple[str, LogProbs]]:
        """See :meth:`LanguageModel.ablations`."""
        found, n = super().ablations(), self.n_recursions
        for other in sorted({1, 2 * n} - {n}):
            changed = copy.copy(self)
            changed.n_recursions = other
            name = f"{other} recursion{'s' if other > 1 else ''}"
            found[name] = (f"trained with {n} recursions", changed.log_probs)
        return found
