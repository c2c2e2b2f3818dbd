"""The calls whose sum is printed, made again with other tokens.

An audit of a model's parts can miss what happens in the calls that a perplexity is made of: in
windows of full length, in large batches, where scoring begins in the middle, after other calls.
So those very calls are tried, with the scorer, the shape, the text and the state that they have.

Shapes: B windows, T tokens, n scored tokens, V vocabulary.
"""

import copy
import dataclasses
import functools
from collections.abc import Container

import torch
from torch import Tensor

from trm_lightning.leakage.example import Example
from trm_lightning.leakage.scores import device_of, rewinder
from trm_lightning.leakage.shorten import shortest_move
from trm_lightning.leakage.window import (
    Finding,
    exact_tolerance,
    first_position,
    generator,
    moved,
)
from trm_lightning.models import LanguageModel
from trm_lightning.models.base import LogProbs

START_SHARE = 1 / 8  # of the changed tokens become the start token, which a text rarely holds
# Of float32 log-probabilities; rounding leaves a millionth.
SUM_TOLERANCE = 1e-4
SUM_TOLERANCE_HALF = 5e-2  # of log-probabilities in half precision


class CallWatch:
    """Makes a model's printed calls, and tries some of them.

    A tried call is made once more by a copy of the model, taken before the call, with other tokens
    from some position of each window on. The scores up to there must be the printed ones, bit for
    bit on the CPU. The model itself, random generators and the printed numbers are as without it.

    Args:
        model: what is scored.

    Attributes:
        findings: what was found wrong, by scorer and name of the check.
        n_tried: calls that were tried since :meth:`begin`.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.findings: dict[str, dict[str, Finding]] = {}
        self.n_tried = 0
        self._tried: Container[int] = ()
        self._turn = 0
        self._n_calls: dict[str, int] = {}

    def begin(self, tried: Container[int], turn: int) -> None:
        """Begin to score a text anew.

        Args:
            tried: numbers of the calls that are tried, counted from 0.
            turn: chooses the positions from which tokens are changed, and the changes.
        """
        self._tried, self._turn, self._n_calls, self.n_tried = tried, turn, {}, 0

    def scorers(self) -> dict[str, LogProbs]:
        """Return ``model.scorers()``, watched."""
        return {name: functools.partial(self._call, name) for name in self.model.scorers()}

    def try_other_tokens(self, name: str, tokens: Tensor, first: int, printed: Tensor) -> None:
        """Try a call with other tokens, as the turn has it.

        Args:
            name: of the scorer.
            tokens: (B, T) of the call.
            first: of the call.
            printed: (B, T - first, V) what the call returned.
        """
        with rewinder(device_of(self.model))(), torch.no_grad():
            self._perturb(name, twin(self.model), tokens, first, printed)

    def _call(self, name: str, tokens: Tensor, first: int = 0) -> Tensor:
        number = self._n_calls.get(name, 0)
        self._n_calls[name] = number + 1
        if number not in self._tried:
            return self.model.scorers()[name](tokens, first)
        self.n_tried += 1
        before = twin(self.model)
        rewound = rewinder(device_of(self.model))
        printed = self.model.scorers()[name](tokens, first)
        with rewound(), torch.no_grad():
            self._check(name, before, tokens, first, printed)
        return printed

    def _check(
        self, name: str, before: LanguageModel, tokens: Tensor, first: int, printed: Tensor
    ) -> None:
        """Try a call, which ``before`` was copied for, and keep what is found."""
        shape = (len(tokens), tokens.shape[1] - first, self.model.vocab_size)
        if printed.shape != shape:
            detail = f"scores have shape {tuple(printed.shape)}, not {shape}"
            self._keep(name, "each_token_once", Finding(detail))
            return
        if printed.isnan().any():  # weights that are broken tell nothing
            return
        changed_by_call = changed_tensor(before, self.model)
        if changed_by_call is not None:
            detail = f"scoring changes the model's {changed_by_call}"
            self._keep(name, "history", Finding(detail))
        finding = sums_to_one(printed, first)
        if finding is not None and "normalised" not in self.findings.get(name, {}):
            example = _sum_example(before, name, tokens, finding)
            finding = dataclasses.replace(finding, example=example)
        self._keep(name, "normalised", finding)
        compiled = any(m._compiled_call_impl is not None for m in self.model.modules())
        if not compiled:
            self._perturb(name, before, tokens, first, printed)
            return
        with torch.compiler.set_stance("force_eager"):  # copies are not compiled
            printed = twin(before).scorers()[name](tokens, first)
            self._perturb(name, before, tokens, first, printed)

    def _perturb(
        self, name: str, before: LanguageModel, tokens: Tensor, first: int, printed: Tensor
    ) -> None:
        """Make a call with other tokens from some position of each row on."""
        rows = cuts(len(tokens), first, tokens.shape[1], self._turn).to(tokens.device)
        model = self.model
        others = changed(tokens, rows, model.vocab_size, model.start_token, self._turn)
        after = before.scorers()[name](others, first)
        positions = torch.arange(first, tokens.shape[1], device=tokens.device)
        wrong = moved(printed, after, exact_tolerance(model)) & (positions <= rows[:, None])
        if not wrong.any():
            return
        column = first_position(wrong)
        row = int(wrong[:, column].nonzero()[0, 0])
        difference = (after - printed)[row, column].abs().nan_to_num(torch.inf)
        moves = f"its printed score moves by {float(difference.max()):.2g} nats"
        own = tokens.clone()
        own[row] = others[row]
        by_itself = before.scorers()[name](own, first)
        if torch.equal(by_itself[row, column], printed[row, column]):
            detail = f"{moves} with the other rows of its batch"
            self._keep(name, "batch_neighbours", Finding(detail, first + column))
        else:
            detail = f"{moves} with the tokens from {int(rows[row])} on"
            example = None
            if "printed_scores" not in self.findings.get(name, {}):
                example = _example(before, name, tokens[row], others[row], first, len(tokens))
            self._keep(name, "printed_scores", Finding(detail, first + column, example))

    def _keep(self, name: str, check: str, finding: Finding | None) -> None:
        """Keep the first finding of a check."""
        found = self.findings.setdefault(name, {})
        if finding is not None:
            found.setdefault(check, finding)


def _example(
    model: LanguageModel, name: str, ids: Tensor, other: Tensor, first: int, n_rows: int
) -> Example | None:
    """Shorten a change of a window (T,): alone and from its beginning, if it shows there.

    Else as it was scored: from ``first`` on, in a batch of ``n_rows``.
    """
    for start, rows in dict.fromkeys(((0, 1), (first, 1), (0, n_rows), (first, n_rows))):

        def score(ids: Tensor, start: int = start, rows: int = rows) -> Tensor:
            if len(ids) <= start:
                return torch.zeros(len(ids), model.vocab_size)
            scored = twin(model).scorers()[name](ids.repeat(rows, 1), start)[0]
            return torch.cat((scored.new_zeros(start, scored.shape[1]), scored))

        example = shortest_move(score, ids, other, exact_tolerance(model))
        if example is not None:
            return dataclasses.replace(example, first=start, n_rows=rows)
    return None


def _sum_example(
    model: LanguageModel, name: str, tokens: Tensor, finding: Finding
) -> Example | None:
    """Return a row of ``tokens`` (B, T), up to the finding, whose probabilities sum wrongly."""
    assert finding.position is not None
    rows = tokens[:, : finding.position + 1]
    for row in rows:
        scored = twin(model).scorers()[name](row[None], 0)[:, -1:]
        if sums_to_one(scored, 0) is not None:
            return Example("sum", tuple(row.tolist()), finding.position)
    return None


def twin(model: LanguageModel) -> LanguageModel:
    """Return a copy in the same state; the model itself where it cannot be copied."""
    try:
        return copy.deepcopy(model)
    except Exception:  # whatever a model holds, it is no reason to stop its training
        return model


def cuts(n_rows: int, first: int, n_tokens: int, turn: int) -> Tensor:
    """Return the position in [first, n_tokens) from which each row is changed, (n_rows,).

    Rows and turns share out all positions, the borders and the middle before the others.
    """
    n = n_tokens - first
    order = torch.randperm(n, generator=generator())
    borders = torch.tensor([0, n - 1, n // 2])
    order = torch.cat((borders, order[~torch.isin(order, borders)]))
    return first + order[(turn * n_rows + torch.arange(n_rows)) % len(order)]


def changed(tokens: Tensor, rows: Tensor, vocab_size: int, start_token: int, turn: int) -> Tensor:
    """Return ``tokens`` (B, T) with another id everywhere from each row's position (B,) on."""
    draws = torch.Generator().manual_seed(turn)
    shift = torch.randint(1, vocab_size, tokens.shape, generator=draws).to(tokens.device)
    start = torch.rand(tokens.shape, generator=draws).to(tokens.device) < START_SHARE
    others = (tokens + shift) % vocab_size
    others = torch.where(start & (tokens != start_token), start_token, others)
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    return torch.where(positions >= rows[:, None], others, tokens)


def sums_to_one(log_probs: Tensor, first: int) -> Finding | None:
    """Sum the probabilities of the whole vocabulary, (B, n, V)."""
    total = log_probs.logsumexp(dim=-1).exp()
    full = log_probs.dtype in (torch.float32, torch.float64)
    wrong = ~((total - 1).abs() <= (SUM_TOLERANCE if full else SUM_TOLERANCE_HALF))
    if not wrong.any():
        return None
    return Finding(
        f"the probabilities of its printed score sum to {float(total[wrong][0]):.6g}",
        first + first_position(wrong),
    )


def changed_tensor(before: LanguageModel, after: LanguageModel) -> str | None:
    """Return the name of a weight or buffer that differs between two states of a model."""
    here = {**dict(after.named_parameters()), **dict(after.named_buffers())}
    there = {**dict(before.named_parameters()), **dict(before.named_buffers())}
    if here.keys() != there.keys():
        return next(iter(here.keys() ^ there.keys()))
    return next((key for key, value in here.items() if not _same(value, there[key])), None)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or torch.equal(a.nan_to_num(), b.nan_to_num())
