"""The leak audit on puzzles: the answer is never read, and no held-out puzzle is trained on.

Each check returns what it found wrong, None where nothing is.

Shapes: B puzzles, C cells, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trm_lightning.data import PuzzleDataModule
from trm_lightning.leakage.outcome import Audit
from trm_lightning.leakage.scores import SEED, device_of, undisturbed
from trm_lightning.leakage.window import (
    Finding,
    exact_tolerance,
    first_position,
    generator,
    moved,
)
from trm_lightning.models import LanguageModel

N_PUZZLES = 6  # that a model is tried on
N_BATCHES = 8  # of training, looked through for held-out puzzles as symmetries make them
N_PLACES = 6  # cells that answers are changed from
# Halting is tried where some puzzles stop and others do not, hence at several thresholds.
EXIT_THRESHOLDS = (0.01, 0.1, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class PuzzleProbe:
    """A model and the puzzles it is tried on.

    Attributes:
        model: the model.
        puzzles: (B, 2 C) ids, questions and answers.
        size: C.
        together: whether all cells are answered at once, so that no score may read any of them.
        exact: largest difference between scores of batches of one shape: 0 on the CPU.
        close: the same where the rows of a batch are others.
    """

    model: LanguageModel
    puzzles: Tensor
    size: int
    together: bool
    exact: float
    close: float

    @classmethod
    def of(cls, model: LanguageModel, data: PuzzleDataModule, split: str) -> "PuzzleProbe":
        """Take the first puzzles of a split."""
        device = device_of(model)
        puzzles = torch.from_numpy(data.puzzles(split)[:N_PUZZLES].astype(np.int64)).to(device)
        exact = exact_tolerance(model)
        together = model.puzzle_size is not None
        return cls(model, puzzles, data.puzzle_size, together, exact, 1e-3)

    def with_other(self, cells: slice) -> Tensor:
        """Return the puzzles with other ids in some cells, (B, 2 C)."""
        part = self.puzzles[:, cells]
        shift = torch.randint(1, self.model.vocab_size, part.shape, generator=generator())
        changed = self.puzzles.clone()
        changed[:, cells] = (part + shift.to(part.device)) % self.model.vocab_size
        return changed


def audit_puzzles(model: LanguageModel, data: PuzzleDataModule, split: str = "val") -> Audit:
    """Try a model and its data with every check; the model is left as it was, to the last bit.

    Args:
        model: the model.
        data: set up.
        split: the held-out puzzles.
    """
    with undisturbed(model), torch.no_grad():
        model.train(False)
        probe = PuzzleProbe.of(model, data, split)
        tries: dict[str, Callable[[], Finding | None] | str] = {
            "answer_swap": lambda: answer_swap(probe),
            "question_read": lambda: question_read(probe),
            "normalised": lambda: normalised(probe),
            "batch_neighbours": lambda: batch_neighbours(probe),
            "blind_halting": (
                (lambda: blind_halting(probe)) if model.can_exit_early else "refines nothing"
            ),
            "each_puzzle_once": lambda: each_puzzle_once(data, split),
            "held_out_differs": lambda: held_out_differs(data, split),
        }
        return Audit.of(tries)


def scores_at_depths(model: LanguageModel, puzzles: Tensor, size: int) -> dict[str, Tensor]:
    """Return the score (B, C, V), and that after each supervision step, 0 being the start."""
    model.train(False)
    scores = {"score": model.log_probs(puzzles, size)}
    if model.scoring_depth:
        depths = list(range(0, model.scoring_depth, model.scoring_depth // model.n_supervision))
        found = model.log_probs_at(puzzles, depths, size)
        scores |= {f"score after {d} refinements": x for d, x in zip(depths, found, strict=True)}
    return scores


def answer_scores(model: LanguageModel, puzzles: Tensor, size: int) -> dict[str, Tensor]:
    """Return every distribution (B, C, V) of a cell that a score or a loss is read from, by name.

    Two calls draw the same random numbers. At least two supervision steps run, each from the
    state of the one before.
    """
    scores = scores_at_depths(model, puzzles, size)
    model.train()
    torch.manual_seed(SEED)
    state = None
    for step in range(1, max(2, model.n_supervision) + 1):
        found, state = model.training_log_probs(puzzles, state)
        for name, log_probs in found.items():
            scores[f"{name} of supervision step {step}"] = log_probs[:, -size:]
        if state is None:
            break
    model.train(False)
    return scores


def answer_swap(probe: PuzzleProbe) -> Finding | None:
    """Change the answer from a cell on: no score of a cell up to there may move.

    Where all cells are answered together, none may move at all.
    """
    before = answer_scores(probe.model, probe.puzzles, probe.size)
    for place in torch.linspace(0, probe.size - 1, N_PLACES).long().unique().tolist():
        changed = probe.with_other(slice(probe.size + place, None))
        after = answer_scores(probe.model, changed, probe.size)
        until = probe.size if probe.together else place + 1
        for name in before:
            wrong = moved(before[name][:, :until], after[name][:, :until], probe.exact)
            if wrong.any():
                cell = first_position(wrong)
                return Finding(f"its {name} moves with the answer from cell {place} on", cell)
    return None


def question_read(probe: PuzzleProbe) -> Finding | None:
    """Change the question: a model that reads nothing would pass every other check."""
    before = probe.model.log_probs(probe.puzzles, probe.size)
    after = probe.model.log_probs(probe.with_other(slice(None, probe.size)), probe.size)
    if not moved(before, after, 0.0).any():
        return Finding("no score depends on the question: the other checks would be empty")
    return None


def normalised(probe: PuzzleProbe) -> Finding | None:
    """Sum the probabilities of all symbols."""
    total = probe.model.log_probs(probe.puzzles, probe.size).double().logsumexp(dim=-1).exp()
    wrong = ~((total - 1).abs() <= 1e-4)
    if wrong.any():
        return Finding(f"probabilities sum to {float(total[wrong][0]):.6g}", first_position(wrong))
    return None


def batch_neighbours(probe: PuzzleProbe) -> Finding | None:
    """Replace all puzzles of a batch but the first, and turn their order around."""
    others = probe.with_other(slice(None))
    others[0] = probe.puzzles[0]
    before = answer_scores(probe.model, probe.puzzles, probe.size)
    after = answer_scores(probe.model, others, probe.size)
    for name in before:
        wrong = moved(before[name][:1], after[name][:1], probe.exact)
        if wrong.any():
            return Finding(
                f"its {name} moves with the other puzzles of the batch", first_position(wrong)
            )
    turned = scores_at_depths(probe.model, probe.puzzles.flip(0), probe.size)
    for name, score in turned.items():
        wrong = moved(before[name], score.flip(0), probe.close)
        if wrong.any():
            return Finding(f"its {name} moves with the order of the batch", first_position(wrong))
    return None


def blind_halting(probe: PuzzleProbe) -> Finding | None:
    """Replace the answers: every puzzle must stop after as many refinements, and score the same."""
    changed = probe.with_other(slice(probe.size, None))
    for threshold in EXIT_THRESHOLDS:
        model = probe.model.with_exit_threshold(threshold)
        before, after = (model.depths(puzzles, probe.size) for puzzles in (probe.puzzles, changed))
        if not torch.equal(before, after):
            return Finding(f"the depth depends on the answer, with exit_threshold={threshold}")
        score = model.log_probs(probe.puzzles, probe.size)
        other = model.log_probs(changed, probe.size)
        if probe.together and moved(score, other, probe.exact).any():
            return Finding(f"its score depends on the answer, with exit_threshold={threshold}")
    return None


def each_puzzle_once(data: PuzzleDataModule, split: str) -> Finding | None:
    """Lay the evaluation batches end to end: they are the split, and answers alone count."""
    shown = list(data.eval_windows(split))
    puzzles = torch.cat([tokens for tokens, _ in shown]).numpy()
    if not np.array_equal(puzzles, data.puzzles(split)):
        return Finding("a puzzle of the split is left out or shown twice")
    if any(first != data.puzzle_size for _, first in shown):
        return Finding("more or less than the answers is scored")
    if not np.array_equal(puzzles[:, data.puzzle_size :].ravel(), data.splits[split].tokens):
        return Finding("the split's counts are not those of the answers")
    return None


def held_out_differs(data: PuzzleDataModule, split: str) -> Finding | None:
    """Look for each held-out puzzle among those that are trained on, by the corpus's keys.

    In the training split, and in the first batches, whose puzzles may be symmetric copies.
    """
    shown = [batch.numpy() for batch in data.train_batches(N_BATCHES)]
    held_out = data.keys(data.puzzles(split))
    trained = data.keys(np.concatenate((data.train_puzzles, *shown)))
    known = np.flatnonzero(np.isin(held_out, trained))
    if len(known):
        return Finding(
            f"{len(known):,} of {len(held_out):,} puzzles are trained on, the first is number "
            f"{known[0]:,}"
        )
    return None
