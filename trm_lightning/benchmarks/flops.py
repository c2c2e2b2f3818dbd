"""How much arithmetic a training step is, by formulas.

Matrix products only, two operations for each multiplication and addition, as they are computed:
what a mask hides of a product counts, and passes without gradient have no backward. Norms,
activations, dropout and the optimizer are left out, as is usual. The backward of a product is two
products of its size.

Letters: B windows, T tokens, S supervised tokens or states, N context tokens, C chunk, D width,
V vocabulary.
"""

from dataclasses import dataclass

from trm_lightning.models import AR, LanguageModel, Recursive
from trm_lightning.models.context import chunks_in_group


@dataclass(frozen=True)
class Blocks:
    """Cost of the parts of a stack of blocks, forward.

    Args:
        width: D.
        n_layers: number of blocks.
    """

    width: int
    n_layers: int

    def linear(self, rows: float, times: int) -> float:
        """Return the cost of ``rows`` times ``times`` matrices of D x D."""
        return 2.0 * rows * times * self.width**2

    def attention(self, rows: float, keys: float) -> float:
        """Return the cost of scores and of their mixing for ``rows`` queries on ``keys`` each."""
        return 4.0 * rows * keys * self.width

    def one(self, rows: float, keys: float) -> float:
        """Return the cost of a block: 12 D x D matrices (3 q, k, v; 1 out; 8 MLP), attention."""
        return self.linear(rows, 12) + self.attention(rows, keys)

    def all(self, rows: float, keys: float) -> float:
        """Return the cost of a pass through all blocks."""
        return self.n_layers * self.one(rows, keys)


def training_flops(
    net: LanguageModel, batch: int, window: int, supervised: int, n_answers: int = 1
) -> float:
    """Return the operations of a supervision step, forward and backward.

    With ``factorization=left_to_right`` a random number of tokens of each chunk is revealed and
    not predicted; this is the expectation.

    Args:
        net: a net of the package.
        batch: B.
        window: T, a multiple of the chunk.
        supervised: S, the last tokens of each window.
        n_answers: how many of the last refinements have their answer supervised.
    """
    if isinstance(net, AR):
        return causal_flops(
            Blocks(net.width, len(net.layers)), net.vocab_size, batch, window, supervised
        )
    if isinstance(net, Recursive):
        kinds = {"cached": _cached_flops, "joint": _joint_flops, "recursive": _recursive_flops}
        earlier = (n_answers - 1) * _predicted(net, supervised)
        blocks = Blocks(net.width, len(net.layers))
        head = 3 * _head(blocks, net.vocab_size, batch * earlier)
        return kinds[net.attention](net, batch, window, supervised) + head
    raise TypeError(f"no formula for {type(net).__name__}")


def causal_flops(
    blocks: Blocks, vocab_size: int, batch: int, window: int, supervised: int
) -> float:
    """Return the operations of a causal pass over windows and of the head on its last tokens."""
    forward = blocks.all(batch * window, window)
    return 3 * (forward + _head(blocks, vocab_size, batch * supervised))


def plain_trm_flops(
    blocks: Blocks,
    vocab_size: int,
    batch: int,
    window: int,
    chunk: int,
    n_refinements: int,
    n_recursions: int,
) -> float:
    """Return the operations of :class:`references.PlainTrm`: every pass over the whole window."""
    encode = blocks.all(batch * (window - chunk), window - chunk)
    refinement = (n_recursions + 1) * blocks.all(batch * window, window)
    backward = 2 * refinement
    head = _head(blocks, vocab_size, batch * chunk)
    return 3 * (encode + head) + n_refinements * refinement + backward


def _cached_flops(net: Recursive, batch: int, window: int, supervised: int) -> float:
    blocks = Blocks(net.width, len(net.layers))
    rows = batch * window
    states = batch * _states(net, window, supervised)
    encode = blocks.all(rows, window)
    # Every state is held against the whole encoded window and its own group of chunks.
    n_chunks = _states(net, window, supervised) // net.chunk_size
    group = net.chunk_size * chunks_in_group(n_chunks, net.chunk_size)
    refinement = (net.n_recursions + 1) * blocks.all(states, window + group)
    forward = encode + net.n_refinements * refinement
    backward = 2 * (encode + net.backprop_depth * refinement)
    if net.chunk_start != "draft":
        # Nothing reads the encoder's last states: of its last block only q, k, v have gradients.
        backward -= 2 * (blocks.one(rows, window) - blocks.linear(rows, 3))
    if net.norm == "post" and net.backprop_depth < net.n_refinements:
        # The first pass with gradient starts from states without: q, k, v need none of its input.
        backward -= blocks.linear(states, 3)
    head = _head(blocks, net.vocab_size, batch * _predicted(net, supervised))
    if net.chunk_start == "draft":
        head += _head(blocks, net.vocab_size, batch * supervised)
    return forward + backward + 3 * head


def _joint_flops(net: Recursive, batch: int, window: int, supervised: int) -> float:
    blocks = Blocks(net.width, len(net.layers))
    n_context, size = net.context_size, net.chunk_size
    n_chunks = batch * _states(net, window, supervised) // size
    context, chunk, keys = n_chunks * n_context, n_chunks * size, n_context + size
    # Once for all passes: the encoder, and the first block's q, k, v of the context.
    once = blocks.all(context, n_context) + blocks.linear(context, 3)
    if len(net.layers) == 1:
        one_pass = blocks.one(chunk, keys)
    else:
        first = blocks.linear(chunk, 3) + blocks.linear(context + chunk, 9)
        first += blocks.attention(context + chunk, keys)
        middle = (len(net.layers) - 2) * blocks.one(context + chunk, keys)
        one_pass = first + middle + blocks.linear(context, 2) + blocks.one(chunk, keys)
    refinement = (net.n_recursions + 1) * one_pass
    passes = (net.n_refinements + 2 * net.backprop_depth) * refinement
    head = _head(blocks, net.vocab_size, batch * _predicted(net, supervised))
    return 3 * (once + head) + passes


def _recursive_flops(net: Recursive, batch: int, window: int, supervised: int) -> float:
    blocks = Blocks(net.width, len(net.layers))
    rows = 2 * window - window // net.chunk_size  # each token's state, and those that look ahead
    refinement = (net.n_recursions + 1) * blocks.all(batch * rows, rows)
    passes = (net.n_refinements + 2 * net.backprop_depth) * refinement
    predicted = 2 * supervised - supervised // net.chunk_size
    return passes + 3 * _head(blocks, net.vocab_size, batch * predicted)


def _states(net: Recursive, window: int, supervised: int) -> int:
    """Return the states that are refined: whole chunks."""
    return window - (window - supervised) // net.chunk_size * net.chunk_size


def _predicted(net: Recursive, supervised: int) -> float:
    """Return how many of the supervised tokens of a window are not revealed, on average."""
    if not net.reveals:
        return supervised
    return supervised * (net.chunk_size + 1) / (2 * net.chunk_size)


def _head(blocks: Blocks, vocab_size: int, rows: float) -> float:
    return 2.0 * rows * blocks.width * vocab_size
