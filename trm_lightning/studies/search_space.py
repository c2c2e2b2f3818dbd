"""The space of a search: which settings are tried, and between which values."""

from dataclasses import dataclass
from typing import Any

import optuna
from omegaconf import ListConfig, OmegaConf

from trm_lightning.errors import UserError

_RANGE = {"low", "high", "log", "step"}
_EXAMPLE = (
    "For example 'space=[{key: optimizer.lr, low: 1.0e-4, high: 1.0e-2, log: true}, "
    "{key: model.n_layers, choices: [1, 2, 4]}]'."
)


@dataclass(frozen=True)
class Setting:
    """One setting of a space.

    Attributes:
        key: of the training config.
        distribution: which values are tried.
    """

    key: str
    distribution: optuna.distributions.BaseDistribution

    def override(self, value: Any) -> str:
        """Return a value of the setting as an override of the training command."""
        return f"{self.key}={'null' if value is None else value}"


def read_space(given: Any) -> list[Setting]:
    """Read a space from a config.

    Args:
        given: for each setting its ``key``, and ``choices`` or ``low`` and ``high`` with ``log`` or
            ``step`` if need be.

    Raises:
        UserError: naming what is neither choices nor a range.
    """
    container: Any = OmegaConf.to_container(given) if isinstance(given, ListConfig) else given
    if not isinstance(container, list) or not container:
        raise UserError("A search needs a space of at least one setting.", _EXAMPLE)
    space = []
    for entry in container:
        if not isinstance(entry, dict) or not isinstance(entry.get("key"), str):
            raise UserError(f"space: {entry!r} has no key.", _EXAMPLE)
        settings = {name: value for name, value in entry.items() if name != "key"}
        space.append(Setting(entry["key"], _distribution(entry["key"], settings)))
    return space


def _distribution(key: str, given: dict[str, Any]) -> optuna.distributions.BaseDistribution:
    choices = given.get("choices")
    if isinstance(choices, list) and choices and len(given) == 1:
        return optuna.distributions.CategoricalDistribution(choices)
    if not {"low", "high"} <= given.keys() <= _RANGE:
        raise UserError(
            f"space: {key} has {given}; it needs choices, or low and high with log or step.",
            _EXAMPLE,
        )
    low, high, log, step = (given.get(name) for name in ("low", "high", "log", "step"))
    numbers: list[Any] = [low, high, *([] if step is None else [step])]
    try:
        if all(isinstance(number, int) for number in numbers):
            whole = optuna.distributions.IntDistribution
            return whole(numbers[0], numbers[1], bool(log), 1 if step is None else int(step))
        return optuna.distributions.FloatDistribution(numbers[0], numbers[1], bool(log), step)
    except (ValueError, TypeError) as error:
        raise UserError(f"space: {key}: {error}", _EXAMPLE) from error
