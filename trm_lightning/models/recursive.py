"""The recursion that TRM and Looped share: the same blocks refine an answer again and again.

A subclass gives one refinement (:meth:`Recursive.refine`); :meth:`Recursive.unroll` repeats it, and
training, scoring, generation and analysis all go through :meth:`Recursive.unroll`.

Shapes: B windows, T tokens, S look-ahead states, C chunk, D width, V vocabulary.
"""

import copy
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trm_lightning.models.arguments import (
    chunk_problems,
    exit_problems,
    mixing_problems,
    puzzle_problems,
    raise_problems,
    recursion_problems,
)
from trm_lightning.models.base import LogProbs, Predictions, Reading, SupervisionStep
from trm_lightning.models.board import BoardWindow
from trm_lightning.models.early_exit import EarlyExit, State, halting_head, halting_loss
from trm_lightning.models.kv_cache import CachedWindow
from trm_lightning.models.lookahead import Pass, Window
from trm_lightning.models.transformer import Transformer

SYMBOLS = ("y", "z")  # of the tensors in a State


@dataclass(frozen=True)
class RecursiveOutput:
    """What one supervision step predicts, as states that :meth:`Transformer.distribution` maps.

    Attributes:
        answer: (B, T - first, D) predicts the tokens from ``first`` on.
        intermediate: the same after each earlier refinement that carries gradient.
        state: y (and z) of all states, detached; the next supervision step continues from it.
        lookahead: (B, n, D) how the other factorization predicts some tokens; None without chunks.
        lookahead_columns: (n,) which tokens, counted from ``first``.
    """

    answer: Tensor
    intermediate: list[Tensor]
    state: State
    lookahead: Tensor | None = None
    lookahead_columns: Tensor | None = None


