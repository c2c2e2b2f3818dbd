"""The checks of a leak audit that count: probabilities, tokens, nats.

Each returns what it found wrong, None where nothing is.

Shapes: B rows, T tokens, V vocabulary.
"""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from trm_lightning.evaluation.likelihood import score_windows
from trm_lightning.leakage.scores import SEED
from trm_lightning.leakage.window import N_ROWS, Finding, Probe, first_position

N_SYMBOLS = 16  # of the random tokens to train on: few enough to learn to copy them soon
LEARNING_RATE = 3e-3
TRAIN_ROWS = 32
# An honest model gets more than c nats below the entropy of a text with probability e^-c at most,
# whatever the text's length (Markov's inequality for the likelihood ratio).
CERTAIN_NATS = 20.0
# Held-out text that costs less than this part of what training text costs has been seen before, or
# is another kind of text. Dropout and shorter contexts make training cost more, by far less.
SUSPICIOUS_SHARE = 0.6
N_BATCHES = 4  # of held-out text and of training text that are compared


Try = Callable[[], Finding | None] | str  # a check to make, or why it does not apply


@dataclass(frozen=True)
class HeldOut:
    """A held-out split, as it is scored.

    Attributes:
        tokens: (N,) all ids of the split.
        windows: (tokens (B, T), first scored position) each, see `EvalWindows`.
        entropy_nats: of the whole split under what wrote it; None where that is not known.
        train_windows: of the text that the model was trained on; None where it was not trained.
    """

    tokens: np.ndarray
    windows: Iterable[tuple[Tensor, int]]
    entropy_nats: float | None = None
    train_windows: Iterable[tuple[Tensor, int]] | None = None


def text_tries(probe: Probe, held_out: HeldOut | None, thorough: bool) -> dict[str, Try]:
    """Return the checks of a text, or why one does not apply."""
    if held_out is None:
        return dict.fromkeys(
            ("each_token_once", "entropy_floor", "training_gap"), "no text was given"
        )
    floor: Try = "asked of trained models, on text whose entropy is known"
    if thorough and held_out.entropy_nats is not None:
        floor = functools.partial(entropy_floor, probe, held_out)
    gap: Try = "asked of trained models"
    if thorough and held_out.train_windows is not None:
        gap = functools.partial(training_gap, probe, held_out)
    return {
        "each_token_once": functools.partial(each_token_once, probe, held_out),
        "entropy_floor": floor,
        "training_gap": gap,
    }


def normalised(probe: Probe) -> Finding | None:
    """Sum the probabilities of the whole vocabulary."""
    for name, score in probe.all_scores(probe.random_rows(N_ROWS, len(probe.tokens))).items():
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
def random_tokens(probe: Probe, n_rows: int, n_symbols: int) -> Finding | None:
    """Score uniformly random ids out of ``n_symbols``: none can do better than log(n_symbols).

    Better means: by more than four standard errors of the mean over ``n_rows`` windows.
    """
    draws = torch.Generator().manual_seed(SEED)
    rows = torch.randint(n_symbols, (n_rows, len(probe.tokens)), generator=draws)
    rows = rows.to(probe.tokens.device)
    nats = -probe.log_probs(rows, 0).double().gather(2, rows[:, :, None])[:, :, 0]
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


def learn_random_tokens(probe: Probe, n_steps: int) -> Probe:
    """Return a copy of the model that was trained to score random ids, through its scorer.

    On random tokens there is nothing to learn but that they are uniform; what goes below that was
    read off the answer. It is the proof that needs no knowledge of how a model could leak.
    """
    student = replace(probe, model=copy.deepcopy(probe.model))
    student.model.train(False)
    weights = [weight for weight in student.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE)
    draws = torch.Generator().manual_seed(SEED + 1)  # others than those that are held out
    n_symbols, n_tokens = min(N_SYMBOLS, probe.model.vocab_size), len(probe.tokens)
    with torch.enable_grad():
        for _ in range(n_steps):
            rows = torch.randint(n_symbols, (TRAIN_ROWS, n_tokens), generator=draws)
            rows = rows.to(probe.tokens.device)
            loss = -student.log_probs(rows, 0).gather(2, rows[:, :, None]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
    return student


def each_token_once(probe: Probe, held_out: HeldOut) -> Finding | None:
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
                shape = probe.log_probs(tokens[:1].to(probe.tokens.device), first).shape
            if shape != (1, tokens.shape[1] - first, probe.model.vocab_size):
                return Finding(f"scores have the shape {tuple(shape)}", 0)
    if done < len(held_out.tokens):
        return Finding("of the split and all after it is left out", done)
    return None


def entropy_floor(probe: Probe, held_out: HeldOut) -> Finding | None:
    """Score a text whose exact entropy is known: an honest model needs as many nats at least."""
    assert held_out.entropy_nats is not None
    windows = tqdm(held_out.windows, desc="scoring", unit="batch", leave=False, delay=1)
    total = score_windows(probe.log_probs, windows, probe.tokens.device)
    return below_floor(total.nats, total.tokens, held_out.entropy_nats)


def below_floor(nats: float, n_tokens: int, entropy_nats: float) -> Finding | None:
    """Compare the nats of ``n_tokens`` tokens with the entropy of their text."""
    if nats >= entropy_nats - CERTAIN_NATS:
        return None
    return Finding(
        f"{nats / n_tokens:.4f} nats per token, and the text holds {entropy_nats / n_tokens:.4f}"
    )


def training_gap(probe: Probe, held_out: HeldOut) -> Finding | None:
    """Score some of the text that was trained on, and as much of the held-out text."""
    held, trained = (
        score_windows(probe.log_probs, itertools.islice(windows, N_BATCHES), probe.tokens.device)
        for windows in (held_out.windows, held_out.train_windows or [])
    )
    return far_below_training(held.nats / held.tokens, trained.nats / trained.tokens)


def far_below_training(nats_per_token: float, training_nats_per_token: float) -> Finding | None:
    """Compare the nats of a held-out token with those of a token that was trained on."""
    if nats_per_token >= SUSPICIOUS_SHARE * training_nats_per_token:
        return None
    return Finding(
        f"{nats_per_token:.4f} nats per token, far fewer than the {training_nats_per_token:.4f} "
        "of the text it was trained on: was this text trained on as well?"
    )
