"""Exponential moving average of a net's weights, updated after each optimizer step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EmaWeights:
    """Averaged copies of the trained parameters.

    Lightning's own averaging updates once per batch; deep supervision takes several optimizer
    steps in a batch, so the supervision loop calls :meth:`update` itself.

    Args:
        net: the net whose parameters are averaged.
        decay: weight of the old average, after a warm-up of (1 + n) / (10 + n) at step n.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.n_updates = 0
        self.average = {k: p.detach().clone() for k, p in net.named_parameters()}

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move the average towards the present weights."""
        self.n_updates += 1
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        parameters = dict(net.named_parameters())
        torch._foreach_lerp_(
            list(self.average.values()), [parameters[k] for k in self.average], 1 - decay
        )

    @contextmanager
    def applied_to(self, net: nn.Module) -> Iterator[None]:
        """Let ``net`` hold the averaged weights for a while."""
        self.exchange(net)
        try:
            yield
        finally:
            self.exchange(net)

    @torch.no_grad()
    def exchange(self, net: nn.Module) -> None:
        """Exchange the average and the net's weights; twice is the identity, bit for bit."""
        for key, parameter in net.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.average[key])
            self.average[key].copy_(kept)

    def state(self) -> dict[str, object]:
        """Return plain containers and tensors for a checkpoint."""
        return {"n_updates": self.n_updates, "average": dict(self.average)}

    def load_state(self, state: dict[str, object]) -> None:
        """Take over what :meth:`state` returned; values are copied to the present device."""
        average = state["average"]
        assert isinstance(average, dict) and isinstance(state["n_updates"], int)
        self.n_updates = state["n_updates"]
        for key, tensor in self.average.items():
            loaded = average[key]
            assert isinstance(loaded, Tensor)
            tensor.copy_(loaded)

    def to(self, device: torch.device) -> None:
        """Move the average to ``device``."""
        self.average = {k: v.to(device) for k, v in self.average.items()}
