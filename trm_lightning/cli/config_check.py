"""Check of a composed config before anything is built from it.

Hydra checks the keys of the command line only. Here each node with a `_target_` is held against
the signature of what it names, and the top level against the command's dataclass (`schema.py`).
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from trm_lightning.cli import annotations
from trm_lightning.cli.screen import combine, nearest

_SPECIAL = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
_UNKNOWN = object()


class Parameter(NamedTuple):
    """What is known of one key: its annotation, whether it must be there, a value to show."""

    annotation: Any
    required: bool
    example: str
    at_run_time: bool = False
    limits: tuple[float | None, float | None] = (None, None)
    built: bool = False  # from a node with a `_target_`
    refused: Mapping[str, str] = MappingProxyType(
        {}
    )  # keys that the program sets itself: what to set instead


def check_config(cfg: DictConfig, schema: type | None = None, hint: str = "") -> None:
    """Raise one UserError that names every problem found; return quietly when there is none.

    Args:
        cfg: composed config without the `hydra` node. `${hydra:…}` in it needs HydraConfig set.
        schema: dataclass of the top level; None leaves the top level's plain keys unchecked.
        hint: what to do about problems in general.
    """
    check = _Check()
    if schema is None:
        check.mapping(cfg, "", None)
    else:
        check.against_dataclass(cfg, "", schema)
    if check.problems:
        raise combine(list(dict.fromkeys(check.problems)), hint)


class _Check:
    """Walks a config and gathers the problems it meets."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def mapping(self, node: DictConfig, path: str, known: dict[str, Parameter] | None) -> None:
        """Check the values of `node`; `known` is None where any key may stand."""
        for key in node:
            if key in _SPECIAL:
                continue
            place = f"{path}.{key!s}" if path else str(key)
            parameter = known.get(str(key)) if known else None
            if parameter and parameter.at_run_time and OmegaConf.is_missing(node, key):
                continue
            value = self.value(node, key, place, parameter)
            if isinstance(value, DictConfig):
                self.node(value, place, parameter)
            elif value is not _UNKNOWN:
                self.leaf(value, place, parameter)

    def value(self, node: Any, key: Any, place: str, parameter: Parameter | None) -> Any:
        """The resolved value, or _UNKNOWN after noting why there is none."""
        if OmegaConf.is_missing(node, key):
            shown = parameter.example if parameter else "…"
            self.problems.append(f"{place} must be given, e.g. {place}={shown}")
            return _UNKNOWN
        try:
            return node[key]
        except InterpolationToMissingValueError:
            return _UNKNOWN  # the value it points to is reported where it stands
        except OmegaConfBaseException as error:
            self.problems.append(f"{place}: {str(error).splitlines()[0]}")
            return _UNKNOWN

    def node(self, node: DictConfig, place: str, parameter: Parameter | None) -> None:
        """Check a mapping: a `_target_` node, a nested dataclass, or a plain one."""
        annotation = parameter.annotation if parameter else Any
        refused: Mapping[str, str] = parameter.refused if parameter else {}
        for key in [key for key in map(str, node) if key in refused]:
            self.problems.append(f"{place}.{key} is set by trm_lightning; use {refused[key]}")
        if "_target_" in node:
            self.target(node, place)
        elif parameter and parameter.built:
            self.problems.append(f"{place}._target_ is missing: it names what is built")
        elif isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
            self.against_dataclass(node, place, annotation)
        elif not annotations.fits({}, annotation):
            wanted = annotations.describe(annotation)
            self.problems.append(f"{place} should be {wanted}, not a mapping")
        else:
            self.mapping(node, place, None)

    def leaf(self, value: Any, place: str, parameter: Parameter | None) -> None:
        """Check a scalar or a list."""
        if isinstance(value, ListConfig):
            found = len(self.problems)
            nested = self.items(value, place)
            if nested or len(self.problems) > found:
                return
            value = OmegaConf.to_container(value, resolve=True)
        if parameter and parameter.built:
            self.problems.append(f"{place} should be a mapping with a _target_, not {value!r}")
        elif parameter and not annotations.fits(value, parameter.annotation):
            wanted = annotations.describe(parameter.annotation)
            self.problems.append(f"{place} should be {wanted}, not {value!r}")
        elif not annotations.is_finite(value):
            self.problems.append(f"{place} should be finite, not {value!r}")
        elif parameter and isinstance(value, int | float):
            self.limits(value, place, *parameter.limits)

    def limits(self, value: float, place: str, least: float | None, most: float | None) -> None:
        """Check a number's size."""
        if least is not None and value < least:
            self.problems.append(f"{place} must be at least {least} (is {value})")
        if most is not None and value > most:
            self.problems.append(f"{place} must be at most {most} (is {value})")

    def items(self, values: ListConfig, place: str) -> bool:
        """Check a list's items; True if any of them is a mapping."""
        nested = False
        for index in range(len(values)):
            here = f"{place}[{index}]"
            item = self.value(values, index, here, None)
            if isinstance(item, DictConfig):
                nested = True
                self.node(item, here, None)
        return nested

    def target(self, node: DictConfig, place: str) -> None:
        """Check a node against the signature of its `_target_`."""
        name = str(node._target_)
        if not name:
            self.problems.append(f"{place}._target_ is empty: it names what is built")
            return
        try:
            target = get_object(name)
        except (HydraException, ImportError, ValueError) as error:
            self.problems.append(f"{place}._target_: {_cannot_import(name, error)}")
            return
        if not isinstance(node.get("_partial_", False), bool):
            self.problems.append(f"{place}._partial_ should be bool, not {node._partial_!r}")
        known, takes_any = _parameters(target)
        self.keys(node, place, known, name, takes_any)
        if not node.get("_partial_") and "_args_" not in node:
            self.required(node, place, known, name)
        self.mapping(node, place, known)

    def against_dataclass(self, node: DictConfig, place: str, schema: type) -> None:
        """Check a node against a dataclass of `schema.py`."""
        known = _fields(schema)
        owner = f"`{place}`" if place else "the config's top level"
        self.keys(node, place, known, owner, takes_any=False)
        self.required(node, place, known, owner)
        self.mapping(node, place, known)

    def keys(
        self, node: DictConfig, place: str, known: dict[str, Parameter], owner: str, takes_any: bool
    ) -> None:
        """Note the keys that `owner` does not know, and once those that it does."""
        if takes_any:
            return
        listing = f"; it has {', '.join(known) or 'no parameters'}"
        for key in map(str, node):
            if key not in known and key not in _SPECIAL:
                shown = f"{place}.{key}" if place else key
                guess = nearest(key, known)
                self.problems.append(f"{shown} is not known to {owner}{guess or listing}")
                listing = listing if guess else ""

    def required(
        self, node: DictConfig, place: str, known: dict[str, Parameter], owner: str
    ) -> None:
        """Note the keys that `owner` needs and the node lacks."""
        present = set(map(str, node))
        for key, parameter in known.items():
            if parameter.required and key not in present:
                shown = f"{place}.{key}" if place else key
                self.problems.append(f"{shown} is missing: {owner} needs it")


