"""Settings by their dotted keys, and in what two configs differ."""

from dataclasses import dataclass
from typing import Any

_ABSENT = object()


@dataclass(frozen=True)
class Differences:
    """What differs between two configs, by dotted keys.

    Attributes:
        changed: settings of both, with the two values.
        gone: settings of the first alone, with their values.
        added: settings of the second alone, with their values.
    """

    changed: dict[str, tuple[Any, Any]]
    gone: dict[str, Any]
    added: dict[str, Any]

    def __bool__(self) -> bool:
        """Return whether anything differs."""
        return bool(self.changed or self.gone or self.added)


def flat(node: Any, before: str = "") -> dict[str, Any]:
    """Return the leaves of nested settings by their dotted keys."""
    if not isinstance(node, dict) or not node:
        return {before: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{before}.{key}" if before else str(key))
    return found


def differences(first: dict[str, Any], second: dict[str, Any]) -> Differences:
    """Compare two sets of settings, as :func:`flat` returns them."""
    return Differences(
        {
            key: (value, second[key])
            for key, value in first.items()
            if value != second.get(key, _ABSENT) and key in second
        },
        {key: value for key, value in first.items() if key not in second},
        {key: value for key, value in second.items() if key not in first},
    )
