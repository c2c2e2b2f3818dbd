"""Infilling: windows with blanks, followed by the tokens that stood there.

A window of C tokens has k of them replaced by the tokenizer's start token, which the text does not
hold; the k tokens come after it, in order, and are all that is scored. A causal model that reads
such a window sees both sides of every blank, and its scores multiply to the exact joint
probability of the blanks by the chain rule.

Letters in shapes: B windows, C tokens of context, k blanks, N tokens of the split.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trm_lightning.data.datamodule import TextDataModule
from trm_lightning.data.text_counts import TextCounts
from trm_lightning.data.token_cache import TokenSplit
from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.data.train_batches import TrainBatches, gather
from trm_lightning.errors import UserError

EVAL_SEED = 0  # of the blanks that are scored: the same for every run


@dataclass(frozen=True)
class Blanks:
    """Which tokens of a window become blanks.

    Args:
        context_size: C.
        n_blanks: k.
        gap: steps from one blank to the next; None for blanks anywhere.
        blank_id: what stands for a blank.
    """

    context_size: int
    n_blanks: int
    gap: int | None
    blank_id: int

    def draw(self, n: int, seed: tuple[int, ...]) -> np.ndarray:
        """Return the places of the blanks of ``n`` windows, ascending, (n, k)."""
        random = np.random.default_rng(seed)
        if self.gap is None:
            order = random.random((n, self.context_size)).argsort(axis=1)[:, : self.n_blanks]
            return np.sort(order, axis=1)
        span = self.gap * (self.n_blanks - 1)
        first = random.integers(self.context_size - span, size=(n, 1))
        return first + self.gap * np.arange(self.n_blanks)

    def apply(self, windows: Tensor, places: np.ndarray) -> Tensor:
        """Blank out windows (B, C) and append what stood there, (B, C + k)."""
        at = torch.from_numpy(places)
        answers = windows.gather(1, at)
        return torch.cat((windows.scatter(1, at, self.blank_id), answers), dim=1)


class BlankedBatches:
    """Training batches with blanks; where they are is a function of seed and batch alone.

    Args:
        batches: of windows of C tokens.
        blanks: of each window.
        rank: of this process, whose windows ``batches`` gives.
        world_size: number of processes.
    """

    def __init__(self, batches: TrainBatches, blanks: Blanks, rank: int, world_size: int) -> None:
        self.batches = batches
        self.blanks = blanks
        self._mine = slice(rank, None, world_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield int64 tensors (B / world_size, C + k)."""
        for batch, windows in enumerate(self.batches, start=self.batches.start_batch):
            seed = (self.batches.seed, batch, 1)
            places = self.blanks.draw(self.batches.batch_size, seed)[self._mine]
            yield self.blanks.apply(windows, places)

    def state_dict(self) -> dict[str, int]:
        """See ``TrainBatches.state_dict``."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """See ``state_dict``."""


@dataclass(frozen=True)
class BlankedWindows:
    """Evaluation windows with blanks, at every ``stride``-th token; every blank counts.

    Args:
        tokens: ids of the split, (N,).
        blanks: of each window, drawn with ``EVAL_SEED``.
        stride: step between windows.
        batch_size: windows in a batch.
        rank: this process takes batches rank, rank + world_size, ...
        world_size: number of processes.
    """

    tokens: np.ndarray
    blanks: Blanks
    stride: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    @cached_property
    def starts(self) -> np.ndarray:
        """Where the windows begin."""
        return np.arange(0, max(1, len(self.tokens) - self.blanks.context_size + 1), self.stride)

    @cached_property
    def places(self) -> np.ndarray:
        """The blanks of all windows, counted from the beginning of each."""
        return self.blanks.draw(len(self.starts), (EVAL_SEED,))

    def __len__(self) -> int:
        return len(range(self.rank, self._n_batches, self.world_size))

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        """Yield (windows (B, C + k), C): the tokens from position C on count."""
        size = self.blanks.context_size
        for batch in range(self.rank, self._n_batches, self.world_size):
            part = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            windows = gather(self.tokens, self.starts[part], size)
            yield self.blanks.apply(windows, self.places[part]), size

    @property
    def answers(self) -> np.ndarray:
        """What is scored, in order, (windows * k,)."""
        return self.tokens[(self.starts[:, None] + self.places).ravel()]

    @property
    def _n_batches(self) -> int:
        return -(-len(self.starts) // self.batch_size)


class InfillingDataModule(TextDataModule):
    """Text whose windows have blanks to fill in; see the module.

    ``splits`` other than "train" hold the blanks that are scored, so a score's perplexity is that
    of a blank.

    Args:
        n_blanks: k.
        gap: steps from one blank to the next; None for blanks anywhere in the window.
        text: the arguments of :class:`TextDataModule`; its ``window_size`` is C + k.

    Raises:
        UserError: values out of range.
    """

    is_running_text = False

    def __init__(self, *, n_blanks: int = 2, gap: int | None = 1, **text: Any) -> None:
        supervised = text.pop("supervised_tokens", None)
        super().__init__(supervised_tokens=supervised or n_blanks, **text)
        self.n_blanks = n_blanks
        self.gap = gap
        span = (gap or 1) * (n_blanks - 1) + 1
        if n_blanks < 1 or (gap is not None and gap < 1) or span > self.window_size - n_blanks:
            raise UserError(
                f"data.n_blanks={n_blanks} and data.gap={gap} do not fit into a window of "
                f"{self.window_size - n_blanks} tokens.",
                "The window holds the blanks' tokens too: data.window_size is both together.",
            )

    def setup(self, stage: str | None = None) -> None:
        """See :meth:`TextDataModule.setup`.

        Raises:
            UserError: the text holds the token that would stand for a blank.
        """
        super().setup(stage)
        blank = self.tokenizer.start_id
        if any((split.tokens[:] == blank).any() for split in super().splits.values()):
            raise UserError(
                f"{self.name}: the start token {self.tokenizer.token(blank)!r} occurs in the text, "
                "so it cannot stand for a blank.",
                "Use a tokenizer with a start token of its own, such as data=shakespeare_word.",
            )

    @property
    def fingerprint(self) -> str:
        """Hash of text, split and tokenizer, and of the blanks that are scored."""
        settings = (self.n_blanks, self.gap, self.window_size, self._stride, EVAL_SEED)
        return hashlib.sha256(f"{super().fingerprint} {settings}".encode()).hexdigest()[:16]

    @property
    def splits(self) -> dict[str, TokenSplit]:
        """Splits by name; of all but "train" the blanks that are scored."""
        return self._splits

    @cached_property
    def _splits(self) -> dict[str, TokenSplit]:
        found = dict(super().splits)
        for name in found.keys() - {"train"}:
            answers = self.eval_windows(name).answers
            counts = _count(answers, self.tokenizer)
            found[name] = replace(
                found[name], tokens=answers, counts=counts, entropy_floor_nats=None
            )
        return found

    @property
    def blanks(self) -> Blanks:
        """How windows are blanked out."""
        size = self.window_size - self.n_blanks
        return Blanks(size, self.n_blanks, self.gap, self.tokenizer.start_id)

    def train_batches(  # type: ignore[override]
        self, n_batches: int, start_batch: int = 0, rank: int = 0, world_size: int = 1
    ) -> BlankedBatches:
        """See :meth:`TextDataModule.train_batches`."""
        batches = super().train_batches(n_batches, start_batch, rank, world_size)
        batches.window_size = self.blanks.context_size
        return BlankedBatches(batches, self.blanks, rank, world_size)

    @property
    def _stride(self) -> int:
        return self.eval_stride or max(1, self.window_size // 2)

    def eval_windows(  # type: ignore[override]
        self,
        split: str,
        window_size: int | None = None,
        stride: int | None = None,
        batch_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> BlankedWindows:
        """Return the windows whose blanks are scored; see ``BlankedWindows``.

        Raises:
            UserError: no such split, or other windows or another stride than the run's own, which
                would score other blanks.
        """
        if window_size not in (None, self.window_size) or stride not in (None, self._stride):
            raise UserError(
                f"{self.name}: the blanks that are scored belong to windows of {self.window_size} "
                f"at a stride of {self._stride}.",
                "Leave stride and window as they are.",
            )
        tokens = self._ids_of(split)
        batch_size = batch_size or self.eval_batch_size(self.window_size)
        return BlankedWindows(tokens, self.blanks, self._stride, batch_size, rank, world_size)


def _count(ids: np.ndarray, tokenizer: Tokenizer) -> TextCounts:
    """Count what the ids stand for, token by token."""
    found, counts = np.unique(ids, return_counts=True)
    texts = [tokenizer.token(int(i)) for i in found]
    unknown = tokenizer.unknown_id

    def total(size: Any) -> int:
        return sum(int(n) * size(text) for text, n in zip(texts, counts, strict=True))

    return TextCounts(
        tokens=len(ids),
        words=total(lambda text: len(text.split())),
        lines=total(lambda text: text.count("\n")),
        characters=total(len),
        bytes=total(lambda text: len(text.encode("utf-8", "surrogatepass"))),
        unknown=0 if unknown is None else int((ids == unknown).sum()),
    )
