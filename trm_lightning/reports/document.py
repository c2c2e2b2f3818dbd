"""What a report consists of, before it becomes HTML or Markdown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from trm_lightning.studies.cells import Table


@dataclass(frozen=True)
class Number:
    """A number that a reader should see first."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure, or the stem of a .png and a .svg file that were drawn before.

    Files may be a stranger's: a page shows them as images, which cannot run or load anything.

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

    @property
    def stem(self) -> str:
        """The name as part of a file's name and of an HTML id, whatever it was made from."""
        return re.sub(r"\W+", "_", self.name, flags=re.ASCII)[:60]


@dataclass(frozen=True)
class Listing:
    """Text to be shown as it is.

    Attributes:
        title: above it.
        text: the lines.
        folded: shown on demand only.
        prose: text to read, not code.
    """

    title: str
    text: str
    folded: bool = False
    prose: bool = False


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
        verdict: what the numbers say, in sentences.
        warning: what a reader must know before any number; empty for nothing.
        folder: where what it is about lies; may be empty.
    """

    title: str
    subtitle: str
    numbers: Sequence[Number]
    sections: Sequence[Section] = ()
    verdict: Sequence[str] = ()
    warning: str = ""
    folder: str = ""
