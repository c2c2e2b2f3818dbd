"""Muon: momentum with orthogonalized updates.

The matrix of a linear layer moves along its gradient's momentum, orthogonalized: all singular
values become about one (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural
networks"; scaled as in arXiv 2502.16982). All else (embeddings, norms, biases) learns by AdamW.
A matrix that runs r times in a forward pass takes steps r ** -0.5 times as long, since each of them
acts r times over: a rule of thumb, which agreed roughly with searches at r = 2 and 6.

``torch.optim.Muon`` orthogonalises in bfloat16, which a CPU without such instructions emulates: 155
ms for one matrix of 152 x 608, against 5 ms here in float32. It also takes matrices only, so that a
run would have two optimizers, and Lightning count every step twice.

Its iteration multiplies the matrix X (R, C) by a factor each time. The factors are polynomials in
the same X X^T, so for a wide X they are multiplied first, as small (R, R) matrices, and X once at
the end: two thirds of the operations for a GPT's layers, the same result but for rounding.
Matrices of one shape go together.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import AdamW

# Coefficients of the quintic iteration, chosen by its authors for speed near zero.
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
ITERATIONS = 5
# The root mean square of AdamW's updates, by experience; the same here, whatever the matrix.
UPDATE_SIZE = 0.2
# Numbers in a stack of matrices that are iterated together: bounds memory where models are large.
MAX_STACK = 1 << 24


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
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not trained:
            return
        ahead = [self._momentum(parameter, group["momentum"]) for parameter in trained]
        with torch.autocast(trained[0].device.type, enabled=False):
            updates = orthogonalised(ahead)
        lr = group["lr"]
        for parameter, update in zip(trained, updates, strict=True):
            update = update * (UPDATE_SIZE * max(parameter.shape) ** 0.5)
            parameter.mul_(1 - lr * group["weight_decay"])
            if isinstance(lr, Tensor):  # on the device, where a graph reads it anew in each step
                parameter.sub_((update * lr).to(parameter.dtype))
            else:
                parameter.add_(update.to(parameter.dtype), alpha=-lr)

    def _momentum(self, parameter: Tensor, decay: float) -> Tensor:
        """Add the gradient to a matrix's momentum; return Nesterov's look-ahead of it."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # not counted; AdamW looks for one as it is loaded
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(parameter.grad, 1 - decay)
        return parameter.grad.lerp(momentum, decay)


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return about U V^T for each matrix U S V^T (R, C).

    Singular values become 0.7 to 1.2, but for those that are next to nothing beside the largest.
    """
    wide = [matrix.float() if _is_wide(matrix) else matrix.float().T for matrix in matrices]
    alike = defaultdict(list)
    for i, x in enumerate(wide):
        alike[x.shape].append(i)
    found = list(wide)
    for shape, members in alike.items():
        most = max(MAX_STACK // shape.numel(), 1)
        for begin in range(0, len(members), most):
            stacked = members[begin : begin + most]
            results = _iterated(torch.stack([wide[i] for i in stacked]))
            for i, x in zip(stacked, results, strict=True):
                found[i] = x
    return [x if _is_wide(m) else x.T for x, m in zip(found, matrices, strict=True)]


def _iterated(x: Tensor) -> Tensor:
    """Orthogonalise matrices of one shape (N, R, C), R <= C."""
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    if 2 * x.shape[2] < 3 * x.shape[1]:  # the iteration on x takes fewer operations
        for _ in range(ITERATIONS):
            x = _factor(x @ x.mT) @ x
        return x
    gram = x @ x.mT
    product = factor = _factor(gram)
    for _ in range(ITERATIONS - 1):
        gram = gram @ factor @ factor  # of factor @ x; polynomials in one matrix commute
        factor = _factor(gram)
        product = product @ factor
    return product @ x


def _factor(gram: Tensor) -> Tensor:
    """Return what one iteration multiplies matrices by, given their products X X^T (N, R, R)."""
    factor = torch.baddbmm(gram, gram, gram, beta=CUBIC, alpha=QUINTIC)
    factor.diagonal(dim1=1, dim2=2).add_(LINEAR)
    return factor


def _is_wide(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """Return the trained matrices of linear layers, without those that map to a vocabulary."""
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "head" and module.weight.requires_grad
    ]
