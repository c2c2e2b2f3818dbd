"""The two research notes' own model, for reproduction. Its numbers are not perplexities.

A context of N tokens is encoded causally, once. The chunk after it starts from the embeddings of
the very tokens to predict (``start=target``), and context and chunk then run through the blocks
together, without a mask. ``start=query`` is the author's later fix: learned queries instead of the
answer. Only tests and experiments named ``reproduce`` use this model; TRM shares no code with it
but the Transformer block.

Shapes: B windows, T tokens, R chunks of all windows, N context tokens, C chunk, D width.
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_lightning.models.arguments import (
    MOST_PASSES,
    chunk_problems,
    most_problems,
    raise_problems,
    recursion_problems,
)
from trm_lightning.models.base import (
    LanguageModel,
    LogProbs,
    Predictions,
    Reading,
    SupervisionStep,
)
from trm_lightning.models.early_exit import State
from trm_lightning.models.transformer import Transformer


class SourceTRM(Transformer):
    """Takes :class:`Transformer`'s arguments and these.

    Args:
        chunk_size: C, tokens predicted together, independent of each other given the context.
        n_refinements: T, updates of the answer in a supervision step.
        n_recursions: n, updates of the latent before each of them.
        n_supervision: supervision steps per batch, y and z carried over, detached.
        backprop_depth: how many of the last refinements carry gradient: 1 in the notes, all of
            them in the author's fix. Queries learn only where all do.
        start: what a chunk starts from: ``target``, its own answer; ``query``, learned vectors
            drawn from N(0, 1).
        transformer: the arguments of :class:`Transformer`.
    """

    factorization = "parallel"
    text_only = True

    def __init__(
        self,
        *,
        chunk_size: int,
        n_refinements: int,
        n_recursions: int,
        n_supervision: int = 1,
        backprop_depth: int = 1,
        start: Literal["target", "query"] = "target",
        **transformer: Any,
    ) -> None:
        raise_problems(
            chunk_problems(transformer["window_size"], chunk_size)
            + recursion_problems(n_refinements, n_supervision, backprop_depth, None)
            + most_problems({"n_recursions": n_recursions}, MOST_PASSES)
        )
        super().__init__(**transformer)
        self.chunk_size = chunk_size
        self.n_context = self.window_size - chunk_size
        self.n_refinements = n_refinements
        self.n_recursions = n_recursions
        self.n_supervision = n_supervision
        self.backprop_depth = backprop_depth
        self.start = start
        self.is_likelihood = start == "query"
        self.n_passes = n_refinements * (n_recursions + 1)
        self.scoring_depth = n_supervision * n_refinements
        self.supervised_depths = 1
        self.query: nn.Parameter | None = None
        if start == "query":
            self.query = nn.Parameter(torch.randn(chunk_size, self.width))
            self.query.requires_grad_(backprop_depth == n_refinements)

    # The notes' function.

    def one_pass(self, context: Tensor, h: Tensor) -> Tensor:
        """Run the blocks over context (R, N, D) and chunk (R, C, D); return the chunk's states."""
        n = context.shape[1]
        rows, last = torch.cat((context, h), dim=1), self.layers[-1]
        for block in self.layers[:-1]:
            rows, _ = block(rows)
        # The context's own states after the last block are never read.
        return last(rows[:, n:], past=last.keys_values(rows[:, :n]))[0]

    def refine(self, context: Tensor, state: State) -> State:
        """Update the latent n times, then the answer once."""
        y, z = state
        for _ in range(self.n_recursions):
            z = self.one_pass(context, y + z)
        return self.one_pass(context, y + z), z

    def unroll(self, context: Tensor, state: State, depth: int) -> Iterator[State]:
        """Yield the state after each refinement; in training the first ones have no gradient."""
        no_grad = max(depth - self.backprop_depth, 0) if self.training else 0
        for i in range(depth):
            with torch.set_grad_enabled(torch.is_grad_enabled() and i >= no_grad):
                state = self.refine(context, state)
            yield state

    def open(self, tokens: Tensor, first: int) -> tuple[Tensor, State]:
        """Encode the contexts (R, N, D) of all chunks from position ``first`` on; start y and z.

        Start tokens fill what a context lacks, and a last chunk that is cut off.
        """
        size, begin = self.chunk_size, first // self.chunk_size * self.chunk_size
        padding = (self.n_context, -tokens.shape[1] % size)
        rows = F.pad(tokens, padding, value=self.start_token)[:, begin:]
        rows = rows.unfold(1, self.window_size, size).reshape(-1, self.window_size)
        context, chunk = rows.split((self.n_context, size), dim=1)
        positions = torch.arange(self.n_context, self.window_size, device=tokens.device)
        if self.start == "target":
            y = self.embed(chunk, positions)
        else:
            query = torch.zeros(size, self.width) if self.query is None else self.query
            y = query.to(tokens.device).expand(len(rows), -1, -1)
            if self.position_embedding is not None:
                y = y + self.position_embedding(positions)
        return self.encode(context), (y, torch.zeros_like(y))

    # See LanguageModel for the rest.

    def forward(self, tokens: Tensor, first: int = 0, state: State | None = None) -> State:
        """Return y and z (R, C, D) after one supervision step."""
        context, start = self.open(tokens, first)
        *_, last = self.unroll(context, start if state is None else state, self.n_refinements)
        return last

    def supervision_step(
        self, tokens: Tensor, first: int = 0, state: Any = None
    ) -> SupervisionStep:
        """See :meth:`LanguageModel.supervision_step`."""
        y, z = self(tokens, first, state)
        nll = self.nll(self._by_position(y, tokens, first), tokens[:, first:])
        return SupervisionStep(nll, nll, (y.detach(), z.detach()))

    def training_log_probs(self, tokens: Tensor, state: Any = None) -> Predictions:
        """See :meth:`LanguageModel.training_log_probs`."""
        y, z = self(tokens, 0, state)
        return {"loss": self.distribution(self._by_position(y, tokens, 0))}, (y, z)

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        """See :meth:`LanguageModel.log_probs`."""
        return self.log_probs_at(tokens, [self.scoring_depth], first)[0]

    def log_probs_at(self, tokens: Tensor, depths: Any, first: int = 0) -> list[Tensor]:
        """See :meth:`LanguageModel.log_probs_at`."""
        context, state = self.open(tokens, first)
        answers = [state[0], *(y for y, _ in self.unroll(context, state, max(depths)))]
        return [self.distribution(self._by_position(answers[d], tokens, first)) for d in depths]

    def scorers(self) -> dict[str, LogProbs]:
        """Score a model that is given the answer both with and without it."""
        if self.start == "query":
            return super().scorers()
        blind = "not_a_perplexity" if self.leaks else "ppl_without_answer"
        return {"warm_start_ppl": self.log_probs, blind: self.without_answer().log_probs}

    def without_answer(self) -> LanguageModel:
        """Return the same weights with chunks that start from their positions alone."""
        if self.start == "query":
            return self
        blind = copy.copy(self)
        blind.start, blind.is_likelihood = "query", True
        return blind

    def trace(
        self, tokens: Tensor, first: int = 0, depth: int = 0, by_recursion: int = 0
    ) -> Iterator[Reading]:
        """See :meth:`LanguageModel.trace`; only whole refinements are read."""
        context, state = self.open(tokens, first)
        for refinement, (y, z) in enumerate([state, *self.unroll(context, state, depth)]):
            states = {
                name: self._by_position(part, tokens, first) for name, part in (("y", y), ("z", z))
            }
            log_probs = self.distribution(states["y"])
            yield Reading(refinement, self.n_recursions, log_probs, states)

    def ablations(self) -> dict[str, tuple[str, LogProbs]]:
        """See :meth:`LanguageModel.ablations`."""
        found: dict[str, tuple[str, LogProbs]] = {
            "no refinement": (
                "scored by the state that a chunk starts from",
                lambda tokens, first: self.log_probs_at(tokens, [0], first)[0],
            )
        }
        if self.chunk_size > 1:
            isolated = copy.copy(self)
            isolated.one_pass = partial(_one_by_one, self.one_pass)  # type: ignore[method-assign]
            meaning = "the tokens of a chunk do not see each other"
            found["no mutual visibility"] = (meaning, isolated.log_probs)
        if not self.is_likelihood:
            meaning = "started from positions alone: a likelihood"
            found["without the answer"] = (meaning, self.without_answer().log_probs)
        return found

    def _by_position(self, y: Tensor, tokens: Tensor, first: int) -> Tensor:
        """Order the states of chunks by the position they predict, (B, T - first, D)."""
        begin = first // self.chunk_size * self.chunk_size
        states = y.reshape(len(tokens), -1, self.width)
        return states[:, first - begin : tokens.shape[1] - begin]


def _one_by_one(one_pass: Any, context: Tensor, h: Tensor) -> Tensor:
    """Run a pass for each token of the chunk alone."""
    return torch.cat([one_pass(context, h[:, i : i + 1]) for i in range(h.shape[1])], dim=1)
