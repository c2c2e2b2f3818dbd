"""Transformer blocks whose keys and values can be kept, so that nothing is computed twice.

Shapes: B batch, T positions, D width, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trm_lightning.models.dropout import Dropout, dropout

KeysValues = tuple[Tensor, Tensor]  # each (B, H, T, D / H)
Rotation = tuple[Tensor, Tensor]  # cosine and sine, each (T, D / H / 2)


class RotaryPositions(nn.Module):
    """Rotary position embedding (Su et al., arXiv 2104.09864): angles for positions 0 … n - 1.

    Args:
        n_positions: how many positions the tables hold.
        head_width: width of one attention head; must be even.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, n_positions: int, head_width: int, base: float = 10_000.0) -> None:
        super().__init__()
        frequency = base ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
        angle = torch.arange(n_positions, dtype=torch.float64)[:, None] * frequency
        self.register_buffer("cosine", angle.cos().float(), persistent=False)
        self.register_buffer("sine", angle.sin().float(), persistent=False)

    def forward(self, positions: Tensor) -> Rotation:
        """Return the rotation for integer ``positions`` of shape (T,)."""
        return self.cosine[positions], self.sine[positions]


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the two halves of each head, (B, H, T, d) -> the same shape and type."""
    cosine, sine = (part.to(x.dtype) for part in rotation)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cosine - b * sine, a * sine + b * cosine), dim=-1)


class Attention(nn.Module):
    """Multi-head attention with biases."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def project(self, x: Tensor, rotation: Rotation | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of ``x`` (B, T, D), each (B, H, T, D / H)."""
        q, k, v = (self._split_heads(part) for part in self.qkv(x).chunk(3, dim=-1))
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        return q, k, v

    def keys_values(self, x: Tensor, rotation: Rotation | None = None) -> KeysValues:
        """Return keys and values alone, for positions that need no query."""
        width = x.shape[-1]
        kv = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        k, v = (self._split_heads(part) for part in kv.chunk(2, dim=-1))
        return (k if rotation is None else rotate(k, rotation)), v

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend and mix heads; ``mask`` is boolean, True where a query may look. -> (B, T, D)."""
        if self.rate > 0 and q.device.type == "cpu":
            y = _attention_with_dropout(q, k, v, mask, causal, self.rate)
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, self.rate, causal)
        return self._merge_heads(y)

    @property
    def rate(self) -> float:
        """The rate of dropout, 0 when not in training."""
        return self.dropout if self.training else 0.0

    def _merge_heads(self, y: Tensor) -> Tensor:
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Attention and a GELU network, each with a residual path.

    Args:
        width: D, a multiple of ``n_heads``.
        n_heads: attention heads.
        dropout: in attention, after the GELU and after the MLP.
        norm: ``pre``, LayerNorm before each branch as in GPT-2; or ``post``, RMSNorm after each
            residual sum as in the TRM paper, which keeps a state that is fed back bounded.
        mixing: lets the cells of a board (B, C, D) see each other in the place of attention.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        dropout: float,
        norm: str,
        mixing: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.pre_norm = norm == "pre"
        self.norm_attention = make_norm(width, norm)
        if mixing is None:
            self.attention = Attention(width, n_heads, dropout)
        else:
            self.mixing = mixing
        self.norm_mlp = make_norm(width, norm)
        self.mlp = gelu_network(width, dropout)

    def project(self, x: Tensor, rotation: Rotation | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of the block's input ``x`` (B, T, D)."""
        return self.attention.project(self._attention_input(x), rotation)

    def keys_values(self, x: Tensor, rotation: Rotation | None = None) -> KeysValues:
        """Return keys and values of the block's input ``x`` (B, T, D)."""
        return self.attention.keys_values(self._attention_input(x), rotation)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention branch ``attended`` to ``x`` and run the MLP, (B, T, D)."""
        if self.pre_norm:
            x = x + attended
            return x + self.mlp(self.norm_mlp(x))
        x = self.norm_attention(x + attended)
        return self.norm_mlp(x + self.mlp(x))

    def mix_cells(self, x: Tensor) -> Tensor:
        """Run a block of a board (B, C, D) that has a ``mixing``, (B, C, D)."""
        return self.finish(x, self.mixing(self._attention_input(x)))

    def forward(
        self,
        x: Tensor,
        past: KeysValues | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Run the block; ``past`` holds keys and values of rows that come before ``x``.

        Returns:
            The new states (B, T, D), and keys and values of past and ``x`` together.
        """
        q, k, v = self.project(x, rotation)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        return self.finish(x, self.attention.attend(q, k, v, mask, causal)), (k, v)

    def _attention_input(self, x: Tensor) -> Tensor:
        return self.norm_attention(x) if self.pre_norm else x


def gelu_network(width: int, dropout: float) -> nn.Sequential:
    """Return a network with one hidden layer, four times as wide; dropout follows each layer."""
    return nn.Sequential(
        nn.Linear(width, 4 * width),
        nn.GELU(),
        Dropout(dropout),
        nn.Linear(4 * width, width),
        Dropout(dropout),
    )


def make_norm(width: int, norm: str) -> nn.Module:
    """Return the normalisation that belongs to a block's ``norm`` placement."""
    return nn.LayerNorm(width) if norm == "pre" else nn.RMSNorm(width, eps=1e-6)


def _attention_with_dropout(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, rate: float
) -> Tensor:
    """Attend with dropout on the attention weights, (B, H, S, d).

    On the CPU ``F.scaled_dot_product_attention`` has no fused kernel with dropout, and its random
    numbers are slow; see :mod:`trm_lightning.models.dropout`.
    """
    scores = q @ k.transpose(-2, -1)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    scale = q.shape[-1] ** -0.5
    if mask is None:
        scores = scores * scale
    else:
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
        scores = torch.add(bias, scores, alpha=scale)
    return dropout(scores.softmax(dim=-1), rate, training=True) @ v
