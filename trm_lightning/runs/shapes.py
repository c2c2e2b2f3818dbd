"""Shapes of JSON files: which keys there are, and of what type; declared once, checked on reading.

A shape is a ``Leaf``, ``Maybe`` one (or null), a list with the shape of its elements, or a dict of
keys to shapes. A key that ends in ``?`` may be absent; ``*`` is for all other keys. Keys that a
shape does not name are let through.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Leaf:
    """A value that is no container.

    Attributes:
        name: what it must be, for messages.
        fits: says whether a value is that.
    """

    name: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Maybe:
    """A value that may be null."""

    of: "Shape"


Shape = Leaf | Maybe | list["Shape"] | dict[str, "Shape"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1023


def _is_measured(value: Any) -> bool:
    """Say whether a value is a number or infinite, as a perplexity may be."""
    return _is_number(value) or value == math.inf


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


TEXT = Leaf("a text", lambda value: isinstance(value, str))
FLAG = Leaf("true or false", lambda value: isinstance(value, bool))
COUNT = Leaf("a whole number, 0 or more", _is_whole)
SIZE = Leaf("a whole number over 0", lambda value: _is_whole(value) and value > 0)
AMOUNT = Leaf("a number, 0 or more", lambda value: _is_number(value) and value >= 0)
SCORE = Leaf("a number, 0 or more", lambda value: _is_measured(value) and value >= 0)
PERPLEXITY = Leaf("a number over 0", lambda value: _is_measured(value) and value > 0)
NUMBER = Leaf("a number", lambda value: _is_number(value) or isinstance(value, float))  # NaN too
ANY = Leaf("anything", lambda value: True)


def misfit(value: Any, shape: Shape, place: str = "") -> str | None:
    """Return the first way in which a value is not of a shape; None if it is."""
    if isinstance(shape, Maybe):
        return None if value is None else misfit(value, shape.of, place)
    if isinstance(shape, Leaf):
        return None if shape.fits(value) else f"{place} must be {shape.name} (is {_short(value)})"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} must be a list (is {_short(value)})"
        found = (misfit(child, shape[0], f"{place}[{i}]") for i, child in enumerate(value))
        return next((text for text in found if text), None)
    if not isinstance(value, dict):
        return f"{place or 'it'} must be an object (is {_short(value)})"
    return _misfit_of_keys(value, shape, f"{place}." if place else "")


def _misfit_of_keys(value: dict[str, Any], shape: dict[str, Shape], before: str) -> str | None:
    named = {key.removesuffix("?"): of for key, of in shape.items() if key != "*"}
    missing = [key for key in shape if key not in value and not key.endswith("?") and key != "*"]
    if missing:
        return f"it lacks {', '.join(before + key for key in missing)}"
    for key, child in value.items():
        of = named.get(key, shape.get("*"))
        text = None if of is None else misfit(child, of, before + key)
        if text:
            return text
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
