"""Encode each distinct piece of text once: a text has few words, and each of them often."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

MOST_UNITS = 1 << 19  # some 100 MB; then the cache begins anew


class UnitCache:
    """The ids of text in units that can be encoded one by one.

    Args:
        encode: returns the ids of each of the units that it is given.
    """

    def __init__(self, encode: Callable[[list[str]], Iterable[Sequence[int]]]) -> None:
        self._encode = encode
        self._clear()

    def _clear(self) -> None:
        self._numbers = _Numbers()
        self._ids = np.empty(0, dtype=np.int64)
        self._ends = np.zeros(1, dtype=np.int64)  # unit i has ids [ends[i], ends[i + 1])

    def ids(self, units: list[str]) -> np.ndarray:
        """Return the ids of units that follow each other, int64, shape (n_tokens,)."""
        if len(self._numbers) > MOST_UNITS:
            self._clear()
        numbers = np.fromiter(map(self._numbers.__getitem__, units), np.int64, len(units))
        try:
            self._learn(self._numbers.take_new())
        except BaseException:
            self._clear()  # numbers without ids
            raise
        starts = self._ends[numbers]
        lengths = self._ends[numbers + 1] - starts
        if (lengths == 1).all():
            return self._ids[starts]
        # Token j of the text is token j - (tokens before its unit) of its unit.
        shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return self._ids[shift + np.arange(len(shift))]

    def _learn(self, units: list[str]) -> None:
        if not units:
            return
        rows = list(self._encode(units))
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter((i for row in rows for i in row), np.int64, int(lengths.sum()))
        self._ids = np.concatenate((self._ids, ids))
        self._ends = np.concatenate((self._ends, self._ends[-1] + np.cumsum(lengths)))


class _Numbers(dict[str, int]):
    """Unit to number, in the order of appearance; remembers which are new."""

    def __init__(self) -> None:
        super().__init__()
        self._new: list[str] = []

    def __missing__(self, unit: str) -> int:
        number = self[unit] = len(self)
        self._new.append(unit)
        return number

    def take_new(self) -> list[str]:
        new, self._new = self._new, []
        return new
