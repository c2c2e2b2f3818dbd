"""One walk over a split that measures every reading of a net, and scores of its ablations.

Shapes: B windows, T tokens, N scored tokens.
"""

import copy
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from trm_lightning.analysis.groups import FREQUENCIES, PARTS, by_frequency, by_part_of_line
from trm_lightning.analysis.sums import GroupSums, Guess, Sums, facts, guess
from trm_lightning.analysis.unroll import Reading, isolated_log_probs, readings
from trm_lightning.data import EvalWindows, TextDataModule
from trm_lightning.errors import UserError
from trm_lightning.evaluation import LogProbs
from trm_lightning.models import LanguageNet, RecursiveNet

LOGITS_AT_ONCE = 1 << 22  # numbers of a batch's distributions: 16 MiB
CHUNK = "position in the chunk"
Batches = Iterable[tuple[Tensor, int]]


def open_windows(data: TextDataModule, split: str, max_tokens: int | None) -> EvalWindows:
    """Return windows as they are validated, over the first ``max_tokens`` tokens of a split.

    Raises:
        UserError: for an unknown split, or nothing to score.
    """
    whole = data.eval_windows(split)
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"max_tokens must be at least 1, or null for the split (is {max_tokens}).")
    batch_size = max(1, LOGITS_AT_ONCE // (data.vocab_size * data.window_size))
    return EvalWindows(whole.tokens[:max_tokens], whole.window_size, whole.stride, batch_size)


def token_labels(
    data: TextDataModule, split: str, tokens: np.ndarray
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return, by the name of a grouping, the groups' names and each token's label (N,)."""
    train = data.splits["train"].tokens
    tokenizer = data.tokenizer
    frequency = by_frequency(tokens, train, data.vocab_size, tokenizer.unknown_id)
    labels = {"frequency in training": (FREQUENCIES, frequency)}
    if split in data.corpus.split_names():
        part = by_part_of_line(data.corpus.blocks(split), tokenizer, tokens)
        if part is not None:
            labels["part of the line"] = (PARTS, part)
    return labels


class Measurement:
    """What is measured at each reading of a net.

    Args:
        net: in evaluation mode.
        depth: refinements to unroll; 0 for an autoregressive net.
        labels: of the tokens in the order of their scoring, see :func:`token_labels`.
    """

    def __init__(
        self, net: LanguageNet, depth: int, labels: dict[str, tuple[list[str], np.ndarray]]
    ) -> None:
        self.net = net
        self.depth = depth
        self.labels = {name: label for name, (_, label) in labels.items()}
        self.sums = Sums()
        self.groups = {name: GroupSums(names) for name, (names, _) in labels.items()}
        self.trained = net.scoring_depth if isinstance(net, RecursiveNet) else 0
        self.n_recursions = net.n_recursions if isinstance(net, RecursiveNet) else 0
        self.chunk_size = net.chunk_size if isinstance(net, RecursiveNet) else 1
        if self.chunk_size > 1:
            places = [str(i + 1) for i in range(self.chunk_size)]
            self.groups = {CHUNK: GroupSums(places), **self.groups}
        self._n_done = 0

    @torch.no_grad()
    def run(self, windows: Batches) -> None:
        """Measure all windows; they must come in the order of the split."""
        device = next(self.net.parameters()).device
        for tokens, first in windows:
            tokens = tokens.to(device)
            targets = tokens[:, first:]
            places = self._n_done + np.arange(targets.numel()).reshape(targets.shape)
            for columns, steps in readings(self.net, tokens, first, self.depth, self.trained):
                taken = columns.cpu().numpy()
                index = places[:, taken].ravel()
                labels = {name: label[index] for name, label in self.labels.items()}
                labels[CHUNK] = np.tile((first + taken) % self.chunk_size, len(tokens))
                self._add_pass(targets[:, columns].flatten(), labels, steps)
            self._n_done += targets.numel()

    def _add_pass(
        self, targets: Tensor, labels: dict[str, np.ndarray], steps: Iterator[Reading]
    ) -> None:
        before: Guess | None = None
        for reading in steps:
            new = guess(self.net, reading, targets)
            values = facts(new, before, targets)
            self.sums.add((reading.refinement, reading.recursion), values)
            if reading.recursion == self.n_recursions:
                before = new
                nats = values["nats"].cpu().double().numpy()
                for name, group in self.groups.items():
                    group.add(reading.refinement, labels[name], nats)


def check_same_as_scored(net: LanguageNet, windows: Batches) -> None:
    """Check on the first batch that what is read off is what the net is scored by.

    Raises:
        UserError: for a net with a way of scoring of its own.
    """
    tokens, first = next(iter(windows))
    tokens = tokens.to(next(net.parameters()).device)
    depth = net.scoring_depth if isinstance(net, RecursiveNet) else 0
    with torch.no_grad():
        scored = net.log_probs(tokens, first)
        for columns, steps in readings(net, tokens, first, depth):
            *_, last = steps
            read = torch.log_softmax(net.logits(last.answer).float(), dim=-1)
            if not torch.allclose(read, scored[:, columns].flatten(0, 1), atol=1e-3):
                raise UserError(
                    f"{type(net).__name__} is not scored by its own refinements alone, so they "
                    "cannot be told apart.",
                    "Analyze a model=trm or model=ar run.",
                )


def ablations(net: LanguageNet) -> dict[str, tuple[str, LogProbs]]:
    """Return ways to score ``net`` with a part taken out, without training: meaning, scores.

    What is taken out was there in training, so a loss says how much these weights rely on it, not
    how good a net could be without it.
    """
    if not isinstance(net, RecursiveNet):
        return {}
    found: dict[str, tuple[str, LogProbs]] = {
        "no refinement": (
            "scored by the state that a chunk starts from",
            lambda tokens, first: net.log_probs_at(tokens, [0], first)[0],
        )
    }
    if net.chunk_size > 1:
        found["no mutual visibility"] = (
            "the states of a chunk do not see each other",
            partial(isolated_log_probs, net),
        )
        if net.factorization == "left_to_right":
            parallel = copy.copy(net)
            parallel.factorization = "parallel"
            found["independent tokens"] = (
                "a chunk's tokens are predicted in parallel, none given another",
                parallel.log_probs,
            )
    n = net.n_recursions
    for other in sorted({0, 1, 2 * n} - {n}):
        name = "no recursion" if other == 0 else f"{other} recursion{'s' if other > 1 else ''}"
        changed = copy.copy(net)
        changed.n_recursions = other
        found[name] = (f"trained with {n} recursions", changed.log_probs)
    if not net.is_likelihood:
        found["without the answer"] = (
            "started from positions alone: a likelihood",
            net.without_answer().log_probs,
        )
    return found
