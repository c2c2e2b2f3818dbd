"""What an audit knows of a net: that it scores tokens, and what else it may offer.

Shapes: B rows, T tokens, C chunk, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

SEED = 0  # of every draw of an audit: the same net gets the same verdict


class Scorer(Protocol):
    """A net that scores tokens; ``log_probs`` as :meth:`LanguageNet.log_probs` describes it."""

    vocab_size: int
    window_size: int

    def log_probs(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Return (B, T - first, V): the distributions of the tokens from ``first`` on."""
        ...

    def train(self, mode: bool = True) -> Any:
        """As of every module."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """As of every module."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """As of every module."""
        ...


@runtime_checkable
class Refines(Protocol):
    """A net that refines chunks, is supervised in steps and carries a state between them."""

    chunk_size: int
    factorization: str
    reveals: bool
    n_refinements: int
    n_supervision: int
    scoring_depth: int

    def log_probs_at(self, tokens: Tensor, depths: Sequence[int], first: int = 0) -> list[Tensor]:
        """Return ``log_probs`` after each number of refinements."""
        ...

    def logits(self, states: Tensor) -> Tensor:
        """Map states to logits."""
        ...

    def __call__(self, tokens: Tensor, state: Any, *, revealed: Tensor | None) -> Any:
        """Run a supervision step; gives ``answer``, ``draft`` and the ``state`` to go on from."""
        ...


def embedding_of(net: Scorer) -> nn.Embedding | None:
    """Return the embedding that all tokens enter through, to which gradients can be taken.

    No protocol: from Python 3.12 on, ``isinstance`` does not look for a module's submodules.
    """
    embedding = getattr(net, "token_embedding", None)
    return embedding if isinstance(embedding, nn.Embedding) else None


def device_of(net: Scorer) -> torch.device:
    """Return the device that the net's weights are on."""
    return next(net.parameters()).device


def eval_scores(net: Scorer, tokens: Tensor, first: int = 0) -> dict[str, Tensor]:
    """Return every distribution (B, T - first, V) that a score is read from, by name."""
    net.train(False)
    scores = {"score": net.log_probs(tokens, first)}
    if isinstance(net, Refines):
        # After each supervision step but the last, which is the score itself; 0 is the start.
        depths = [net.n_refinements * step for step in range(net.n_supervision)]
        for depth, score in zip(depths, net.log_probs_at(tokens, depths, first), strict=True):
            scores[f"score after {depth} refinements"] = score
    return scores


def all_scores(net: Scorer, tokens: Tensor) -> dict[str, Tensor]:
    """Return :func:`eval_scores` and the distributions (B, T, V) that losses are read from.

    Two calls draw the same random numbers, so that with dropout, too, what differs between them
    comes from the tokens. Rows of a chunk that a loss does not count are 0.
    """
    with torch.no_grad():
        scores = eval_scores(net, tokens)
        net.train()
        torch.manual_seed(SEED)
        scores["score in train mode"] = net.log_probs(tokens)
        if isinstance(net, Refines):
            scores |= _training_scores(net, tokens)
    net.train(False)
    return scores


def _training_scores(net: Refines, tokens: Tensor) -> dict[str, Tensor]:
    """Run the supervision steps of a batch, the state carried on; at least two of them."""
    revealed, counts = _revealed(net, tokens)
    scores, state = {}, None
    for step in range(1, max(2, net.n_supervision) + 1):
        refined = net(tokens, state, revealed=revealed)
        answer = torch.log_softmax(net.logits(refined.answer).float(), dim=-1)
        scores[f"loss of supervision step {step}"] = answer.masked_fill(~counts[..., None], 0)
        if refined.draft is not None:
            draft = torch.zeros_like(answer)
            drafted = torch.log_softmax(net.logits(refined.draft).float(), dim=-1)
            draft[:, refined.drafted] = drafted
            scores[f"draft loss of supervision step {step}"] = draft
        state = refined.state
    return scores


def _revealed(net: Refines, tokens: Tensor) -> tuple[Tensor | None, Tensor]:
    """Reveal another number of tokens in each row and chunk, where training reveals any.

    Returns:
        The numbers (B, chunks) or None, and which positions (B, T) are still to be predicted.
    """
    n_rows, n_tokens = tokens.shape
    if not net.reveals:
        return None, torch.ones_like(tokens, dtype=torch.bool)
    size = net.chunk_size
    rows = torch.arange(n_rows, device=tokens.device)[:, None]
    positions = torch.arange(n_tokens, device=tokens.device)
    revealed = (rows + torch.arange(-(-n_tokens // size), device=tokens.device)) % size
    return revealed, positions % size >= revealed[:, positions // size]


@contextmanager
def undisturbed(net: Scorer) -> Iterator[None]:
    """Leave random generators, modes and matrix precision as they were; compile nothing."""
    modes = [(module, module.training) for module in net.modules()]
    precision = torch.get_float32_matmul_precision()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    try:
        torch.set_float32_matmul_precision("highest")
        with torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
            torch.manual_seed(SEED)
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for module, training in modes:
            module.training = training
