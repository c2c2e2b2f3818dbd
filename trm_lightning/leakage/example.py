"""A text that shows a finding, and a script that shows it again.

Shapes: N tokens of a text, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Example:
    """A text whose scores show what a check found.

    Attributes:
        kind: ``moves`` where another text moves the score, ``sum`` where probabilities do not sum
            to one, ``again`` where the text scores differently after itself and another one,
            ``prefix`` where it does so when it ends at ``position``, ``count`` where there is not
            one score for each token.
        ids: (N,) the text.
        position: of the token whose score shows it.
        other: (N,) of ``moves``, the text with other tokens; else empty.
        moved: of ``moves``, by how much the score moves, in nats.
        profile: of ``moves``, by how much every score of the longer text moves that the example was
            cut from.
        changed_at: of ``moves``, the first changed token of that text.
        first: tokens before it are context, and not scored.
        n_rows: windows in the batch that shows it, all with the same text.
        distributions: whether scores are (N, V), else (N,).
        nats: whether scores (N,) are nats, else log-probabilities.
    """

    kind: str
    ids: tuple[int, ...]
    position: int
    other: tuple[int, ...] = ()
    moved: float = 0.0
    profile: tuple[float, ...] = ()
    changed_at: int = 0
    first: int = 0
    n_rows: int = 1
    distributions: bool = True
    nats: bool = False

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any] | None) -> "Example | None":
        """Return what ``asdict`` was made of."""
        if stored is None:
            return None
        lists = ("ids", "other", "profile")
        values: dict[str, Any] = {k: tuple(v) if k in lists else v for k, v in stored.items()}
        return cls(**values)

    @property
    def changed(self) -> list[int]:
        """Positions at which ``other`` has another token."""
        if not self.other:
            return []
        return [i for i, (a, b) in enumerate(zip(self.ids, self.other, strict=True)) if a != b]


def script(example: Example, preamble: str) -> str:
    """Return a short script that prints what an example shows.

    Args:
        example: the example.
        preamble: lines that import torch and define ``score``, which maps ids (N,) to their
            scores, without those before ``example.first``. ``BATCH`` and ``FIRST`` in it become
            the example's.
    """
    place = example.position - example.first
    batch = "ids[None]" if example.n_rows == 1 else f"ids.repeat({example.n_rows}, 1)"
    preamble = preamble.replace("BATCH", batch).replace("FIRST", str(example.first))
    lines = [preamble, f"ids = torch.tensor({list(example.ids)})"]
    if example.kind == "moves":
        changes = "; ".join(f"other[{i}] = {example.other[i]}" for i in example.changed)
        if len(example.changed) > 3:
            i = example.changed[0]
            changes = f"other[{i}:] = torch.tensor({list(example.other[i:])})"
        lines += [
            f"other = ids.clone(); {changes}",
            f"print((score(other) - score(ids))[{place}].abs().max())  # 0 if no score knew",
        ]
    elif example.kind == "sum" and example.distributions:
        lines.append(f"print(score(ids)[{place}].exp().sum())  # 1 if normalised")
    elif example.kind == "sum":
        sign = "-" if example.nats else ""
        lines += [
            "def probability(v):",
            f"    ids[{place}] = v",
            f"    return ({sign}score(ids.clone())[{place}]).exp()",
            "print(sum(probability(v) for v in range(vocab_size)))  # 1 if normalised",
        ]
    elif example.kind == "again":
        lines += [
            "first = score(ids); score(ids.flip(0))",
            "print((score(ids) - first).abs().max())  # 0 if the history does not count",
        ]
    elif example.kind == "prefix":
        end = place + 1
        lines.append(
            f"print((score(ids)[:{end}] - score(ids[:{end}])).abs().max())  # 0 if read in order"
        )
    else:
        lines.append("print(len(ids), score(ids).shape)  # one score for each token")
    return "\n".join(lines)
