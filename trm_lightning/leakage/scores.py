"""Every distribution that a score or a loss of a model is read from.

Shapes: B rows, T tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from trm_lightning.models import LanguageModel
from trm_lightning.models.base import LogProbs

SEED = 0  # of every draw of an audit: the same model gets the same verdict


def embedding_of(model: LanguageModel) -> nn.Embedding | None:
    """Return the embedding that all tokens enter through, to which gradients can be taken."""
    embedding = getattr(model, "token_embedding", None)
    return embedding if isinstance(embedding, nn.Embedding) else None


def device_of(model: LanguageModel) -> torch.device:
    """Return the device that the model's weights are on."""
    return next(model.parameters()).device


def eval_scores(model: LanguageModel, log_probs: LogProbs, tokens: Tensor) -> dict[str, Tensor]:
    """Return every distribution (B, T, V) that a score is read from, by name.

    Args:
        model: the model.
        log_probs: the one of its scorers that is audited.
        tokens: (B, T) ids.
    """
    model.train(False)
    scores = {"score": log_probs(tokens, 0)}
    if model.scoring_depth:
        # After each supervision step but the last, which is the score itself; 0 is the start.
        depths = list(range(0, model.scoring_depth, model.scoring_depth // model.n_supervision))
        for depth, score in zip(depths, model.log_probs_at(tokens, depths), strict=True):
            scores[f"score after {depth} refinements"] = score
    return scores


def all_scores(model: LanguageModel, log_probs: LogProbs, tokens: Tensor) -> dict[str, Tensor]:
    """Return :func:`eval_scores` and the distributions (B, T, V) that losses are read from.

    Two calls draw the same random numbers, so that with dropout, too, what differs between them
    comes from the tokens. Supervision steps carry their state on; at least two of them run.
    """
    with torch.no_grad():
        scores = eval_scores(model, log_probs, tokens)
        model.train()
        torch.manual_seed(SEED)
        scores["score in train mode"] = log_probs(tokens, 0)
        state = None
        for step in range(1, max(2, model.n_supervision) + 1):
            found, state = model.training_log_probs(tokens, state)
            for name, predictions in found.items():
                scores[f"{name} of supervision step {step}"] = predictions
            if state is None:
                break
    model.train(False)
    return scores


@contextmanager
def undisturbed(model: LanguageModel) -> Iterator[None]:
    """Leave buffers, random generators, modes and precision as they were; compile nothing."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        with torch.random.fork_rng(_cuda()), torch.compiler.set_stance("force_eager"):
            torch.manual_seed(SEED)
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for module, training in modes:
            module.training = training


def rewinder(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """Remember the random generators; what is returned puts them back there for a while."""
    cpu = torch.get_rng_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def rewound() -> Iterator[None]:
        with torch.random.fork_rng(_cuda()):
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, device)
            yield

    return rewound


def _cuda() -> range:
    """Return the numbers of the GPUs."""
    return range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
