"""Muon: momentum with orthogonalized updates.

The matrix of a linear layer moves along its gradient's momentum, orthogonalized: all singular
values become about one (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
networks"; scaled as in arXiv 2502.16982). All else (embeddings, norms, biases) learns by AdamW.
A matrix that runs r times in a forward pass takes steps r ** -0.5 times as long, since each of them
acts r times over: a rule of thumb, which agreed roughly with searches at r = 2 and 6.

``torch.optim.Muon`` orthogonalises in bfloat16, which a CPU without such instructions emulates: 155
ms for one matrix of 152 x 608, against 5 ms here in float32. It also takes matrices only, so that a
run would have two optimizers, and Lightning count every step twice.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW

# Coefficients of the quintic iteration, chosen by its authors for speed near zero.
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
# The root mean square of AdamW's updates, by experience; the same here, whatever the matrix.
UPDATE_SIZE = 0.2


class Muon(AdamW):
    """AdamW whose groups marked ``orthogonal`` take Muon's step instead.

    Args:
        params: parameter groups, each marked ``orthogonal`` or not; one that is holds matrices
            only, and their ``momentum``.
        lr, betas, …: those of ``AdamW``.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; see :class:`torch.optim.Optimizer`."""
        groups = self.param_groups
        for group in groups:
            if group["orthogonal"]:
                self._step_orthogonally(group)
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            return super().step(cast(Any, closure))
        finally:
            self.param_groups = groups

    def _step_orthogonally(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros(())  # not counted; AdamW looks for one as it is loaded
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            ahead = parameter.grad.lerp(momentum, group["momentum"])  # Nesterov's
            with torch.autocast(parameter.device.type, enabled=False):
                update = orthogonalised(ahead) * (UPDATE_SIZE * max(parameter.shape) ** 0.5)
            lr = group["lr"]
            parameter.mul_(1 - lr * group["weight_decay"])
            if isinstance(lr, Tensor):  # on the device, where a graph reads it anew in each step
                parameter.sub_((update * lr).to(parameter.dtype))
            else:
                parameter.add_(update.to(parameter.dtype), alpha=-lr)


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return about U V^T for a matrix U S V^T (R, C).

    Singular values become 0.7 to 1.2, but for those that are next to nothing beside the largest.
    """
    wide = matrix.float()
    if matrix.shape[0] > matrix.shape[1]:
        wide = wide.T
    x = wide / wide.norm().clamp(min=1e-12)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=CUBIC, alpha=QUINTIC), x, beta=LINEAR)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """Return the trained matrices of linear layers, without those that map to a vocabulary."""
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "head" and module.weight.requires_grad
    ]
