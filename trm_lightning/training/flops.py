"""The arithmetic of training, counted and not estimated: the project's only FLOP counter."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trm_lightning.models import LanguageModel


def count_flops(call: Callable[[], object]) -> int:
    """Return the floating point operations of the matrix products in ``call``.

    A multiplication and an addition are two operations. Attention counts as the dense products
    that it is without a fused kernel, whatever a mask hides. Norms, activations, dropout and the
    optimizer are left out, as is usual.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return int(counter.get_total_flops())


def training_flops(model: LanguageModel, tokens: Tensor, first: int = 0) -> int:
    """Return the FLOPs of one batch: all supervision steps, forward and backward.

    A copy of the model is run, so that its weights, gradients and buffers stay as they are; random
    numbers drawn later are the same as without this call.

    Args:
        model: on the device of ``tokens``.
        tokens: (B, T) ids; their values do not matter.
        first: tokens before this position do not count in the loss.
    """
    copied = copy.deepcopy(model).train()

    def train() -> None:
        state = None
        for _ in range(copied.n_supervision):
            step = copied.supervision_step(tokens, first, state)
            step.loss.backward()
            state = step.state

    on_cuda = tokens.device.type == "cuda"
    with torch.random.fork_rng(devices=[tokens.device] if on_cuda else []):
        return count_flops(train)
