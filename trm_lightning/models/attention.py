"""Scaled dot-product attention in the two forms for which torch has no fused kernel on the CPU.

Shapes: B rows, H heads, S queries, N keys, G states of a group, d width of a head.
"""

import torch
from torch import Tensor

from trm_lightning.models.dropout import dropout


def attention_with_dropout(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, rate: float
) -> Tensor:
    """Attend with weights that are dropped, (B, H, S, d); ``mask`` is True where a query may look.

    ``F.scaled_dot_product_attention`` has no fused kernel with dropout on the CPU either, and
    draws as torch does.
    """
    scores = q @ k.transpose(-2, -1)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    scale = q.shape[-1] ** -0.5
    scores = scores * scale if mask is None else torch.add(bias(mask, q), scores, alpha=scale)
    return dropout(scores.softmax(dim=-1), rate, training=True) @ v


def attention_in_groups(
    q: Tensor, past: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], mask: Tensor, rate: float
) -> Tensor:
    """Attend to keys that all share and to those of the query's own group, (B, H, S, d).

    One softmax over both. A dense mask over all states would multiply S x S scores of which S x G
    are wanted.

    Args:
        q: (B, H, S, d); G consecutive queries are a group.
        past: keys and values that all queries may see, (B, H, N, d) each.
        own: keys and values of the states themselves, (B, H, S, d) each.
        mask: (1 or B, 1, S, N + G), what to add to the scores.
        rate: of dropout.
    """
    n_past = past[0].shape[2]
    size = mask.shape[-1] - n_past

    def groups(x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, size))

    far = q @ past[0].transpose(-2, -1)
    near = (groups(q) @ groups(own[0]).transpose(-2, -1)).flatten(2, 3)
    scores = torch.add(mask, torch.cat((far, near), dim=-1), alpha=q.shape[-1] ** -0.5)
    weights = dropout(scores.softmax(dim=-1), rate, training=rate > 0)
    from_own = groups(weights[..., n_past:]) @ groups(own[1])
    return weights[..., :n_past] @ past[1] + from_own.flatten(2, 3)


def bias(mask: Tensor, like: Tensor) -> Tensor:
    """Turn True and False into 0 and minus infinity, to be added to scores."""
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(~mask, float("-inf"))
