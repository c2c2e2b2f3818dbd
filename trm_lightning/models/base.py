"""What every model offers: one required method, and capabilities with defaults.

Shapes: B batch, T tokens (at most the window L), V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from trm_lightning.errors import UserError

LogProbs = Callable[[Tensor, int], Tensor]  # see LanguageModel.log_probs
Predictions = tuple[dict[str, Tensor], Any]  # see LanguageModel.training_log_probs


@dataclass(frozen=True)
class SupervisionStep:
    """The outcome of one supervision step.

    Attributes:
        loss: what is minimised, a scalar.
        nll: mean nats per supervised token, without auxiliary terms; what the log shows.
        state: where the next supervision step on the same batch continues; detached.
        halted: (B,) which windows a halting head holds for solved; None without such a head.
    """

    loss: Tensor
    nll: Tensor
    state: Any = None
    halted: Tensor | None = None


@dataclass(frozen=True)
class Reading:
    """The prediction that a model would make if it stopped here.

    Attributes:
        refinement: how many refinements have run; 0 is the state that a chunk starts from.
        recursion: latent updates in this refinement; fewer than the model's own number make an
            intermediate answer that is read off and not continued from.
        log_probs: (B, T - first, V).
        states: (B, T - first, D) each, by the paper's symbol: the answer ``y``, the latent ``z``.
    """

    refinement: int
    recursion: int
    log_probs: Tensor
    states: dict[str, Tensor] = field(default_factory=dict)


class IncrementalWindow(Protocol):
    """A window of text that is read in parts, with keys and values of what was read kept.

    Attributes:
        n_read: tokens that have been read, the start token included.
        last: (B, 1, D) state that predicts the next token.
        look_ahead: (B, C - 1, D) states that predict the present chunk's tokens 2 to C from the
            tokens before the chunk.
    """

    n_read: int
    last: Tensor
    look_ahead: Tensor

    def read(self, inputs: Tensor) -> Tensor:
        """Read ids (B, n); return (B, n, D) states, each of which predicts the token after."""
        ...

    def distribution(self, states: Tensor) -> Tensor:
        """Map states (…, D) to float32 log-probabilities (…, V)."""
        ...

    def truncate(self, n_read: int) -> None:
        """Drop everything after the first ``n_read`` tokens."""
        ...


class LanguageModel(nn.Module, ABC):
    """A language model over windows of at most ``window_size`` tokens.

    A subclass needs :meth:`log_probs`. With nothing else it trains, is scored, audited, analyzed
    and generates text. Everything else here declares what a model can do beyond that; no other
    part of the package asks a model for its class.

    A window is read as if its text began there: a start token stands before it, so the first
    token has a context too, and no model needs a special case for it.

    Args:
        vocab_size: V; known once the data are.
        start_token: id that stands before the first token.
        window_size: L, the longest window.
    """

    # Filled in by the program, so that a config need not give them.
    runtime_arguments: ClassVar[frozenset[str]] = frozenset({"vocab_size", "start_token"})

    is_likelihood = True  # False for a model that is given the tokens it is scored on
    leaks = False  # set by the leak audit
    chunk_size = 1  # C, tokens that are predicted together
    factorization: Literal["left_to_right", "parallel"] = "left_to_right"  # inside a chunk
    n_supervision = 1  # N_sup, optimizer steps per batch
    n_passes = 1  # how many times the blocks run for one prediction in one supervision step
    n_recursions = 0  # n, latent updates in a refinement
    scoring_depth = 0  # refinements that a score is made with; 0 where nothing is refined
    supervised_depths = 0  # of these, how many of the last ones the loss is made of
    text_only = False  # whether it makes no sense on puzzles
    puzzle_size: int | None = None  # cells that it answers together; None where it reads text
    can_exit_early = False  # whether with_exit_threshold gives a model of adaptive depth
    exit_threshold: float | None = None  # see EarlyExit; None for a fixed depth

    def __init__(self, vocab_size: int, start_token: int, window_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.start_token = start_token
        self.window_size = window_size

    # Scores.

    @abstractmethod
    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Return the distributions that score a window's tokens.

        Args:
            tokens: (B, T) ids, T at most L.
            first: entries before this position are not computed.

        Returns:
            (B, T - first, V) float32 natural logarithms. Entry t is the distribution of token
            ``first + t`` and depends only on the tokens before that one (``is_likelihood``).
        """

    def log_probs_at(self, tokens: Tensor, depths: Sequence[int], first: int = 0) -> list[Tensor]:
        """Return :meth:`log_probs` after each number of refinements in ``depths``."""
        return [self.log_probs(tokens, first) for _ in depths]

    def scorers(self) -> dict[str, LogProbs]:
        """Return the :meth:`log_probs` to score a split with, by the name of the metric.

        Only ``ppl`` and ``ppl_without_answer`` are perplexities. The first entry is what the
        model is trained for.
        """
        name = "ppl" if self.is_likelihood and not self.leaks else "not_a_perplexity"
        return {name: self.log_probs}

    def without_answer(self) -> "LanguageModel":
        """Return the same weights, not given the tokens to score; the model itself here."""
        return self

    # Training.

    def supervision_step(
        self, tokens: Tensor, first: int = 0, state: Any = None
    ) -> SupervisionStep:
        """Return the loss of the tokens from ``first`` on.

        Args:
            tokens: (B, T) ids.
            first: tokens before this position do not count in the loss.
            state: of the supervision step before on the same batch; None in the first.
        """
        targets = tokens[:, first:, None]
        nll = -self.log_probs(tokens, first).gather(2, targets).mean()
        return SupervisionStep(nll, nll)

    def restarted(self, state: Any, rows: Tensor) -> Any:
        """Return a supervision step's state with the windows ``rows`` (B,) as they start."""
        return state

    def training_log_probs(self, tokens: Tensor, state: Any = None) -> Predictions:
        """Return the distributions (B, T, V) that the loss is made of, by name, and the next state.

        The leak audit checks them; a position that the loss does not use holds zeros.
        """
        return {"loss": self.log_probs(tokens)}, None

    @property
    def cuda_graph_safe(self) -> bool:
        """Whether training steps can be recorded as a CUDA graph and replayed.

        They must differ only in their tokens and in random numbers drawn on the GPU: no state is
        carried from step to step, no decision depends on values, nothing requires a host sync.
        """
        return self.n_supervision == 1 and self.exit_threshold is None

    # Generation.

    def open_window(self) -> IncrementalWindow | None:
        """Return an empty window to generate into; None where text is drawn from log_probs."""
        return None

    # Depth.

    def with_exit_threshold(self, threshold: float | None) -> "LanguageModel":
        """Return the same weights with another ``exit_threshold``; None for the full depth.

        Raises:
            UserError: for a model that refines nothing, or a threshold out of range.
        """
        if threshold is None:
            return self
        raise UserError(
            f"exit_threshold={threshold}: this model refines nothing that could stop early.",
            "Leave it out.",
        )

    def depths(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Return how many refinements :meth:`log_probs` scores each token with, (B, T - first)."""
        return torch.full((len(tokens), tokens.shape[1] - first), self.scoring_depth)

    def exit_depths(
        self, tokens: Tensor, thresholds: Sequence[float], first: int = 0
    ) -> list[Tensor]:
        """Return the same for puzzles and several thresholds, (B,) each."""
        exiting = [self.with_exit_threshold(threshold) for threshold in thresholds]
        return [model.depths(tokens, first).max(dim=1).values for model in exiting]

    # Analysis.

    def trace(
        self, tokens: Tensor, first: int = 0, depth: int = 0, by_recursion: int = 0
    ) -> Iterator[Reading]:
        """Yield the prediction after each of ``depth`` refinements, the start first.

        Args:
            tokens: (B, T) ids.
            first: tokens before this position are not predicted.
            depth: refinements to run, at full depth for every token.
            by_recursion: up to this refinement, also yield the answer after each recursion.
        """
        yield Reading(0, 0, self.log_probs(tokens, first))

    def ablations(self) -> dict[str, tuple[str, LogProbs]]:
        """Return ways to score the model with a part taken out: what that means, and the scores."""
        return {}

    # Size.

    @property
    def layers(self) -> list[nn.Module]:
        """The modules that run once in each pass; used to count passes in generation."""
        return []

    def n_parameters(self) -> int:
        """Count the trained numbers; a tied head counts once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
