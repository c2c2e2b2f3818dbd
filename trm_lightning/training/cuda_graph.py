"""A training step that a GPU replays, instead of being told each kernel of it.

A step of a net of this size is several hundred kernels of a few microseconds, and Python takes
longer to launch one than the GPU to run it. A CUDA graph holds them all and is launched once.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import AdamW, Optimizer

from trm_lightning.errors import UserError

Scalars = tuple[Tensor, ...]
# Lightning's, in the parts of a step.
HOOKS = (
    "on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
)  # fmt: skip


class GraphedStep:
    """Records a training step as a CUDA graph, and replays it for all batches that follow.

    It takes the place of ``optimizer.step``: that call then is the whole step on :attr:`tokens`, so
    that Lightning goes on counting it. What hooks into its parts is called while it is recorded
    and not again; see :func:`can_be_graphed`. The first steps, and those on batches of another
    shape, are made as ever.

    Args:
        compute: forward pass, backward pass and clipping for ids (B, L); returns numbers for the
            log. It must not wait for the GPU, nor depend on anything but tensors that stay where
            they are.
        optimizer: makes the update. Its learning rates may change from step to step.

    Attributes:
        tokens: (B, L) ids to train on in the next step.
        numbers: what ``compute`` returned in the last one.
    """

    WARM_UP = 3  # steps in which libraries and the optimizer allocate what they keep

    tokens: Tensor
    numbers: Scalars

    def __init__(self, compute: Callable[[Tensor], Scalars], optimizer: Optimizer) -> None:
        self._compute = compute
        self._optimizer = optimizer
        self._update = optimizer.step
        self._n_warm = 0
        # Once there is a graph, what it reads and writes.
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input: Tensor
        self._rates: list[Tensor]
        self._output: Scalars

        @functools.wraps(self._update)  # keeps the mark by which a schedule knows its optimizer
        def step(closure: Callable[[], float] | None = None) -> None:
            self._step()

        optimizer.step = step  # type: ignore[method-assign, assignment]

    def _step(self) -> None:
        if self._graph is None and self._n_warm < self.WARM_UP:
            self._n_warm += 1
            self._warm_up()
            return
        if self._graph is None:
            self._graph = self._record()
        if self.tokens.shape != self._input.shape:
            self.numbers = self._train(self.tokens)
            return
        self._input.copy_(self.tokens)
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._graph.replay()
        self.numbers = tuple(number.clone() for number in self._output)

    def _train(self, tokens: Tensor) -> Scalars:
        numbers = self._compute(tokens)
        self._update()
        return tuple(number.detach() for number in numbers)

    def _warm_up(self) -> None:
        """Train beside the default stream: a recording must not wait for what belongs to that."""
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            self.numbers = self._train(self.tokens)
        here.wait_stream(beside)

    def _record(self) -> torch.cuda.CUDAGraph:
        self._input = self.tokens.clone()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        # Copies of weights, where autocast keeps some, would be read from then on.
        torch.clear_autocast_cache()
        with self._rates_on_device():
            try:
                with torch.cuda.graph(graph):
                    self._output = self._train(self._input)
            except RuntimeError as error:
                torch.cuda.set_stream(stream)  # torch stays on its own where a recording fails
                raise UserError(
                    f"The training step cannot be recorded as a CUDA graph: {error}",
                    "Train without one: cuda_graph=false.",
                ) from error
        return graph

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Let the optimizer read learning rates from tensors, which keep their place."""
        groups = self._optimizer.param_groups
        kept = [dict(group) for group in groups]
        self._rates = [self._input.new_tensor(g["lr"], dtype=torch.float32) for g in groups]
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"], group["capturable"] = rate, True
            yield
        finally:
            for group, own in zip(groups, kept, strict=True):
                group.update(own)


def can_be_graphed(trainer: L.Trainer, module: L.LightningModule, optimizer: Optimizer) -> bool:
    """Say whether a training step may be replayed: nothing takes part that a graph leaves out.

    One GPU; an optimizer whose whole state is on it (Muon, fused AdamW); no scaling of the loss,
    which decides on the CPU; no callback that hooks into the parts of a step.
    """
    one_gpu = isinstance(trainer.strategy, SingleDeviceStrategy) and module.device.type == "cuda"
    scales = getattr(trainer.precision_plugin, "scaler", None) is not None
    on_device = isinstance(optimizer, AdamW) and all(g["fused"] for g in optimizer.param_groups)
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    hooked = any(
        getattr(type(owner), name) is not getattr(base, name)
        for base, owners in ((L.Callback, callbacks), (L.LightningModule, [module]))
        for owner in owners
        for name in HOOKS
    )
    return one_gpu and on_device and not scales and not hooked
