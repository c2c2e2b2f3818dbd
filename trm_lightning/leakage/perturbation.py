"""The checks of a leak audit that change what a score must not depend on.

Each returns what it found wrong, None where nothing is.

Shapes: B rows, T tokens, V vocabulary, Q kinds of scores.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trm_lightning.leakage.scores import embedding_of
from trm_lightning.leakage.window import (
    N_ROWS,
    Finding,
    Probe,
    first_position,
    generator,
    moved,
)

ELEMENTS = 1 << 23  # of the scores of a whole window that are held at once
N_BEGINNINGS = 8  # first scored positions that are tried


def suffix_perturbation(probe: Probe, whole_window: bool = False) -> Finding | None:
    """Change all tokens from t on: no score of a token up to t may move."""
    tokens, places = probe.tokens, torch.arange(len(probe.tokens))
    finding = _perturbed(probe, tokens, places)
    if finding is None and whole_window:
        tokens = probe.random_rows(1, probe.model.window_size)[0]
        n_places = min(32, max(4, ELEMENTS // (len(tokens) * probe.model.vocab_size)))
        places = torch.linspace(0, len(tokens) - 1, n_places).long().unique()
        finding = _perturbed(probe, tokens, places)
    return finding


def _perturbed(probe: Probe, tokens: Tensor, places: Tensor) -> Finding | None:
    """Change ``tokens`` (T,) from each t of ``places`` on, one row of a batch for each."""
    places = places.to(tokens.device)[:, None]
    positions = torch.arange(len(tokens), device=tokens.device)
    rows = tokens.expand(len(places), -1).contiguous()
    changed = torch.where(positions >= places, probe.other(tokens), tokens)
    before, after = probe.all_scores(rows), probe.all_scores(changed)
    for name in before:
        wrong = moved(before[name], after[name], probe.exact) & (positions <= places)
        if wrong.any():
            position = first_position(wrong)
            t = int(places[wrong[:, position].nonzero()[0, 0], 0])
            return Finding(f"its {name} moves with the tokens from {t} on", position)
    return None


def gradient(probe: Probe) -> Finding | None:
    """Differentiate each token's scores by every input embedding.

    Zero for what the token must not see: itself and what follows, with its whole chunk where the
    tokens of a chunk are predicted together. Not zero for all that it may see, or a model that sees
    nothing would pass every other check.
    """
    model, tokens = probe.model, probe.tokens
    embedding = embedding_of(model)
    assert embedding is not None
    # All embeddings of an id go through the probe's row of it; the ids are all different, so
    # a row stands for a position. A tied head does not go through it.
    rows = torch.zeros_like(embedding.weight, requires_grad=True)
    handle = embedding.register_forward_hook(
        lambda module, ids, embedded: embedded + F.embedding(ids[0], rows)
    )
    try:
        with torch.enable_grad():
            # Distinct weights, so that no sum over a distribution can cancel.
            scores = torch.stack(list(probe.eval_scores(tokens[None]).values())).squeeze(1)
            weight = torch.randn(scores.shape[0], model.vocab_size, generator=generator())
            sums = torch.einsum("qtv,qv->t", scores, weight.to(scores))
            for t, total in enumerate(sums):
                slope = torch.zeros_like(rows)  # of scores that no embedding leads to
                if total.requires_grad:
                    (slope,) = torch.autograd.grad(
                        total, rows, retain_graph=True, materialize_grads=True
                    )
                if not slope.isfinite().all():  # weights that have exploded tell nothing
                    return None
                finding = _check_slope(probe, t, slope[tokens])
                if finding is not None:
                    return finding
    finally:
        handle.remove()
    return None


def _check_slope(probe: Probe, t: int, slope: Tensor) -> Finding | None:
    """Check the gradient (T, D) of token t's scores by the embeddings of all positions."""
    model = probe.model
    hidden = t  # the first position that is not to be seen
    if model.factorization == "parallel":
        hidden = t // model.chunk_size * model.chunk_size
    seen = ~(slope.abs() <= probe.exact * slope.abs().max()).all(dim=-1)
    if seen[hidden:].any():
        s = hidden + first_position(seen[hidden:])
        return Finding(f"its score depends on the embedding at position {s}", t)
    if hidden and not seen[:hidden].any():
        return Finding("its score depends on no token before it: the check would be empty", t)
    return None


def target_swap(probe: Probe) -> Finding | None:
    """Replace the scored token alone: its distribution may not move, wherever scoring begins."""
    n = len(probe.tokens)
    swapped_at = torch.eye(n, dtype=torch.bool, device=probe.tokens.device)
    rows = probe.tokens.repeat(n, 1)
    swapped = torch.where(swapped_at, probe.other(rows), rows)
    whole, after = probe.eval_scores(rows), probe.eval_scores(swapped)
    for name in whole:
        wrong = moved(whole[name], after[name], probe.exact) & swapped_at
        if wrong.any():
            return Finding(f"its {name} moves with the token itself", first_position(wrong))
    for t in torch.linspace(0, n - 1, min(n, N_BEGINNINGS)).long().tolist():
        before, after_swap = (probe.log_probs(x[t : t + 1], t) for x in (rows, swapped))
        if moved(before[:, :1], after_swap[:, :1], probe.exact).any():
            return Finding("its score moves with the token itself, where scoring begins there", t)
        if moved(before, whole["score"][:1, t:], probe.close).any():
            return Finding("scores are others where scoring begins there", t)
    return None


def batch_neighbours(probe: Probe) -> Finding | None:
    """Replace all rows of a batch but the first: that one's scores may not move."""
    rows = probe.random_rows(N_ROWS, len(probe.tokens))
    changed = torch.cat((rows[:1], probe.other(rows[1:])))
    before, after = probe.all_scores(rows), probe.all_scores(changed)
    for name in before:
        wrong = moved(before[name][:1], after[name][:1], probe.exact)
        if wrong.any():
            return Finding(
                f"its {name} moves with the other rows of the batch", first_position(wrong)
            )
    return None


def batch_size(probe: Probe) -> Finding | None:
    """Score rows together, and each alone."""
    rows = probe.random_rows(N_ROWS, len(probe.tokens))
    together = probe.log_probs(rows, 0)
    alone = torch.cat([probe.log_probs(row[None], 0) for row in rows])
    wrong = moved(together, alone, probe.close)
    if wrong.any():
        return Finding("its score is another one in a batch of another size", first_position(wrong))
    return None