class Recursive(Transformer):
    """A Transformer whose blocks refine all states of a window several times.

    Args:
        n_refinements: T in the paper, updates of the answer in one supervision step.
        n_supervision: N_sup in the paper, supervision steps per batch, each with its own optimizer
            step; also run when scoring.
        backprop_depth: how many of the last refinements carry gradient in training; None for all.
        chunk_size: C, tokens predicted together; divides the window.
        factorization: ``left_to_right``, token j of a chunk given the ones before it, an exact
            chain rule; ``parallel``, a chunk's tokens independent of each other given the context.
        exit_threshold: states stop where a refinement changes their answer by less than this part
            of its norm; with a halting head, where that gives a higher probability of being
            right; None for the full depth. See :class:`EarlyExit`.
        intermediate_loss_weight: weight in the loss of the answer after each refinement before
            the last, where it carries gradient.
        lookahead_loss_weight: weight in the loss of the other factorization's predictions.
        halt_loss_weight: weight in the loss of a head that learns, after each refinement with
            gradient, whether the likeliest token is the right one; on puzzles, as in the paper,
            whether all cells are, and there its gradient reaches the blocks. 0 for no such head.
        chunk_visibility: whether the states of a chunk see its look-ahead states; without it, each
            of those sees itself and the text alone.
        puzzle_size: C, cells of the puzzles whose answers are predicted together; None for text.
        puzzle_columns: of its board; None for one row.
        mixing: how the cells of a puzzle see each other: by ``attention``, by an ``mlp`` over the
            cells (:class:`CellMlp`), or by a ``convolution`` over neighbours
            (:class:`CellConvolution`). Text has attention.
        transformer: the arguments of :class:`Transformer`.

    Raises:
        UserError: naming every argument that does not fit.
    """

    can_exit_early = True

    def __init__(
        self,
        *,
        n_refinements: int,
        n_supervision: int = 1,
        backprop_depth: int | None = None,
        chunk_size: int = 1,
        factorization: Literal["left_to_right", "parallel"] = "left_to_right",
        exit_threshold: float | None = None,
        intermediate_loss_weight: float = 0.0,
        lookahead_loss_weight: float = 0.1,
        halt_loss_weight: float = 0.0,
        chunk_visibility: bool = True,
        puzzle_size: int | None = None,
        puzzle_columns: int | None = None,
        mixing: Literal["attention", "mlp", "convolution"] = "attention",
        **transformer: Any,
    ) -> None:
        backprop_depth = n_refinements if backprop_depth is None else backprop_depth
        raise_problems(
            chunk_problems(transformer["window_size"], chunk_size)
            + recursion_problems(n_refinements, n_supervision, backprop_depth, exit_threshold)
            + puzzle_problems(
                puzzle_size, transformer["window_size"], chunk_size, factorization, chunk_visibility
            )
            + mixing_problems(mixing, puzzle_size, puzzle_columns)
        )
        board_shape = None
        if puzzle_size is not None:
            columns = puzzle_columns or puzzle_size
            board_shape = puzzle_size // columns, columns
        super().__init__(**transformer, mixing=mixing, board_shape=board_shape)
        self.n_refinements = n_refinements
        self.n_supervision = n_supervision
        self.backprop_depth = backprop_depth
        self.chunk_size = chunk_size
        self.factorization = factorization
        self.exit_threshold = exit_threshold
        self.intermediate_loss_weight = intermediate_loss_weight
        self.lookahead_loss_weight = lookahead_loss_weight
        self.chunk_visibility = chunk_visibility
        self.puzzle_size = puzzle_size
        self.halt_loss_weight = halt_loss_weight
        if self.norm == "post":
            # Match the unit-RMS states that the embeddings are added to in every pass.
            self.embedding_scale = math.sqrt(self.width)
        self.halt: nn.Linear | None = None
        if halt_loss_weight > 0:
            self.halt = halting_head(self.width)
        self.query: nn.Parameter | None = None
        if chunk_size > 1:
            std = 0.02 * self.embedding_scale
            self.query = nn.Parameter(torch.randn(chunk_size - 1, self.width) * std)

    # The recursion.

    @abstractmethod
    def initial_state(self, run: Pass) -> State:
        """Return the state that refinement starts from, (B, T + S, D) each."""

    @abstractmethod
    def refine(self, run: Pass, state: State, n_recursions: int | None = None) -> State:
        """Return the state after one refinement.

        Args:
            run: runs the blocks once.
            state: the answer, and the latent where there is one.
            n_recursions: latent updates, other than the model's own; analysis reads these off.
        """

    def unroll(self, run: Pass, state: State, depth: int) -> Iterator[State]:
        """Yield the state after each of ``depth`` refinements.

        In training only the last ``backprop_depth`` carry gradient; when scoring all do, so that
        an audit by gradients sees every path. States that exit early stay as they are; training
        runs the whole loop all the same, so that all processes do equal work.
        """
        no_grad = max(depth - self.backprop_depth, 0) if self.training else 0
        exits = None
        if self.exit_threshold is not None:
            exits = EarlyExit(self.exit_threshold, run.exit_groups, self.halt)
        for i in range(depth):
            if exits is not None and not self.training and exits.all_exited:
                self.skip(run, state)
                yield state
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and i >= no_grad):
                refined = self.refine(run, state)
                state = refined if exits is None else exits(state, refined)
            yield state

    def skip(self, run: Pass, state: State) -> None:
        """Do what later states need of a refinement whose outcome is known: none changes."""
        self.refine(run, state)

    def forward(
        self, tokens: Tensor, first: int = 0, state: State | None = None
    ) -> RecursiveOutput:
        """Run one supervision step.

        Args:
            tokens: (B, T) ids.
            first: tokens before this position are not predicted.
            state: where the supervision step before stopped; None starts afresh.
        """
        window = self._open(tokens, first)
        state = self.initial_state(window.blocks_pass) if state is None else state
        states = list(self.unroll(window.blocks_pass, state, self.n_refinements))
        *earlier, answer = [window.scored(y) for y, *_ in states]
        other = window.other_prediction(states[-1][0]) or ()
        intermediate = [y for y in earlier if y.requires_grad]
        detached = tuple(part.detach() for part in states[-1])
        return RecursiveOutput(answer, intermediate, detached, *other)

    # Training.

    def supervision_step(
        self, tokens: Tensor, first: int = 0, state: Any = None
    ) -> SupervisionStep:
        """See :meth:`LanguageModel.supervision_step`."""
        out, targets = self(tokens, first, state), tokens[:, first:]
        loss = nll = self.nll(out.answer, targets)
        if self.intermediate_loss_weight > 0:
            for y in out.intermediate:
                loss = loss + self.intermediate_loss_weight * self.nll(y, targets)
        if out.lookahead is not None:
            ahead = self.nll(out.lookahead, targets[:, out.lookahead_columns])
            loss = loss + self.lookahead_loss_weight * ahead
        if self.halt is not None:
            answers = torch.stack([*out.intermediate, out.answer])
            loss = loss + self.halt_loss_weight * self._halting_loss(self.halt, answers, targets)
        return SupervisionStep(loss, nll, out.state, self._halted(out.answer))

    def _halting_loss(self, head: nn.Module, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of the head's guesses for ``answers`` (n, B, T, D)."""
        with torch.no_grad():
            right = self.logits(answers).argmax(dim=-1) == targets
        if self.puzzle_size is None:
            # Detached: the head judges the answers, they do not learn to please it.
            return halting_loss(head(answers.detach())[..., 0], right)
        # As in the paper, the network learns to show in its answer whether a board is solved: one
        # guess for each, the mean over its cells.
        return halting_loss(head(answers)[..., 0].mean(dim=-1), right.all(dim=-1))

    @torch.no_grad()
    def _halted(self, answer: Tensor) -> Tensor | None:
        """Say which windows are more likely solved than not, by the halting head; (B,)."""
        if self.halt is None:
            return None
        likely: Tensor = self.halt(answer)[..., 0].mean(dim=1) > 0
        return likely

    def restarted(self, state: State, rows: Tensor) -> State:
        """See :meth:`LanguageModel.restarted`; y and z start at zero."""
        return tuple(part.masked_fill(rows[:, None, None], 0.0) for part in state)

    def training_log_probs(self, tokens: Tensor, state: Any = None) -> Predictions:
        """See :meth:`LanguageModel.training_log_probs`."""
        out: RecursiveOutput = self(tokens, self.puzzle_size or 0, state)
        found = {"loss": self.distribution(out.answer)}
        if out.lookahead is not None:
            found["look-ahead loss"] = torch.zeros_like(found["loss"])
            found["look-ahead loss"][:, out.lookahead_columns] = self.distribution(out.lookahead)
        return found, out.state

    # Scores.

    @property
    def scoring_depth(self) -> int:  # type: ignore[override]
        """Refinements that a score is made with: those of all supervision steps."""
        return self.n_supervision * self.n_refinements

    @property
    def supervised_depths(self) -> int:  # type: ignore[override]
        """How many of the last refinements of a supervision step the loss is made of."""
        return self.backprop_depth if self.intermediate_loss_weight > 0 else 1

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        """See :meth:`LanguageModel.log_probs`."""
        return self.log_probs_at(tokens, [self.scoring_depth], first)[0]

    def log_probs_at(self, tokens: Tensor, depths: Sequence[int], first: int = 0) -> list[Tensor]:
        """See :meth:`LanguageModel.log_probs_at`; depth 0 is the state that a chunk starts from."""
        window = self._open(tokens, first)
        answers = self._answers(window.blocks_pass, max(depths))
        return [self.distribution(window.scored(answers[depth])) for depth in depths]

    @torch.no_grad()
    def depths(self, tokens: Tensor, first: int = 0) -> Tensor:
        """See :meth:`LanguageModel.depths`."""
        window = self._open(tokens, first)
        answers = self._answers(window.blocks_pass, self.scoring_depth)
        scored = [window.scored(y) for y in answers]
        changed = [(new != old).any(dim=-1) for old, new in itertools.pairwise(scored)]
        return torch.stack(changed).sum(dim=0).cpu()

    @torch.no_grad()
    def exit_depths(
        self, tokens: Tensor, thresholds: Sequence[float], first: int = 0
    ) -> list[Tensor]:
        """See :meth:`LanguageModel.exit_depths`.

        One run to the full depth tells all: no board sees another, nor what it would have become.
        """
        run = self._open(tokens, first).blocks_pass
        answers = self.with_exit_threshold(None)._answers(run, self.scoring_depth)
        found = []
        for threshold in thresholds:
            exits = EarlyExit(threshold, run.exit_groups, self.halt)
            stops = [exits.stops(old, new)[:, 0, 0] for old, new in itertools.pairwise(answers)]
            stops[-1] = torch.ones_like(stops[-1])
            found.append(torch.stack(stops).int().argmax(dim=0) + 1)
        return found

    def with_exit_threshold(self, threshold: float | None) -> "Recursive":
        """See :meth:`LanguageModel.with_exit_threshold`."""
        raise_problems(exit_problems(threshold))
        other = copy.copy(self)
        other.exit_threshold = threshold
        return other

    # Generation.

    def open_window(self) -> CachedWindow | None:
        """See :meth:`LanguageModel.open_window`."""
        isolated = self.chunk_size > 1 and not self.chunk_visibility
        if isolated or self.puzzle_size is not None:
            return None
        return CachedWindow(
            self, lambda run: self._answers(run, self.scoring_depth)[-1], self.query
        )

    # Analysis.

    def trace(
        self, tokens: Tensor, first: int = 0, depth: int = 0, by_recursion: int = 0
    ) -> Iterator[Reading]:
        """See :meth:`LanguageModel.trace`."""
        window = self._open(tokens, first)
        run, n = window.blocks_pass, self.n_recursions
        state = self.initial_state(run)
        yield self._reading(window, 0, n, state)
        for refinement in range(1, depth + 1):
            for k in range(1, n) if refinement <= by_recursion else ():
                yield self._reading(window, refinement, k, self.refine(run, state, k))
            state = self.refine(run, state)
            yield self._reading(window, refinement, n, state)

    def ablations(self) -> dict[str, tuple[str, LogProbs]]:
        """See :meth:`LanguageModel.ablations`."""
        found: dict[str, tuple[str, LogProbs]] = {
            "no refinement": (
                "scored by the state that a chunk starts from",
                lambda tokens, first: self.log_probs_at(tokens, [0], first)[0],
            )
        }
        if self.chunk_size == 1:
            return found
        meaning = "the states of a chunk do not see each other"
        if self.chunk_visibility:
            found["no mutual visibility"] = (meaning, self._isolated_log_probs)
        if self.factorization == "left_to_right":
            parallel = copy.copy(self)
            parallel.factorization = "parallel"
            meaning = "a chunk's tokens are predicted in parallel, none given another"
            found["independent tokens"] = (meaning, partial(parallel.log_probs))
        return found

    def _isolated_log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        window = self._open_text(tokens, first)
        answers = self._answers(window.blocks_pass.isolated(), self.scoring_depth)
        return self.distribution(window.scored(answers[-1]))

    def _open(self, tokens: Tensor, first: int) -> Window | BoardWindow:
        if self.puzzle_size is not None:
            return BoardWindow(self, tokens, first, self.puzzle_size)
        return self._open_text(tokens, first)

    def _open_text(self, tokens: Tensor, first: int) -> Window:
        window = Window(self, self.query, tokens, first, self.factorization)
        if not self.chunk_visibility:
            window.blocks_pass = window.blocks_pass.isolated()
        return window

    def _answers(self, run: Pass, depth: int) -> list[Tensor]:
        """Return y after 0, 1, …, ``depth`` refinements."""
        state = self.initial_state(run)
        return [state[0], *(y for y, *_ in self.unroll(run, state, depth))]

    def _reading(
        self, window: Window | BoardWindow, refinement: int, recursion: int, state: State
    ) -> Reading:
        states = {name: window.scored(part) for name, part in zip(SYMBOLS, state, strict=False)}
        return Reading(refinement, recursion, self.distribution(states["y"]), states)