def unknown_keys(node: DictConfig) -> list[str]:
    """Return the keys of a `_target_` node that what it names does not take."""
    known, any_ = _parameters(get_object(str(node._target_)))
    return [str(key) for key in node if not any_ and key not in {*known, *_SPECIAL}]


def _cannot_import(name: str, error: Exception) -> str:
    """Why a `_target_` cannot be had: its module does not import, or lacks the name."""
    module_name, _, attribute = name.rpartition(".")
    try:
        module = get_object(module_name) if module_name else None
    except (HydraException, ImportError, ValueError):
        module = None
    if module is not None and not hasattr(module, attribute):
        public = [entry for entry in dir(module) if not entry.startswith("_")]
        return f"{module_name} has no `{attribute}`{nearest(attribute, public)}"
    return f"cannot import {name}: {error.__cause__ or error}"


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, Parameter], bool]:
    """Parameters of a class or function that a config may name, and whether it takes any (**).

    A class lists in `runtime_arguments` those that the program fills in, and a config need not.
    A model whose constructor takes `**arguments` hands them to its parent's, and so has those too.
    """
    known, takes_any = _own_parameters(target)
    if takes_any and inspect.isclass(target) and hasattr(target, "runtime_arguments"):
        for parent in target.__mro__[1:-1]:
            if "__init__" in vars(parent):
                inherited, takes_any = _own_parameters(parent)
                if not target.__module__.startswith("trm_lightning."):  # it may fill some in itself
                    inherited = {k: p._replace(required=False) for k, p in inherited.items()}
                known = {**inherited, **known}
            if not takes_any:
                break
    return known, takes_any


def _own_parameters(target: Callable[..., Any]) -> tuple[dict[str, Parameter], bool]:
    """See `_parameters`, without those of parents."""
    try:
        signature = inspect.signature(target)
    except ValueError:  # some built-ins have none
        return {}, True
    at_run_time: frozenset[str] = getattr(target, "runtime_arguments", frozenset())
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    scope = getattr(function, "__globals__", {})
    known, takes_any = {}, False
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            annotation = _evaluated(parameter.annotation, scope)
            filled = name in at_run_time
            required = parameter.default is parameter.empty and not filled
            shown = annotations.example(annotation)
            known[name] = Parameter(annotation, required, shown, filled)
    return known, takes_any


def _evaluated(annotation: Any, scope: dict[str, Any]) -> Any:
    """The annotation itself where it was written as text; Any where only type checkers know it."""
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, scope)
    except (NameError, AttributeError):
        return Any


def _fields(schema: type) -> dict[str, Parameter]:
    """Fields of a schema dataclass; what has a default may be left out."""
    known = {}
    for field in dataclasses.fields(schema):
        optional = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        shown = field.metadata.get("example") or annotations.example(field.type)
        known[field.name] = Parameter(
            field.type,
            not optional,
            shown,
            limits=field.metadata.get("limits", (None, None)),
            built=field.metadata.get("built", False),
            refused=field.metadata.get("refused", {}),
        )
    return known
