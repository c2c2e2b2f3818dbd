"""The Tiny Recursive Model for text: predict a chunk of tokens together, then refine it.

After "Less is More: Recursive Reasoning with Tiny Networks" (arXiv 2510.04871). One small net
updates a latent ``z`` several times in view of the context and the present answer ``y``, then the
answer in view of ``z``, again and again. The algorithm is :meth:`RecursiveNet.refine` and
:meth:`RecursiveNet.unroll`; the rest says how a chunk starts and what it may see.

Shapes: B windows, T tokens, C chunk, S states (T rounded up to whole chunks, less the chunks
before ``first``), D width, V vocabulary.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trm_lightning.models.arguments import (
    chunk_problems,
    combination_problems,
    halting_problems,
    raise_problems,
    recursion_problems,
)
from trm_lightning.models.base import LanguageNet
from trm_lightning.models.context import Context
from trm_lightning.models.early_exit import Halting, State
from trm_lightning.models.lookahead import open_chunks


@dataclass(frozen=True)
class Refined:
    """What one supervision step gives.

    Attributes:
        answer: (B, T - first, D) refined states that predict the tokens from ``first`` on.
        earlier: the same after each refinement before the last that carries gradient.
        state: y and z, detached, from which the next supervision step goes on.
        draft: (B, n, D) another prediction of some of them, to be supervised too: the encoder's
            own with ``chunk_start=draft``, the look ahead with ``attention=recursive``.
        drafted: (n,) which of them, counted from ``first``.
    """

    answer: Tensor
    earlier: list[Tensor]
    state: State
    draft: Tensor | None = None
    drafted: Tensor | None = None


class RecursiveNet(LanguageNet):
    """Chunk prediction by recursion; takes :class:`LanguageNet`'s arguments and these.

    Args:
        chunk_size: C, tokens predicted together; divides the window.
        n_refinements: T in the paper, updates of the answer in one supervision step.
        n_recursions: n in the paper, updates of the latent before each update of the answer.
        n_supervision: N_sup in the paper, supervision steps per batch, also run when scoring.
        grad_refinements: how many of the last refinements carry gradient in training.
        chunk_start: ``query``, learned embeddings; ``draft``, what the encoder says already;
            ``target``, embeddings of the very tokens to predict, so that no score of such a net
            is a likelihood.
        attention: ``cached``, the context's keys and values are computed once and all chunks of
            a window are refined at once; ``joint``, context and chunk run through the blocks
            together without a mask, with a context of exactly ``context_size`` tokens;
            ``recursive``, the states of all tokens are refined at once, each from the tokens
            before it, and look-ahead states for a chunk's later tokens with them.
        factorization: ``left_to_right``, token j of a chunk given the ones before it, an exact
            chain rule in C passes; ``parallel``, independent tokens given the context.
        context_size: tokens before a chunk; the window without its last chunk.
        halt_below: the states of a chunk stop when a refinement changes their answer by less than
            this part of its size; None refines all to the full depth. See :class:`Halting`. With
            truncated gradients, what stops before them teaches the blocks nothing.
        net_arguments: the arguments of :class:`LanguageNet`.
    """

    def __init__(
        self,
        *,
        chunk_size: int,
        n_refinements: int,
        n_recursions: int,
        n_supervision: int = 1,
        grad_refinements: int = 1,
        chunk_start: Literal["query", "draft", "target"] = "draft",
        attention: Literal["joint", "cached", "recursive"] = "cached",
        factorization: Literal["parallel", "left_to_right"] = "left_to_right",
        context_size: int | None = None,
        halt_below: float | None = None,
        **net_arguments: Any,
    ) -> None:
        window_size = net_arguments["window_size"]
        context_size = window_size - chunk_size if context_size is None else context_size
        raise_problems(
            chunk_problems(window_size, context_size, chunk_size)
            + recursion_problems(
                n_refinements,
                n_recursions,
                n_supervision,
                grad_refinements,
                halt_below,
            )
            + combination_problems(chunk_start, attention, factorization)
        )
        super().__init__(**net_arguments)
        self.chunk_size = chunk_size
        self.n_refinements = n_refinements
        self.n_recursions = n_recursions
        self.n_supervision = n_supervision
        self.grad_refinements = grad_refinements
        self.chunk_start: str = chunk_start
        self.attention = attention
        self.factorization = factorization
        self.context_size = context_size
        self.halt_below = halt_below
        self.n_passes = n_refinements * (n_recursions + 1)
        if attention == "recursive" and self.norm == "post":
            # What is added to a state of unit size at every pass must be heard beside it.
            self.embedding_scale = math.sqrt(self.width)
        self.query: nn.Parameter | None = None
        if chunk_start != "target":
            std = 0.02 * self.embedding_scale
            self.query = nn.Parameter(torch.randn(chunk_size, self.width) * std)
            # Behind a refinement without gradient it cannot learn, unless each one is given it
            # anew: then it is a constant.
            self.query.requires_grad_(attention == "recursive" or grad_refinements == n_refinements)

    # The recursion: equations of the paper's figure 3, with x seen through the context.

    def refine(self, context: Context, y: Tensor, z: Tensor) -> State:
        """Run one refinement: n recursions of the latent, then the answer once."""
        for _ in range(self.n_recursions):
            z = context(y + z)
        return context(y + z), z

    def unroll(self, context: Context, y: Tensor, z: Tensor, depth: int) -> Iterator[State]:
        """Yield y and z after each of ``depth`` refinements.

        In training only the last ``grad_refinements`` carry gradient; when scoring all do, so
        that an audit by gradients sees every path. Chunks that halt stay as they are; training
        goes through the whole loop all the same, so that all processes do equal work.
        """
        free = max(depth - self.grad_refinements, 0) if self.training else 0
        halting = None if self.halt_below is None else Halting(self.halt_below, context.units)
        for i in range(depth):
            if not self.training and self.n_recursions == 0 and halting and halting.all_stopped:
                context.skip(y + z)
                yield y, z
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and i >= free):
                refined = self.refine(context, y, z)
                y, z = refined if halting is None else halting((y, z), refined)
            yield y, z

    def forward(
        self,
        tokens: Tensor,
        state: State | None = None,
        first: int = 0,
        revealed: Tensor | None = None,
    ) -> Refined:
        """Run one supervision step.

        Args:
            tokens: (B, T) ids.
            state: where the supervision step before stopped; None starts afresh.
            first: tokens before this position are not predicted.
            revealed: (B, number of chunks from ``first`` on) how many tokens of each chunk are
                known; None for none.
        """
        chunks = open_chunks(self, tokens, first)
        context, y = chunks.open(0 if revealed is None else revealed)
        y, z = (y, torch.zeros_like(y)) if state is None else state
        answers = []
        for y, z in self.unroll(context, y, z, self.n_refinements):  # noqa: B007, B020
            answers.append(chunks.by_position(y))
        *earlier, answer = answers
        earlier = [early for early in earlier if early.requires_grad]
        draft = chunks.draft(y) or ()
        return Refined(answer, earlier, (y.detach(), z.detach()), *draft)

    # Scoring.

    @property
    def is_likelihood(self) -> bool:  # type: ignore[override]
        """Whether scores are likelihoods: not when chunks start at the answer."""
        return self.chunk_start != "target"

    @property
    def reveals(self) -> bool:
        """Whether training reveals a random number of each chunk's first tokens."""
        sequential = self.factorization == "left_to_right" and self.chunk_size > 1
        return sequential and self.attention != "recursive"

    @property
    def steps_alike(self) -> bool:
        """See :attr:`LanguageNet.steps_alike`; revealed prefixes and halting are waited for."""
        return super().steps_alike and not self.reveals and self.halt_below is None

    @property
    def scoring_depth(self) -> int:
        """Refinements that a score is made with: those of all supervision steps."""
        return self.n_supervision * self.n_refinements

    def scorers(self) -> dict[str, Callable[[Tensor, int], Tensor]]:
        """See :meth:`LanguageNet.scorers`; a net that is given the answer is scored both ways."""
        if self.chunk_start != "target":
            return super().scorers()
        blind = self.without_answer().log_probs
        name = "not_a_perplexity" if self.leaks else "ppl_without_answer"
        return {"warm_start_ppl": self.log_probs, name: blind}

    def without_answer(self) -> "RecursiveNet":
        """Return the weights of a ``target`` net with chunks that start from positions alone."""
        if self.chunk_start != "target":
            return self
        net = copy.copy(self)
        net.chunk_start = "query"
        return net

    def halting_below(self, bound: float | None) -> "RecursiveNet":
        """Return the same weights with another ``halt_below``; None for the full depth.

        Raises:
            UserError: when the bound is not over zero.
        """
        raise_problems(halting_problems(bound))
        net = copy.copy(self)
        net.halt_below = bound
        return net

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        """See :meth:`LanguageNet.log_probs`."""
        return self.log_probs_at(tokens, [self.scoring_depth], first)[0]

    def log_probs_at(self, tokens: Tensor, depths: Sequence[int], first: int = 0) -> list[Tensor]:
        """Return :meth:`log_probs` after each number of refinements in ``depths``.

        Depth 0 is the state that a chunk starts from.
        """
        chunks = open_chunks(self, tokens, first)
        n_scored = tokens.shape[1] - first
        scores: dict[int, Tensor] = {}
        for columns, context, y in chunks.passes():
            unrolled = self.unroll(context, y, torch.zeros_like(y), max(depths))
            answers = [y, *(answer for answer, _ in unrolled)]
            for depth in set(depths):
                states = chunks.by_position(answers[depth])[:, columns]
                part = torch.log_softmax(self.logits(states).float(), dim=-1)
                if len(columns) == n_scored:
                    scores[depth] = part
                    continue
                # Filled pass by pass: over a large vocabulary there is room for one copy.
                if depth not in scores:
                    scores[depth] = part.new_empty(len(part), n_scored, part.shape[-1])
                scores[depth][:, columns] = part
        return [scores[depth] for depth in depths]

    @torch.no_grad()
    def depths(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Return with how many refinements :meth:`log_probs` scores each token, (B, T - first)."""
        chunks = open_chunks(self, tokens, first)
        found = torch.empty(len(tokens), tokens.shape[1] - first, dtype=torch.long)
        for columns, context, y in chunks.passes():
            unrolled = self.unroll(context, y, torch.zeros_like(y), self.scoring_depth)
            answers = [chunks.by_position(a)[:, columns] for a in (y, *(a for a, _ in unrolled))]
            found[:, columns.cpu()] = _depths(answers).cpu()
        return found


def _depths(answers: Sequence[Tensor]) -> Tensor:
    """Return how many refinements changed each state of ``answers`` (B, S, D), (B, S)."""
    changed = [(new != old).any(dim=-1) for old, new in itertools.pairwise(answers)]
    return torch.stack(changed).sum(dim=0)
