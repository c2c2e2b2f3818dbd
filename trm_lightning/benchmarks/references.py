"""Deliberately plain models to compare with, without any optimization.

``PlainBaseline`` and ``PlainTrm`` compute what the scripts of the two research notes do
(github.com/MikeyBeez/trm_wikitext): separate projections, attention written out, everything
computed in every pass. ``FusedGpt`` is the usual small GPT with fused projections and attention.
Dropout is applied where the package's own blocks apply it.

Shapes: B windows, T tokens, N context tokens, C chunk, D width, H heads, V vocabulary.
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_lightning.models import LanguageModel

START = 0  # id that stands before the first token


class PlainAttention(nn.Module):
    """Attention with separate projections and explicit scores."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """Mix positions, (B, T, D) -> the same."""
        q, k, v = (
            part(x).view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if causal:
            future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(future, float("-inf"))
        y = self.dropout(F.softmax(scores, dim=-1)) @ v
        mixed: Tensor = self.out(y.transpose(1, 2).reshape(x.shape))
        return mixed


class FusedAttention(nn.Module):
    """Attention with one projection and the fused kernel, as in small GPT implementations."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """Mix positions, (B, T, D) -> the same."""
        q, k, v = (
            part.view(*x.shape[:2], self.n_heads, -1).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=causal)
        mixed: Tensor = self.out(y.transpose(1, 2).reshape(x.shape))
        return mixed


class PlainBlock(nn.Module):
    """A pre-norm block."""

    def __init__(self, width: int, n_heads: int, dropout: float, fused: bool) -> None:
        super().__init__()
        kind = FusedAttention if fused else PlainAttention
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = kind(width, n_heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, causal: bool) -> Tensor:
        """Run the block, (B, T, D) -> the same."""
        x = x + self.attention(self.norm_attention(x), causal)
        y: Tensor = x + self.mlp(self.norm_mlp(x))
        return y


class PlainNet(nn.Module, ABC):
    """Embeddings, pre-norm blocks and a tied head.

    Args:
        vocab_size: V.
        window: largest number of tokens.
        width: D.
        n_layers: blocks.
        n_heads: H.
        dropout: rate.
        supervised: tokens at a window's end that are predicted; None for all.
    """

    fused = False

    def __init__(
        self,
        vocab_size: int,
        window: int,
        width: int,
        n_layers: int,
        n_heads: int,
        dropout: float,
        supervised: int | None = None,
    ) -> None:
        super().__init__()
        self.supervised = window if supervised is None else supervised
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(window, width)
        self.blocks = nn.ModuleList(
            PlainBlock(width, n_heads, dropout, self.fused) for _ in range(n_layers)
        )
        self.final_norm = nn.LayerNorm(width)
        for embedding in (self.token_embedding, self.position_embedding):
            nn.init.normal_(embedding.weight, std=0.02)

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits (B, supervised, V) of the last tokens of windows (B, T)."""

    def loss(self, tokens: Tensor) -> Tensor:
        """Return the mean nats of the last ``supervised`` tokens of windows (B, T)."""
        logits = self(tokens)
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, -logits.shape[1] :].flatten())

    def embed(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Embed ids (B, T) at positions from ``first`` on."""
        positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        return self.token_embedding(tokens) + self.position_embedding(positions)

    def run(self, x: Tensor, causal: bool) -> Tensor:
        """Run all blocks, (B, T, D) -> the same."""
        for block in self.blocks:
            x = block(x, causal)
        return x

    def head(self, states: Tensor) -> Tensor:
        """Map states (…, D) to logits (…, V)."""
        return F.linear(self.final_norm(states), self.token_embedding.weight)


class PlainBaseline(PlainNet):
    """The notes' baseline: a causal pass with logits of all tokens, the last ones supervised."""

    def forward(self, tokens: Tensor) -> Tensor:
        """See :meth:`PlainNet.forward`."""
        last = slice(-min(self.supervised, tokens.shape[1]), None)
        inputs = F.pad(tokens[:, :-1], (1, 0), value=START)
        states = self.run(self.embed(inputs), causal=True)
        return self.head(states)[:, last]


class FusedGpt(PlainBaseline):
    """A small GPT: the baseline with fused projections and attention."""

    fused = True


class PlainTrm(PlainNet):
    """The notes' TRM: context and chunk go through all blocks in every pass, unmasked.

    Args:
        n_refinements: updates of the answer; only the last one carries gradient.
        n_recursions: updates of the latent before each of them.
        given: start at the answer's own embeddings, as the notes do; else at positions alone.
        arguments: of :class:`PlainNet`; ``supervised`` is the chunk.
    """

    def __init__(self, n_refinements: int, n_recursions: int, given: bool, **arguments: float):
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.n_refinements, self.n_recursions, self.given = n_refinements, n_recursions, given
        self.query = nn.Parameter(
            torch.zeros(self.supervised, self.final_norm.weight.shape[0]), requires_grad=False
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """See :meth:`PlainNet.forward`."""
        n_context = tokens.shape[1] - self.supervised
        context = self.run(self.embed(tokens[:, :n_context]), causal=True)
        y = self.embed(tokens[:, n_context:], n_context)
        if not self.given:
            y = (self.query + self.position_embedding.weight[n_context:]).expand_as(y)
        z = torch.zeros_like(y)
        for refinement in range(self.n_refinements):
            last = refinement == self.n_refinements - 1
            with torch.set_grad_enabled(last and torch.is_grad_enabled()):
                for _ in range(self.n_recursions):
                    z = self.one_pass(context, y + z)
                y = self.one_pass(context, y + z)
        return self.head(y)

    def one_pass(self, context: Tensor, x: Tensor) -> Tensor:
        """Run the blocks over context (B, N, D) and chunk (B, C, D); return the chunk's rows."""
        return self.run(torch.cat((context, x), dim=1), causal=False)[:, context.shape[1] :]


def load_from(reference: PlainNet, net: LanguageModel) -> None:
    """Copy the weights of a pre-norm model of the same shape and start token."""
    weights = {name: value.detach() for name, value in net.named_parameters()}
    if isinstance(reference, PlainTrm):
        weights.setdefault("query", reference.query)  # a model that starts at the answer has none
    reference.load_state_dict(renamed(weights, reference))


def renamed(weights: dict[str, Tensor], reference: PlainNet) -> dict[str, Tensor]:
    """Return a model's weights or gradients under the reference's names and shapes."""
    found = {}
    for name, value in weights.items():
        if ".qkv." in name and not reference.fused:
            for part, of_part in zip("qkv", value.chunk(3), strict=True):
                found[name.replace("qkv", part)] = of_part
        else:
            found[name] = value
    return found
