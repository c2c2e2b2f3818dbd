"""Cross-entropy over a large vocabulary without holding its logits.

The logits of a batch (2,048 tokens, 5,000 words: 41 MB) do not fit into a processor's cache, and
the plain loss writes and reads them several times over, forwards and backwards. Here a few rows at
a time go all the way: logits, surprise, gradient, and its two products, while the rows are in the
cache. The gradient is thus known in the forward pass, and the backward pass only scales it. Of a
vocabulary too large for that, memory holds 128 rows of logits at a time, whatever the batch.

Shapes: N rows, D width, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits held at a time: what a processor's cache takes, and enough to fill a GPU.
MAX_LOGITS = {"cpu": 1 << 20}
MAX_LOGITS_ELSEWHERE = 1 << 26
# Rows held at a time, at least. Each chunk reads the head and its gradient: with the five rows that
# a cache takes of 199,000 words, a step waits for memory. 128 rows of logits are as large as the
# head itself at width 128.
MIN_ROWS = 128


def vocabulary_cross_entropy(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the mean nats of ``targets`` (N,) under the logits ``states @ weight.T``.

    The same value and gradients as ``F.cross_entropy(F.linear(states, weight), targets)``; there is
    no second derivative. Under autocast the products are made in its type, the rest in float32.

    Args:
        states: (N, D), normalised.
        weight: (V, D), the output head.
        targets: (N,) ids.
    """
    if not torch.is_grad_enabled():
        logits = F.linear(states, weight)
        return F.cross_entropy(logits.to(_sum_type(logits)), targets)
    if torch.is_autocast_enabled(states.device.type):
        product_type = torch.get_autocast_dtype(states.device.type)
        states, weight = states.to(product_type), weight.to(product_type)
    loss: Tensor = _ChunkedCrossEntropy.apply(states, weight, targets)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The rows in chunks, each with its gradient."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        n, vocab_size = len(states), len(weight)
        limit = MAX_LOGITS.get(states.device.type, MAX_LOGITS_ELSEWHERE)
        rows = min(max(limit // vocab_size, MIN_ROWS), n)
        logits = states.new_empty(rows, vocab_size)
        nats = torch.empty(n, dtype=_sum_type(states), device=states.device)
        grad_states = torch.empty_like(states)
        grad_weight = torch.zeros_like(weight, dtype=nats.dtype)
        for begin in range(0, n, rows):
            chunk = slice(begin, begin + rows)
            part = torch.mm(states[chunk], weight.t(), out=logits[: min(rows, n - begin)])
            nats[chunk], grad_logits = _surprise_and_gradient(part, targets[chunk], n)
            torch.mm(grad_logits, weight, out=grad_states[chunk])
            if grad_logits.dtype == grad_weight.dtype:
                # Not addmm_, which torch's counter of operations does not know.
                torch.addmm(grad_weight, grad_logits.t(), states[chunk], out=grad_weight)
            else:
                grad_weight += grad_logits.t() @ states[chunk]
        ctx.save_for_backward(grad_states, grad_weight.to(weight.dtype))
        return nats.mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_states, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return grad_states * scale.to(grad_states.dtype), grad_weight * scale, None


def _surprise_and_gradient(logits: Tensor, targets: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the nats of each row (R,), and the gradient of their sum over ``n``, (R, V)."""
    product_type, logits = logits.dtype, logits.to(_sum_type(logits))
    target = targets[:, None]
    top = logits.amax(dim=1, keepdim=True)
    at_target = logits.gather(1, target)
    unnormalised = logits.sub_(top).exp_()
    total = unnormalised.sum(dim=1, keepdim=True)
    nats = total.log() + top - at_target
    gradient = unnormalised.mul_(1 / (total * n))
    gradient.scatter_add_(1, target, torch.full_like(total, -1 / n))
    return nats[:, 0], gradient.to(product_type)


def _sum_type(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
