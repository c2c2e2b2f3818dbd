"""One pass over a split that measures the prediction after every refinement.

Shapes: B windows, T tokens, N scored tokens.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from trm_lightning.analysis.groups import FREQUENCIES, PARTS, by_frequency, by_part_of_line
from trm_lightning.analysis.sums import GroupSums, Guess, Sums, facts, guess
from trm_lightning.data import EvalWindows, TextDataModule
from trm_lightning.errors import UserError
from trm_lightning.models import LanguageModel, Reading

LOGITS_AT_ONCE = 1 << 22  # numbers of a batch's distributions: 16 MiB
CHUNK = "position in the chunk"
Batches = Iterable[tuple[Tensor, int]]


def open_windows(data: TextDataModule, split: str, max_tokens: int | None) -> EvalWindows:
    """Return windows as they are validated, over the first ``max_tokens`` tokens of a split.

    Raises:
        UserError: for an unknown split, or nothing to score.
    """
    if not data.is_running_text:
        raise UserError(
            f"{data.name} scores blanks and no running text, so there is nothing to analyze.",
            "Analyze a run on running text, such as data=shakespeare_word.",
        )
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
    if data.corpus is not None and split in data.corpus.split_names():
        part = by_part_of_line(data.corpus.blocks(split), tokenizer, tokens)
        if part is not None:
            labels["part of the line"] = (PARTS, part)
    return labels


class Measurement:
    """What is measured at each reading of a model.

    Args:
        model: in evaluation mode, without early exit.
        depth: refinements to run; 0 for a model that refines nothing.
        labels: of the tokens in the order of their scoring, see :func:`token_labels`.
    """

    def __init__(
        self, model: LanguageModel, depth: int, labels: dict[str, tuple[list[str], np.ndarray]]
    ) -> None:
        self.model = model
        self.depth = depth
        self.labels = {name: label for name, (_, label) in labels.items()}
        self.sums = Sums()
        self.groups = {name: GroupSums(names) for name, (names, _) in labels.items()}
        if model.chunk_size > 1:
            places = [str(i + 1) for i in range(model.chunk_size)]
            self.groups = {CHUNK: GroupSums(places), **self.groups}
        self._n_done = 0

    @torch.no_grad()
    def run(self, windows: Batches) -> None:
        """Measure all windows; they must come in the order of the split."""
        model = self.model
        device = next(model.parameters()).device
        for tokens, first in windows:
            targets = tokens.to(device)[:, first:].flatten()
            part = slice(self._n_done, self._n_done + targets.numel())
            labels = {name: label[part] for name, label in self.labels.items()}
            columns = np.arange(first, tokens.shape[1]) % model.chunk_size
            labels[CHUNK] = np.tile(columns, len(tokens))
            readings = model.trace(tokens.to(device), first, self.depth, model.scoring_depth)
            self._add(targets, labels, readings)
            self._n_done += targets.numel()

    def _add(
        self, targets: Tensor, labels: dict[str, np.ndarray], readings: Iterator[Reading]
    ) -> None:
        before: Guess | None = None
        for reading in readings:
            new = guess(reading, targets)
            values = facts(new, before, targets)
            self.sums.add((reading.refinement, reading.recursion), values)
            if reading.recursion == self.model.n_recursions:
                before = new
                nats = values["nats"].cpu().double().numpy()
                for name, group in self.groups.items():
                    group.add(reading.refinement, labels[name], nats)


def check_same_as_scored(model: LanguageModel, windows: Batches) -> None:
    """Check on the first batch that what is read off is what the model is scored by.

    Raises:
        UserError: for a model whose ``log_probs`` and ``trace`` disagree.
    """
    tokens, first = next(iter(windows))
    tokens = tokens.to(next(model.parameters()).device)
    with torch.no_grad():
        *_, last = model.trace(tokens, first, model.scoring_depth)
        if not torch.allclose(last.log_probs, model.log_probs(tokens, first), atol=1e-3):
            raise UserError(
                f"{type(model).__name__} is not scored by its own refinements alone, so they "
                "cannot be told apart.",
                "Its trace() must end with what log_probs() returns.",
            )
