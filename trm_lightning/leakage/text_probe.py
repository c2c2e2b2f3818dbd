"""A function that scores a text, and the text that an audit tries it on.

Shapes: N tokens of the text, V vocabulary.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trm_lightning.leakage.example import Example

TextScorer = Callable[[Tensor], Tensor]  # ids (N,) -> log-probabilities or nats (N,), or (N, V)
Decoder = Callable[[list[int]], str]
CONTEXT = 8  # tokens around an offending one that are shown


@dataclass
class TextProbe:
    """A scoring function and the text it is tried on.

    Attributes:
        function: maps ids (N,) to log-probabilities or nats (N,), or log-probabilities (N, V).
            Where it keeps a state, it has a method ``reset`` that begins a new text.
        vocab_size: V.
        ids: (N,) the text.
        decode: maps ids to text for a reader.
        seconds: to spend, about.
        gives_nats: whether scores (N,) are nats, not log-probabilities.
        tried: what was tried, by check.
    """

    function: TextScorer
    vocab_size: int
    ids: Tensor
    decode: Decoder
    seconds: float
    gives_nats: bool = False
    tried: dict[str, str] = field(default_factory=dict)

    def scores(self, ids: Tensor) -> Tensor:
        """Score a text from its beginning, (N,) or (N, V)."""
        reset = getattr(self.function, "reset", None)
        if callable(reset):
            reset()
        found = torch.as_tensor(self.function(ids.clone())).detach().cpu()
        return found.double() if found.dtype == torch.float64 else found

    def log_probs(self, ids: Tensor) -> Tensor:
        """Return the log-probability of each token, (N,), in float64."""
        found = self.scores(ids).double()
        if found.ndim == 2:
            return found.gather(1, ids[:, None])[:, 0]
        return -found if self.gives_nats else found

    def shown(self, position: int) -> str:
        """Return the text around a position, the token marked."""
        return shown(self.ids, position, self.decode)

    def example(self, kind: str, position: int, whole: bool = False) -> Example:
        """Return the text as an example, up to ``position`` unless ``whole``."""
        ids = self.ids if whole else self.ids[: position + 1]
        distributions = self.scores(self.ids).ndim == 2
        return Example(
            kind,
            tuple(ids.tolist()),
            position,
            distributions=distributions,
            nats=self.gives_nats,
        )

    def until(self, share: float, items: Iterable[int]) -> Iterator[int]:
        """Yield items until their share of the seconds is over; at least one."""
        end = time.perf_counter() + share * self.seconds
        for i, item in enumerate(items):
            if i and time.perf_counter() > end:
                return
            yield item


def shown(ids: Tensor, position: int, decode: Decoder) -> str:
    """Return the text around a position of ids (N,), the token marked."""
    row = ids.tolist()
    before = decode(row[max(0, position - CONTEXT) : position])
    after = decode(row[position + 1 : position + 1 + CONTEXT])
    return f"{before} »{decode([row[position]])}« {after}".replace("\n", "↵")
