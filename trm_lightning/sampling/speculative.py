"""Speculative sampling: cheap drafts of several tokens, which one run of the model verifies.

Drafts come from the look-ahead states of a chunk, or from n-grams of the training text. After
Leviathan et al. (arXiv 2211.17192) and Chen et al. (arXiv 2302.01318): one run over the
causal states of all drafted tokens says which of them can stay, and what is drawn has the
distribution of token-by-token sampling.

Shapes: n tokens, m drafted tokens, T tokens of the text so far, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from trm_lightning.models import LanguageModel
from trm_lightning.models.base import IncrementalWindow
from trm_lightning.sampling.methods import Sampler
from trm_lightning.sampling.ngrams import NgramDrafts


def verified_blocks(
    model: LanguageModel, window: IncrementalWindow, sampler: Sampler, text: Tensor
) -> Iterator[Tensor]:
    """Yield the rest of the chunk in blocks (1, n): a token, then drafted ones that were verified.

    The run that verifies opens the next chunk, so that a chunk costs one run where all of its
    drafts are accepted. Drafts are drawn from what the look ahead predicts, which knows only tokens
    before the chunk. So those behind a rejected token have the same proposal as before, and are
    verified again.
    """
    n_known = (window.n_read - 1) % model.chunk_size
    token = sampler(window.distribution(window.last).cpu()).to(window.last.device)
    yield token
    proposed = sampler.probs(window.distribution(window.look_ahead[:, n_known:]).cpu())[0]
    drafted = sampler.draw(proposed)
    while len(drafted) > 0:
        n_read = window.n_read
        unread = torch.cat((token, drafted[None].to(token.device)), dim=1)
        unread = unread[:, : model.window_size - n_read]  # no room for the next chunk's first state
        states = window.read(unread)[:, : len(drafted)]
        wanted = sampler.probs(window.distribution(states).cpu())[0]
        ids = verify(drafted, proposed, wanted, sampler)
        if not torch.equal(ids, drafted):
            # The states behind the last of these ids have read drafts that did not stay.
            window.truncate(n_read + len(ids))
        drafted, proposed = drafted[len(ids) :], proposed[len(ids) :]
        token = ids[None, -1:].to(token.device)
        yield ids[None].to(token.device)


def ngram_blocks(
    ngrams: NgramDrafts,
    model: LanguageModel,
    window: IncrementalWindow,
    sampler: Sampler,
    text: Tensor,
) -> Iterator[Tensor]:
    """Yield blocks (1, n) until the window is full: drafts that were verified, and a token more.

    Args:
        ngrams: drafts the tokens.
        model: with chunks of one token.
        window: has read all of ``text``.
        sampler: draws drafts and tokens.
        text: (1, T) ids behind a start token.
    """
    context = text[0, 1:].tolist()
    device = window.last.device
    unread, n_read = text[:, :0], window.n_read
    while n_read + unread.shape[1] <= model.window_size:
        room = model.window_size - n_read - unread.shape[1]
        drafted, proposed = ngrams.draft(context, room, sampler)
        states, before = window.last, unread.shape[1]
        if before + len(drafted):
            read = window.read(torch.cat((unread, drafted[None].to(device)), dim=1))
            states = read if before else torch.cat((states, read), dim=1)
        wanted = sampler.probs(window.distribution(states).cpu())[0]
        ids = verify(drafted, proposed, wanted[: len(drafted)], sampler)
        if torch.equal(ids, drafted):  # and one that nothing was drafted for
            ids = torch.cat((ids, sampler.draw(wanted[-1:])))
        yield ids[None].to(device)
        context += ids.tolist()
        n_read += before + len(ids) - 1
        window.truncate(n_read)
        unread = ids[None, -1:].to(device)


def verify(drafted: Tensor, proposed: Tensor, wanted: Tensor, sampler: Sampler) -> Tensor:
    """Return the first drafted tokens, as many as are accepted, and one in place of the next.

    A token x that was drawn from q is accepted with probability min(1, p(x) / q(x)); the first
    that is not is replaced by one drawn from max(p - q, 0), normalised. Each token that is
    returned is then distributed as p, given those before it.

    Args:
        drafted: (m,) ids.
        proposed: (m, V) q, what they were drawn from.
        wanted: (m, V) p, of each token if those before it are accepted.
        sampler: draws the replacement.

    Returns:
        (n,) ids, 1 to m of them.
    """
    of_drafted = drafted[:, None]
    ratio = (wanted.gather(1, of_drafted) / proposed.gather(1, of_drafted))[:, 0]
    accepted = torch.rand(len(drafted), generator=sampler.generator, dtype=ratio.dtype) < ratio
    n = int(accepted.cumprod(dim=0).sum())
    if n == len(drafted):
        return drafted
    lacking = (wanted[n] - proposed[n]).clamp(min=0)
    # Rounding alone can reject where p equals q, and leaves nothing to draw from.
    weights = lacking if float(lacking.sum()) > 0 else wanted[n]
    return torch.cat((drafted[:n], sampler.draw(weights)[None]))
