"""A net's states after each recursion, and the same net without mutual visibility.

Shapes: B windows, T tokens, C chunk, R chunks of all windows, N scored tokens, D width,
V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trm_lightning.models import AutoregressiveNet, LanguageNet, RecursiveNet
from trm_lightning.models.context import CachedContext, Context, JointContext, RecursiveContext
from trm_lightning.models.lookahead import Chunks, RefinedWindow, open_chunks


@dataclass(frozen=True)
class Reading:
    """The answer that a chunk would be given if it stopped here.

    Attributes:
        refinement: 0 is the state that a chunk starts from.
        recursion: latent updates so far in this refinement; all n of them make the refinement's
            own answer, fewer an answer that is read off and not gone on with.
        answer: (N, D) y.
        latent: (N, D) z; None for a net without one.
    """

    refinement: int
    recursion: int
    answer: Tensor
    latent: Tensor | None


def readings(
    net: LanguageNet,
    tokens: Tensor,
    first: int,
    depth: int,
    by_recursion: int = 0,
    isolated: bool = False,
) -> Iterator[tuple[Tensor, Iterator[Reading]]]:
    """Yield the columns of a window that one pass scores, and the pass's readings.

    With ``factorization=left_to_right`` there is a pass for each token of a chunk; together they
    score each column once. An autoregressive net has one pass with one reading.

    Args:
        net: in evaluation mode.
        tokens: (B, T) ids.
        first: columns before this position are not scored; yielded columns are counted from it.
        depth: refinements to unroll.
        by_recursion: read after each recursion up to this refinement, and once a refinement
            after it.
        isolated: the states of a chunk do not see each other.
    """
    if isinstance(net, AutoregressiveNet):
        columns = torch.arange(tokens.shape[1] - first, device=tokens.device)
        yield columns, iter([Reading(0, 0, net(tokens, first).flatten(0, 1), None)])
        return
    assert isinstance(net, RecursiveNet)
    chunks = open_chunks(net, tokens, first)
    for columns, context, y in chunks.passes():
        if isolated:
            sequential = net.factorization == "left_to_right"
            context = isolate(context, int(first + columns[0]) % net.chunk_size * sequential)
        unrolled = _unroll(net, context, y, depth, by_recursion)
        yield columns, (_at(chunks, columns, *step) for step in unrolled)


def _unroll(
    net: RecursiveNet, context: Context, y: Tensor, depth: int, by_recursion: int
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Yield (refinement, recursion, y, z), as :meth:`RecursiveNet.refine` makes them."""
    z, n = torch.zeros_like(y), net.n_recursions
    yield 0, n, y, z
    for refinement in range(1, depth + 1):
        for recursion in range(1, n + 1):
            z = context(y + z)
            if recursion < n and refinement <= by_recursion:
                yield refinement, recursion, context(y + z), z
        y = context(y + z)
        yield refinement, n, y, z


def _at(
    chunks: Chunks | RefinedWindow,
    columns: Tensor,
    refinement: int,
    recursion: int,
    y: Tensor,
    z: Tensor,
) -> Reading:
    answer, latent = (chunks.by_position(state)[:, columns].flatten(0, 1) for state in (y, z))
    return Reading(refinement, recursion, answer, latent)


def isolated_log_probs(net: RecursiveNet, tokens: Tensor, first: int = 0) -> Tensor:
    """Return :meth:`RecursiveNet.log_probs` with chunk states that do not see each other."""
    log_probs = None
    for columns, steps in readings(net, tokens, first, net.scoring_depth, isolated=True):
        *_, last = steps
        scores = torch.log_softmax(net.logits(last.answer).float(), dim=-1)
        if log_probs is None:
            log_probs = scores.new_empty(len(tokens), tokens.shape[1] - first, scores.shape[-1])
        log_probs[:, columns] = scores.unflatten(0, (len(tokens), len(columns)))
    assert log_probs is not None
    return log_probs


def isolate(context: Context, n_known: int) -> Context:
    """Return a context in which a state sees known tokens and itself, but no other state.

    Args:
        context: as a net's chunks open it.
        n_known: known tokens at the head of every chunk.
    """
    if isinstance(context, JointContext):
        return IsolatedJointContext(context, n_known)
    if isinstance(context, RecursiveContext):
        return context.isolated()
    assert isinstance(context, CachedContext)
    visible = context.visible.clone()
    n_states = visible.shape[2]
    size = visible.shape[3] - context.kept[0][0].shape[2]
    itself = torch.eye(size, dtype=torch.bool, device=visible.device).repeat(n_states // size, 1)
    visible[..., -size:] &= itself
    return context.seeing(visible)


class IsolatedJointContext:
    """A joint context that runs once for each unknown token of a chunk.

    The joint form has no mask, and its context rows see the chunk: only other rows keep states
    apart.

    Args:
        context: the joint context of whole chunks.
        n_known: known tokens at the head of every chunk.
    """

    def __init__(self, context: JointContext, n_known: int) -> None:
        n_context, size = context.states.shape[1], context.known.shape[1]
        self.n_known = n_known
        self.units = context.units
        self.parts: list[tuple[list[int], JointContext]] = []
        for offset in range(n_known, size):
            rows = [*range(n_known), offset]
            part = JointContext(
                context.net,
                context.states,
                context.known[:, rows],
                context.revealed[:, rows, 0],
            )
            # The last row keeps the position that it has in the whole chunk.
            positions = torch.tensor(rows, device=context.states.device) + n_context
            part.rotation_chunk = context.net.rotation(positions)
            whole = torch.cat((torch.arange(n_context, device=positions.device), positions))
            part.rotation_all = context.net.rotation(whole)
            self.parts.append((rows, part))

    def skip(self, x: Tensor) -> None:
        """See :meth:`Context.skip`; nothing remains of a pass here."""

    def __call__(self, x: Tensor) -> Tensor:
        """Run all blocks over ``x`` (R, C, D); rows of known tokens come back as they were."""
        unknown = [part(x[:, rows])[:, -1:] for rows, part in self.parts]
        return torch.cat((x[:, : self.n_known], *unknown), dim=1)
