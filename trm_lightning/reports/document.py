"""What a report consists of, before it becomes HTML or Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Number:
    """A number that a reader should see first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of text cells; all columns but the first ``n_text`` are numbers.

    Attributes:
        title: above it; may be empty.
        header: one cell per column.
        rows: cells.
        note: below it; may be empty.
        n_text: columns of words, from the left.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    n_text: int = 1


@dataclass(frozen=True)
class Picture:
    """A figure, or the stem of a .png and a .svg file that were drawn before.

    Attributes:
        name: of its files.
        caption: what it shows, also for those who cannot see it.
        source: the figure or the stem.
        wide: needs the page's whole width; a narrow screen scrolls it.
    """

    name: str
    caption: str
    source: Figure | Path
    wide: bool = False


@dataclass(frozen=True)
class Listing:
    """Text to be shown as it is.

    Attributes:
        title: above it.
        text: the lines.
        folded: shown on demand only.
    """

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a report: text, then points, pictures, tables and listings."""

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    listings: Sequence[Listing] = ()
    points: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """A whole report.

    Attributes:
        title: of the page.
        subtitle: what it is about, in a line.
        numbers: shown first.
        sections: in order.
        warning: what a reader must know before any number; empty for nothing.
    """

    title: str
    subtitle: str
    numbers: Sequence[Number]
    sections: Sequence[Section] = field(default_factory=list)
    warning: str = ""


def number(value: float | None, digits: int = 4) -> str:
    """Return a number to ``digits`` significant digits, with thousands set off; – for None."""
    if value is None:
        return "–"
    if value and abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return f"{value:.1e}" if "e" in text else text


def fixed(value: float | None, decimals: int = 3) -> str:
    """Return a number with so many decimals; – for None."""
    return "–" if value is None else f"{value:,.{decimals}f}"


def percent(share: float | None) -> str:
    """Return a share in percent; – for None."""
    return "–" if share is None else f"{100 * share:.1f} %"
