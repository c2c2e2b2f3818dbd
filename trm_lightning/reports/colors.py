"""One colour and marker for each model family, in every figure.

The palette is Okabe and Ito's, which colour-blind readers can tell apart; series differ in marker
as well. To give a model a colour of its own, add a line to ``FAMILIES``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.colors import to_hex, to_rgb

INK = "#1d2026"  # becomes the page's own text colour in a page
FAINT = "#8b919b"


@dataclass(frozen=True)
class Style:
    """How a series is drawn."""

    color: str
    marker: str = "o"
    line: str = "-"


FAMILIES = {
    "ar": Style("#0072b2", "o"),
    "trm": Style("#d55e00", "s"),
    "looped": Style("#009e73", "^"),
    "source_trm": Style("#cc79a7", "D"),
}
# For families without a line above, in the order of their names.
OTHERS = (
    Style("#e69f00", "v"),
    Style("#56b4e9", "P"),
    Style("#7a5195", "X"),
    Style("#8c6d31", "<"),
)
# For quantities of one model beside its first one, which has the model's own colour.
QUANTITIES = (Style("#56b4e9", "v"), Style("#e69f00", "P"), Style(FAINT, "X"))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_ALIASES = {"baseline": "ar"}
_SHADES = (0.0, 0.45, -0.4)  # towards white, towards black
_LINES = ("-", "--", ":", "-.")
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def family_of(name: str) -> str:
    """Return the family of a model.

    Args:
        name: a ``_target_``, a class, a choice of ``conf/model`` or the name of an entry or series,
            such as ``trm_lightning.models.TRM``, ``trm_64x2`` or ``warm_start_trm``.

    Returns:
        The longest family that is a word of the name, else the name in lower case.
    """
    last = name.rpartition(".")[2] if _CLASS_PATH.fullmatch(name) else name
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower()
    for word in sorted([*FAMILIES, *_ALIASES], key=len, reverse=True):
        if re.search(rf"(?<![a-z]){word}(?![a-z])", snake):
            return _ALIASES.get(word, word)
    return snake


def series_styles(families: Mapping[str, str]) -> dict[str, Style]:
    """Return a style for each series of a figure.

    Series of one family share its hue; the first has the family's own style, later ones differ in
    shade, marker and line.

    Args:
        families: the family of each series, in the order drawn.
    """
    unknown = sorted(set(families.values()) - FAMILIES.keys())
    bases = FAMILIES | {name: OTHERS[i % len(OTHERS)] for i, name in enumerate(unknown)}
    styles: dict[str, Style] = {}
    seen: dict[str, int] = {}
    for name, family in families.items():
        k = seen[family] = seen.get(family, -1) + 1
        base = bases[family]
        markers = (base.marker, *(m for m in MARKERS if m != base.marker))
        styles[name] = Style(
            shade(base.color, _SHADES[k % len(_SHADES)]),
            markers[k % len(markers)],
            _LINES[k // len(_SHADES) % len(_LINES)],
        )
    return styles


def model_style(name: str) -> Style:
    """Return the style of a single model."""
    return series_styles({name: family_of(name)})[name]


def ordered_styles(color: str, n: int) -> list[Style]:
    """Return ``n`` styles from dark to light, for groups of one model's tokens."""
    amounts = [-0.45 + 1.05 * i / max(n - 1, 1) for i in range(n)] if n > 1 else [0.0]
    return [Style(shade(color, a), MARKERS[i % len(MARKERS)]) for i, a in enumerate(amounts)]


def shade(color: str, amount: float) -> str:
    """Mix a colour with white (``amount`` above 0) or black (below 0)."""
    end = 1.0 if amount > 0 else 0.0
    red, green, blue = ((1 - abs(amount)) * c + abs(amount) * end for c in to_rgb(color))
    return to_hex((red, green, blue))
