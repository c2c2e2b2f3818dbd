"""Text from a model: every token is drawn from the very distribution that scores it.

Shapes: B sequences, T tokens, C chunk, L window, D width, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from trm_lightning.errors import UserError
from trm_lightning.models import LanguageModel
from trm_lightning.models.arguments import least_problems, raise_problems
from trm_lightning.models.base import IncrementalWindow
from trm_lightning.sampling.methods import Sampler
from trm_lightning.sampling.ngrams import NgramDrafts
from trm_lightning.sampling.speculative import ngram_blocks, verified_blocks


def sample(
    model: LanguageModel,
    prompt_ids: Sequence[int],
    n_tokens: int,
    sampler: Sampler,
    *,
    speculative: bool = True,
    drafts: NgramDrafts | None = None,
) -> Iterator[int]:
    """Yield the ids that continue one prompt, as they are drawn.

    Args:
        model: in evaluation mode.
        prompt_ids: may be empty: the model's start token stands before every window.
        n_tokens: how many ids to yield.
        sampler: draws an id from each distribution.
        speculative: see :func:`sample_batch`.
        drafts: see :func:`sample_batch`.

    Raises:
        UserError: for settings that do not fit; at once, not at the first id.
        ValueError: when the model is in training mode.
    """
    device = next(model.parameters()).device
    prompt = torch.tensor([list(prompt_ids)], dtype=torch.long, device=device)
    blocks = sample_batch(model, prompt, n_tokens, sampler, speculative=speculative, drafts=drafts)
    return (int(token) for block in blocks for token in block[0])


def sample_batch(
    model: LanguageModel,
    prompts: Tensor,
    n_tokens: int,
    sampler: Sampler,
    *,
    speculative: bool = False,
    drafts: NgramDrafts | None = None,
) -> Iterator[Tensor]:
    """Yield ids (B, n) that continue ``prompts`` (B, T), ``n_tokens`` of them in all; T may be 0.

    n is 1, or what is left of a chunk where its tokens are predicted together. A model that is
    scored with the answer in view (``is_likelihood`` false) generates without it.

    Args:
        model: in evaluation mode.
        prompts: (B, T) ids.
        n_tokens: how many ids to yield per prompt.
        sampler: called with the distribution of each token; see ``speculative``.
        speculative: with chunks scored left to right and B = 1, verify several drafted tokens at
            once: the same distribution of the text in fewer passes, with n accepted tokens at a
            time, but not each drawn by a call of ``sampler``.
        drafts: with chunks of one token and B = 1, tokens to verify in the same way.

    Raises:
        UserError: when ``n_tokens`` is less than 1, or nothing verifies the drafts.
        ValueError: when the model is in training mode.
    """
    raise_problems(least_problems({"n_tokens": (n_tokens, 1)}), "sampling")
    if model.training:
        raise ValueError("the model is in training mode: dropout would change what is sampled")
    model = model if model.is_likelihood else model.without_answer()
    text = _last_chunks(model, prompts)
    if drafts is not None and (model.open_window() is None or model.chunk_size > 1):
        raise UserError(
            "This model cannot verify drafts: it predicts chunks, or keeps nothing between tokens.",
            "Set n_drafts=0.",
        )
    if model.open_window() is None:
        return _first(n_tokens, _continue_by_scores(model, text, sampler))
    write: Write = _next_token
    if drafts is not None and len(text) == 1:
        write = partial(ngram_blocks, drafts)
    elif model.factorization == "parallel":
        write = _rest_of_chunk
    elif speculative and len(text) == 1 and model.chunk_size > 1:
        write = verified_blocks
    return _first(n_tokens, _continue_windows(model, text, sampler, write))


def _first(n_tokens: int, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield blocks (B, n) up to ``n_tokens`` tokens."""
    while n_tokens > 0:
        block = next(blocks)[:, :n_tokens]
        n_tokens -= block.shape[1]
        yield block


@torch.no_grad()
def _continue_by_scores(model: LanguageModel, text: Tensor, sampler: Sampler) -> Iterator[Tensor]:
    """Draw from ``log_probs`` alone, for models that keep nothing between tokens."""
    while True:
        text = _last_chunks(model, text)
        n_new = 1
        if model.factorization == "parallel":
            n_new = model.chunk_size - text.shape[1] % model.chunk_size
        unread = text.new_full((len(text), n_new), model.start_token)
        log_probs = model.log_probs(torch.cat((text, unread), dim=1), text.shape[1])
        tokens = sampler(log_probs.cpu()).to(text.device)
        yield tokens
        text = torch.cat((text, tokens), dim=1)


Write = Callable[[LanguageModel, IncrementalWindow, Sampler, Tensor], Iterator[Tensor]]


@torch.no_grad()
def _continue_windows(
    model: LanguageModel, text: Tensor, sampler: Sampler, write: Write
) -> Iterator[Tensor]:
    """Yield ids (B, n) that continue ``text`` (B, T); only the states of new tokens run.

    A full window continues with the last half of its tokens, in whole chunks, which are read anew
    behind a start token: kept keys and values hold positions, so it cannot slide.
    """
    start = text.new_full((len(text), 1), model.start_token)
    while True:
        window, inputs = model.open_window(), torch.cat((start, text), dim=1)
        assert window is not None
        while inputs.shape[1] <= model.window_size:
            if window.n_read < inputs.shape[1]:
                window.read(inputs[:, window.n_read :])
            for ids in write(model, window, sampler, inputs):
                yield ids
                inputs = torch.cat((inputs, ids), dim=1)
        n_chunks = model.window_size // 2 // model.chunk_size
        text = inputs[:, inputs.shape[1] - n_chunks * model.chunk_size :]


def _next_token(
    model: LanguageModel, window: IncrementalWindow, sampler: Sampler, text: Tensor
) -> Iterator[Tensor]:
    """Yield the next token (B, 1)."""
    yield sampler(window.distribution(window.last).cpu()).to(window.last.device)


def _rest_of_chunk(
    model: LanguageModel, window: IncrementalWindow, sampler: Sampler, text: Tensor
) -> Iterator[Tensor]:
    """Yield the rest of the chunk (B, n), its tokens independent of each other.

    The causal state predicts a chunk's first token, the look-ahead states all others.
    """
    n_known = (window.n_read - 1) % model.chunk_size
    states = window.look_ahead[:, max(n_known - 1, 0) :]
    if n_known == 0:
        states = torch.cat((window.last, states), dim=1)
    yield sampler(window.distribution(states).cpu()).to(states.device)


def _last_chunks(model: LanguageModel, text: Tensor) -> Tensor:
    """Drop whole chunks from the front, so that the chunk to come still fits into the window.

    Where a chunk's tokens are predicted together, the beginning of a chunk says nothing about its
    rest. Then chunks are counted from the end, and what a prompt has beyond whole chunks is dropped
    from its front, unless it is shorter than a chunk.
    """
    n_whole, n_rest = divmod(text.shape[1], model.chunk_size)
    if model.factorization == "parallel" and n_whole > 0:
        n_rest = 0
    n_whole = min(n_whole, model.window_size // model.chunk_size - 1)
    n = n_whole * model.chunk_size + n_rest
    return text[:, max(text.shape[1] - n, 0) :]
