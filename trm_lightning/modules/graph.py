"""A training step that a GPU replays, instead of being told each kernel of it.

A step of a net of this size is several hundred kernels of a few microseconds, and Python takes
longer to launch one than the GPU to run it. A CUDA graph holds them all and is launched once.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from trm_lightning.errors import UserError

Scalars = tuple[Tensor, ...]


class GraphedStep:
    """Records a training step as a CUDA graph, and replays it for all batches that follow.

    It takes the place of ``optimizer.step``: that call then is the whole step on :attr:`tokens`, so
    that what counts or wraps the optimizer's steps needs to know nothing of it. The first steps,
    and those on batches of another shape, are made as ever.

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
        self._graph: torch.cuda.CUDAGraph | None = None
        self._n_warm = 0

        @functools.wraps(self._update)  # a schedule has left its mark on it
        def step(closure: Callable[[], float] | None = None) -> None:
            self._step()

        optimizer.step = step  # type: ignore[method-assign, assignment]

    def _step(self) -> None:
        if self._graph is None and self._n_warm < self.WARM_UP:
            self._n_warm += 1
            self._warm_up()
            return
        if self._graph is None:
            self._record()
        if self.tokens.shape != self._input.shape:
            self.numbers = self._train(self.tokens)
            return
        assert self._graph is not None
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
        """Train beside the default stream, on which nothing may be recorded."""
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):
            self.numbers = self._train(self.tokens)
        here.wait_stream(beside)

    def _record(self) -> None:
        self._input = self.tokens.clone()
        self._graph = torch.cuda.CUDAGraph()
        # Copies of weights that autocast has made would be read for ever after.
        torch.clear_autocast_cache()
        with self._rates_on_device():
            try:
                with torch.cuda.graph(self._graph):
                    self._output = self._train(self._input)
            except RuntimeError as error:
                raise UserError(
                    f"The training step cannot be recorded as a CUDA graph: {error}",
                    "Train without one: cuda_graph=false.",
                ) from error
        torch.clear_autocast_cache()

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Let the optimizer read learning rates from tensors, which keep their place."""
        groups = self._optimizer.param_groups
        kept = [dict(group) for group in groups]
        self._rates = [self._input.new_tensor(g["lr"], dtype=torch.float32) for g in groups]
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate
                if "capturable" in group:
                    group["capturable"] = True
            yield
        finally:
            for group, own in zip(groups, kept, strict=True):
                group.update(own)
