"""Text from a net: every token is drawn from the very distribution that scores it.

Shapes: B sequences, T tokens, C chunk, L window, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trm_lightning.errors import UserError
from trm_lightning.models import AutoregressiveNet, LanguageNet, RecursiveNet
from trm_lightning.models.lookahead import open_chunks
from trm_lightning.models.transformer import KeysValues
from trm_lightning.sampling.methods import Draw
from trm_lightning.sampling.speculative import continue_recursively, log_probs_of

__all__ = ["Draw", "sample", "sample_batch"]


def sample(
    net: LanguageNet,
    prompt_ids: Sequence[int],
    n_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator,
    speculative: bool = True,
) -> Iterator[int]:
    """Yield the ids that continue one prompt, as they are drawn.

    Args:
        net: in evaluation mode.
        prompt_ids: may be empty: the net's start token stands before every window.
        n_tokens: how many ids to yield.
        temperature: see :class:`Draw`, as for the next arguments.
        top_k: see there.
        top_p: see there.
        generator: see there.
        speculative: see :func:`sample_batch`.

    Raises:
        UserError: naming every setting out of range; at once, not at the first id.
    """
    device = next(net.parameters()).device
    prompt = torch.tensor([list(prompt_ids)], dtype=torch.long, device=device)
    draw = Draw(generator, temperature, top_k, top_p)
    blocks = sample_batch(net, prompt, n_tokens, draw, speculative=speculative)
    return (int(token) for block in blocks for token in block[0])


def sample_batch(
    net: LanguageNet, prompts: Tensor, n_tokens: int, draw: Draw, *, speculative: bool = False
) -> Iterator[Tensor]:
    """Yield ids (B, n) that continue ``prompts`` (B, T), ``n_tokens`` of them in all; T may be 0.

    n is 1, or what is left of a chunk where its tokens are predicted together. A net that is
    scored with the answer in view (``is_likelihood`` false) generates without it.

    Args:
        net: in evaluation mode.
        prompts: (B, T) ids.
        n_tokens: how many ids to yield per prompt.
        draw: called with the distribution of each token; see ``speculative``.
        speculative: where states look ahead (``attention=recursive``, left to right) and B = 1,
            verify several drafted tokens at once: the same distribution of the text in fewer
            passes, with n accepted tokens at a time, but not each drawn by a call of ``draw``.

    Raises:
        UserError: naming every setting out of range.
    """
    problems = _setting_problems(n_tokens, draw)
    if problems:
        raise UserError("The sampling settings do not fit: " + "; ".join(problems) + ".")
    if net.training:
        raise ValueError("the net is in training mode: its dropout would change what is sampled")
    if not net.is_likelihood:
        net = net.without_answer()
    if isinstance(net, RecursiveNet) and net.attention == "recursive":
        text = _last_chunks(net, prompts)
        return _first(n_tokens, continue_recursively(net, text, draw, speculative))
    if isinstance(net, RecursiveNet):
        return _first(n_tokens, _continue_by_chunks(net, prompts, draw))
    if isinstance(net, AutoregressiveNet):
        return _first(n_tokens, _continue_by_tokens(net, prompts, draw))
    return _first(n_tokens, _continue_by_scores(net, prompts, draw))


def _first(n_tokens: int, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    """Yield blocks (B, n) up to ``n_tokens`` tokens."""
    while n_tokens > 0:
        block = next(blocks)[:, :n_tokens]
        n_tokens -= block.shape[1]
        yield block


@torch.no_grad()
def _continue_by_scores(net: LanguageNet, text: Tensor, draw: Draw) -> Iterator[Tensor]:
    """Draw token by token from ``log_probs`` alone: for nets that keep nothing between tokens."""
    while True:
        text = _last(text, net.window_size - 1)
        unread = text.new_full((len(text), 1), net.start_token)
        log_probs = net.log_probs(torch.cat((text, unread), dim=1), text.shape[1])[:, 0]
        token = draw(log_probs.cpu())[:, None].to(text.device)
        yield token
        text = torch.cat((text, token), dim=1)


@torch.no_grad()
def _continue_by_tokens(net: AutoregressiveNet, text: Tensor, draw: Draw) -> Iterator[Tensor]:
    """Yield one token (B, 1) after another; only new tokens are encoded, past ones are kept.

    Kept keys and values hold positions, so a full window cannot slide by one: it goes on with
    the last half of its tokens, which are encoded anew behind a start token.
    """
    size = net.window_size
    start = text.new_full((len(text), 1), net.start_token)
    inputs = torch.cat((start, _last(text, size - 1)), dim=1)
    past: list[KeysValues] | None = None
    while True:
        states, past = net.encode(inputs, past)
        token = _draw(net, states[:, -1:], draw)
        yield token
        text = _last(torch.cat((text, token), dim=1), size)
        if past[0][0].shape[2] < size:
            inputs = token
        else:
            inputs, past = torch.cat((start, _last(text, size // 2)), dim=1), None


@torch.no_grad()
def _continue_by_chunks(net: RecursiveNet, text: Tensor, draw: Draw) -> Iterator[Tensor]:
    """Yield the rest of the present chunk (``parallel``) or its next token (``left_to_right``).

    Each step encodes the window once and refines one chunk, to the depth of a score.
    """
    sequential = net.factorization == "left_to_right"
    while True:
        text = _last_chunks(net, text)
        n_known = text.shape[1] % net.chunk_size
        window = F.pad(text, (0, net.chunk_size - n_known), value=net.start_token)
        chunks = open_chunks(net, window, first=text.shape[1] - n_known)
        context, y = chunks.open(n_known if sequential else 0)
        *_, (answer, _) = net.unroll(context, y, torch.zeros_like(y), net.scoring_depth)
        states = chunks.by_position(answer)[:, n_known : n_known + 1 if sequential else None]
        tokens = _draw(net, states, draw)
        yield tokens
        text = torch.cat((text, tokens), dim=1)


def _draw(net: LanguageNet, states: Tensor, draw: Draw) -> Tensor:
    """Draw an id from each state, (B, n, D) -> (B, n)."""
    return draw(log_probs_of(net, states)).to(states.device)


def _last_chunks(net: RecursiveNet, text: Tensor) -> Tensor:
    """Drop whole chunks from the front, so that the chunk to come still fits into the window.

    Where the tokens of a chunk are predicted together, the beginning of a chunk cannot tell
    anything about its rest. Then chunks are counted from the end, and what a prompt has beyond
    whole chunks is dropped from its front, unless it is shorter than a chunk.
    """
    n_whole, n_rest = divmod(text.shape[1], net.chunk_size)
    if net.factorization == "parallel" and n_whole > 0:
        n_rest = 0
    n_whole = min(n_whole, net.window_size // net.chunk_size - 1)
    return _last(text, n_whole * net.chunk_size + n_rest)


def _last(tokens: Tensor, n: int) -> Tensor:
    """Return the last ``n`` tokens of (B, T), or all where there are fewer."""
    return tokens[:, max(tokens.shape[1] - n, 0) :]


def _setting_problems(n_tokens: int, draw: Draw) -> list[str]:
    problems = []
    if n_tokens < 1:
        problems.append(f"n_tokens must be at least 1 (is {n_tokens})")
    if not 0 <= draw.temperature < float("inf"):
        problems.append(f"temperature must be 0 or more (is {draw.temperature})")
    if draw.top_k is not None and draw.top_k < 1:
        problems.append(f"top_k must be at least 1, or null for all (is {draw.top_k})")
    if draw.top_p is not None and not 0 < draw.top_p <= 1:
        problems.append(f"top_p must lie in (0, 1], or be null for all (is {draw.top_p})")
    return problems
