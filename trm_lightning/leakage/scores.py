"""Every distribution that a score or a loss of a model is read from.

Shapes: B rows, T tokens, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trm_lightning.models import LanguageModel

SEED = 0  # of every draw of an audit: the same model gets the same verdict


def embedding_of(model: LanguageModel) -> nn.Embedding | None:
    """Return the embedding that all tokens enter through, to which gradients can be taken."""
    embedding = getattr(model, "token_embedding", None)
    return embedding if isinstance(embedding, nn.Embedding) else None


def device_of(model: LanguageModel) -> torch.device:
    """Return the device that the model's weights are on."""
    return next(model.parameters()).device


def eval_scores(model: LanguageModel, tokens: Tensor, first: int = 0) -> dict[str, Tensor]:
    """Return every distribution (B, T - first, V) that a score is read from, by name."""
    model.train(False)
    scores = {"score": model.log_probs(tokens, first)}
    if model.scoring_depth:
        # After each supervision step but the last, which is the score itself; 0 is the start.
        depths = list(range(0, model.scoring_depth, model.scoring_depth // model.n_supervision))
        for depth, score in zip(depths, model.log_probs_at(tokens, depths, first), strict=True):
            scores[f"score after {depth} refinements"] = score
    return scores


def all_scores(model: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    """Return :func:`eval_scores` and the distributions (B, T, V) that losses are read from.

    Two calls draw the same random numbers, so that with dropout, too, what differs between them
    comes from the tokens. Supervision steps carry their state on; at least two of them run.
    """
    with torch.no_grad():
        scores = eval_scores(model, tokens)
        model.train()
        torch.manual_seed(SEED)
        scores["score in train mode"] = model.log_probs(tokens)
        state = None
        for step in range(1, max(2, model.n_supervision) + 1):
            found, state = model.training_log_probs(tokens, state)
            for name, log_probs in found.items():
                scores[f"{name} of supervision step {step}"] = log_probs
            if state is None:
                break
    model.train(False)
    return scores


@contextmanager
def undisturbed(model: LanguageModel) -> Iterator[None]:
    """Leave random generators, modes and matrix precision as they were; compile nothing."""
    modes = [(module, module.training) for module in model.modules()]
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
