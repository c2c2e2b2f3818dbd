"""The checks of a leak audit that count: probabilities, tokens, nats.

Each returns what it found wrong, None where nothing is.

Shapes: B rows, T tokens, V vocabulary.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from trm_lightning.evaluation.likelihood import score_windows
from trm_lightning.leakage.scores import SEED, all_scores, device_of
from trm_lightning.leakage.window import N_ROWS, Finding, Probe, first_position
from trm_lightning.models import LanguageModel

N_SYMBOLS = 16  # of the random tokens to train on: few enough to learn to copy them soon
LEARNING_RATE = 3e-3
TRAIN_ROWS = 32
# An honest model gets more than c nats below the entropy of a text with probability e^-c at most,
# whatever the text's length (Markov's inequality for the likelihood ratio).
CERTAIN_NATS = 20.0


@dataclass(frozen=True)
class HeldOut:
    """A held-out split, as it is scored.

    Attributes:
        tokens: (N,) all ids of the split.
        windows: (tokens (B, T), first scored position) each, see `EvalWindows`.
        entropy_nats: of the whole split under what wrote it; None where that is not known.
    """

    tokens: np.ndarray
    windows: Iterable[tuple[Tensor, int]]
    entropy_nats: float | None = None


def normalised(probe: Probe) -> Finding | None:
    """Sum the probabilities of the whole vocabulary."""
    for name, score in all_scores(
        probe.model, probe.random_rows(N_ROWS, len(probe.tokens))
    ).items():
        if "loss" in name:  # has rows that are not distributions; its softmax is the score's
            continue
        total = score.double().logsumexp(dim=-1).exp()
        wrong = ~((total - 1).abs() <= 1e-4)
        if wrong.any():
            position = first_position(wrong)
            worst = float(total[wrong][0])
            return Finding(f"the probabilities of its {name} sum to {worst:.6g}", position)
    return None


@torch.no_grad()
def random_tokens(
    model: LanguageModel, n_tokens: int, n_rows: int, n_symbols: int
) -> Finding | None:
    """Score uniformly random ids out of ``n_symbols``: none can do better than log(n_symbols).

    Better means: by more than four standard errors of the mean over ``n_rows`` windows.
    """
    draws = torch.Generator().manual_seed(SEED)
    rows = torch.randint(n_symbols, (n_rows, n_tokens), generator=draws).to(device_of(model))
    nats = -model.log_probs(rows).double().gather(2, rows[:, :, None])[:, :, 0]
    floor = math.log(n_symbols)
    if _below(nats.mean(dim=1), floor):
        below = [_below(column, floor) for column in nats.unbind(dim=1)]
        return Finding(
            f"random tokens cost {float(nats.mean()):.4f} nats, fewer than log {n_symbols:,} = "
            f"{floor:.4f}",
            below.index(True) if any(below) else None,
        )
    return None


def _below(samples: Tensor, floor: float) -> bool:
    """Say whether the mean of independent samples lies below ``floor`` for certain."""
    error = float(samples.std() / math.sqrt(len(samples)))
    return float(samples.mean()) < floor - 4 * error - 1e-6


def learn_random_tokens(model: LanguageModel, n_tokens: int, n_steps: int) -> LanguageModel:
    """Return a copy of the model that was trained to score random ids, through ``log_probs``.

    On random tokens there is nothing to learn but that they are uniform; what goes below that was
    read off the answer. It is the proof that needs no knowledge of how a model could leak.
    """
    student, device = copy.deepcopy(model), device_of(model)
    student.train(False)
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE)
    draws = torch.Generator().manual_seed(SEED + 1)  # others than those that are held out
    n_symbols = min(N_SYMBOLS, model.vocab_size)
    with torch.enable_grad():
        for _ in range(n_steps):
            rows = torch.randint(n_symbols, (TRAIN_ROWS, n_tokens), generator=draws).to(device)
            loss = -student.log_probs(rows).gather(2, rows[:, :, None]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
    return student


def each_token_once(model: LanguageModel, held_out: HeldOut) -> Finding | None:
    """Lay the scored parts of the evaluation windows end to end: they are the split."""
    done = 0
    for i, (tokens, first) in enumerate(held_out.windows):
        scored = tokens[:, first:].flatten().numpy()
        expected = held_out.tokens[done : done + len(scored)]
        if len(expected) < len(scored) or (scored != expected).any():
            n_right = int((scored[: len(expected)] == expected).cumprod().sum())
            return Finding("of the split is left out or scored twice", done + n_right)
        done += len(scored)
        if i == 0:
            with torch.no_grad():
                shape = model.log_probs(tokens[:1].to(device_of(model)), first).shape
            if shape != (1, tokens.shape[1] - first, model.vocab_size):
                return Finding(f"scores have the shape {tuple(shape)}", 0)
    if done < len(held_out.tokens):
        return Finding("of the split and all after it is left out", done)
    return None


def entropy_floor(model: LanguageModel, held_out: HeldOut) -> Finding | None:
    """Score a text whose exact entropy is known: an honest model needs as many nats at least."""
    assert held_out.entropy_nats is not None
    windows = tqdm(held_out.windows, desc="scoring", unit="batch", leave=False, delay=1)
    total = score_windows(model.log_probs, windows, device_of(model))
    if not total.nats >= held_out.entropy_nats - CERTAIN_NATS:
        scored, entropy = total.nats / total.tokens, held_out.entropy_nats / total.tokens
        return Finding(f"{scored:.4f} nats per token, and the text holds {entropy:.4f}")
    return None
