"""Does a value from YAML fit a parameter's type annotation?"""

import collections.abc
import inspect
import math
import os
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
_MAPPINGS = (dict, collections.abc.Mapping)


def fits(value: Any, annotation: Any) -> bool:
    """True if it fits, or if the annotation is none of the simple ones that YAML can express.

    `bool` is not an `int`; an `int` is accepted for a `float`; text is accepted for a path.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(fits(value, member) for member in args)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if annotation is None or annotation is type(None):
        return value is None
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation in (str, Path) or annotation is os.PathLike or origin is os.PathLike:
        return isinstance(value, str)
    if (origin or annotation) in _LISTS:
        return _fits_list(value, origin, args)
    if (origin or annotation) in _MAPPINGS:
        return isinstance(value, dict)
    if annotation is not Any and inspect.isclass(annotation) and annotation is not object:
        return isinstance(value, annotation)  # a class: an object of it needs a node of its own
    return True


def is_finite(value: Any) -> bool:
    """False where a number, or one in a list, is NaN or infinite."""
    if isinstance(value, list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _fits_list(value: Any, origin: Any, args: tuple[Any, ...]) -> bool:
    if not isinstance(value, list):
        return False
    if not args:
        return True
    if origin is tuple and Ellipsis not in args:
        return len(value) == len(args) and all(map(fits, value, args))
    return all(fits(item, args[0]) for item in value)


def describe(annotation: Any) -> str:
    """The annotation as a reader would write it: `int | None`, `one of 'constant', 'cosine'`."""
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(repr, get_args(annotation)))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(describe(member) for member in get_args(annotation))
    if annotation is type(None):
        return "null"
    return inspect.formatannotation(annotation).replace("typing.", "")


def example(annotation: Any) -> str:
    """A value of this type to show in a message."""
    members = [member for member in get_args(annotation) if member is not type(None)]
    if get_origin(annotation) is Literal:
        return str(members[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return example(members[0])
    return {bool: "true", int: "100", float: "0.1"}.get(annotation, "…")
