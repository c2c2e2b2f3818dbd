"""Text from a net with ``attention=recursive``: past states are kept, and a chunk is drafted.

The look-ahead states of a chunk are a proposal for its tokens, made together with its first one.
Speculative sampling (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318) turns it
into text: one run over the causal states of all drafted tokens says which of them can stay, and
what is drawn has the distribution of token-by-token sampling. The same run opens the next chunk, so
that where all of them stay a chunk costs one run.

Shapes: B sequences, T tokens, n new tokens, m drafted tokens, C chunk, L window, V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from trm_lightning.models import LanguageNet, RecursiveNet
from trm_lightning.models.kv_cache import GrowingWindow
from trm_lightning.sampling.methods import Draw


@torch.no_grad()
def continue_recursively(
    net: RecursiveNet, text: Tensor, draw: Draw, speculative: bool
) -> Iterator[Tensor]:
    """Yield ids (B, n) that continue ``text`` (B, T); only states of new tokens run.

    A full window goes on with the last half of its tokens, in whole chunks, which are read anew
    behind a start token: kept keys and values hold positions, so it cannot slide.

    Args:
        net: with ``attention=recursive``, in evaluation mode.
        text: (B, T), T at most L - 1 and with room for the rest of a chunk.
        draw: how ids are drawn.
        speculative: with ``factorization=left_to_right`` and B = 1, draft and verify chunks.
    """
    write = _write_token
    if net.factorization == "parallel":
        write = _write_rest
    elif speculative and len(text) == 1 and net.chunk_size > 1:
        write = _write_verified
    start = text.new_full((len(text), 1), net.start_token)
    while True:
        window, inputs = GrowingWindow(net), torch.cat((start, text), dim=1)
        while inputs.shape[1] <= net.window_size:
            if window.n_read < inputs.shape[1]:
                window.read(inputs[:, window.n_read :])
            for ids in write(window, window.last, draw):
                yield ids
                inputs = torch.cat((inputs, ids), dim=1)
        n_chunks = net.window_size // 2 // net.chunk_size
        text = inputs[:, inputs.shape[1] - n_chunks * net.chunk_size :]


def log_probs_of(net: LanguageNet, states: Tensor) -> Tensor:
    """Return the distributions that states (B, n, D) predict, (B, n, V), on the CPU."""
    return torch.log_softmax(net.logits(states).float(), dim=-1).cpu()


def _write_token(window: GrowingWindow, state: Tensor, draw: Draw) -> Iterator[Tensor]:
    """Yield the token (B, 1) that ``state`` (B, 1, D) predicts."""
    yield draw(log_probs_of(window.net, state)).to(state.device)


def _write_rest(window: GrowingWindow, state: Tensor, draw: Draw) -> Iterator[Tensor]:
    """Yield the rest of the chunk (B, n), its tokens independent of each other.

    ``state`` (B, 1, D) predicts the next token, in parallel with the others where that is the
    chunk's first; the look ahead predicts all others.
    """
    n_known = _n_known(window)
    states = window.look_ahead[:, max(n_known - 1, 0) :]
    if n_known == 0:
        states = torch.cat((state, states), dim=1)
    yield draw(log_probs_of(window.net, states)).to(state.device)


def _write_verified(window: GrowingWindow, state: Tensor, draw: Draw) -> Iterator[Tensor]:
    """Yield the rest of the chunk in blocks (1, n): a token, then drafted ones that were verified.

    Drafts are drawn from what the look ahead predicts, which knows only tokens before the chunk.
    So those behind a rejected token have the same proposal as before, and are verified again.
    """
    net, n_known = window.net, _n_known(window)
    token = draw(log_probs_of(net, state)).to(state.device)
    yield token
    proposed = draw.probs(log_probs_of(net, window.look_ahead[:, n_known:]))[0]
    drafted = draw.pick(proposed)
    while len(drafted) > 0:
        n_read = window.n_read
        unread = torch.cat((token, drafted[None].to(token.device)), dim=1)
        unread = unread[:, : net.window_size - n_read]  # no room for the next chunk's first state
        states = window.read(unread)[:, : len(drafted)]
        wanted = draw.probs(log_probs_of(net, states))[0]
        ids = verify(drafted, proposed, wanted, draw)
        if not torch.equal(ids, drafted):
            # The states behind the last of these ids have read drafts that did not stay.
            window.forget(n_read + len(ids))
        drafted, proposed = drafted[len(ids) :], proposed[len(ids) :]
        token = ids[None, -1:].to(token.device)
        yield ids[None].to(token.device)


def verify(drafted: Tensor, proposed: Tensor, wanted: Tensor, draw: Draw) -> Tensor:
    """Return the first drafted tokens, as many as are accepted, and one in place of the next.

    A token x that was drawn from q is accepted with probability min(1, p(x) / q(x)); the first
    that is not is replaced by one drawn from max(p - q, 0), normalised. Each token that is
    returned is then distributed as p, given those before it.

    Args:
        drafted: (m,) ids.
        proposed: (m, V) q, what they were drawn from.
        wanted: (m, V) p, of each token if those before it are accepted.
        draw: draws the replacement.

    Returns:
        (n,) ids, 1 to m of them.
    """
    of_drafted = drafted[:, None]
    ratio = (wanted.gather(1, of_drafted) / proposed.gather(1, of_drafted))[:, 0]
    accepted = torch.rand(len(drafted), generator=draw.generator, dtype=ratio.dtype) < ratio
    n = int(accepted.cumprod(dim=0).sum())
    if n == len(drafted):
        return drafted
    lacking = (wanted[n] - proposed[n]).clamp(min=0)
    # Rounding alone can reject where p equals q, and leaves nothing to draw from.
    weights = lacking if float(lacking.sum()) > 0 else wanted[n]
    return torch.cat((drafted[:n], draw.pick(weights)[None]))


def _n_known(window: GrowingWindow) -> int:
    """Return how many tokens of the present chunk are known."""
    return (window.n_read - 1) % window.net.chunk_size
