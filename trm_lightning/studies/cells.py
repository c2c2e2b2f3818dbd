"""Tables of text cells, their Markdown, and cells of means."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trm_lightning.evaluation.rounding import NONE, number
from trm_lightning.printable import printable


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


def mean_cell(figure: dict[str, Any] | None, signed: bool = False) -> str:
    """Return a mean with half of its interval; ``figure`` is from ``Estimate.as_dict``."""
    if figure is None:
        return NONE
    return number(figure["mean"], figure["half_width"], signed=signed)


def percent_cell(figure: dict[str, Any] | None) -> str:
    """Return a mean in percent, with its sign."""
    if figure is None:
        return NONE
    return number(figure["mean"], figure["half_width"], digits=2, signed=True) + " %"


def without_empty_columns(table: Table) -> Table:
    """Return the table less the columns that have no value in any row."""
    kept = [
        i
        for i in range(len(table.header))
        if i < table.n_text or any(row[i] != NONE for row in table.rows)
    ]
    rows = [[row[i] for i in kept] for row in table.rows]
    return Table(table.title, [table.header[i] for i in kept], rows, table.note, table.n_text)


def markdown_table(table: Table) -> str:
    """Return a table whose columns are aligned in the text as well, without title and note."""
    head, *rows = [[escaped(cell) for cell in row] for row in [table.header, *table.rows]]
    # At least 2: a rule for numbers is a dash and a colon.
    widths = [max(2, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
    words = [i < table.n_text for i in range(len(head))]
    rule = [
        "-" * width if word else "-" * (width - 1) + ":"
        for width, word in zip(widths, words, strict=True)
    ]
    lines = []
    for row in [head, rule, *rows]:
        cells = [
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(row, widths, words, strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# Signs of Markdown where they mean something: not in x_1, 3 * 4 or -0.5.
_MARKUP = re.compile(
    r"[\\`\[\]|]|\*(?=\S)|(?<=\S)\*|(?<!\w)_(?=\S)|(?<=\S)_(?!\w)|~(?=~)"
    r"|^[#>]|^[-+=](?=[-=\s]|$)"
)


def escaped(text: str) -> str:
    """Return text on one line that Markdown shows as it is, in a cell of a table as well."""
    line = " ".join(printable(text).split("\n")).lstrip()
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line).replace("<", "&lt;")
    return _MARKUP.sub(r"\\\g<0>", line)


def code_span(text: str) -> str:
    """Return text as code within a line of Markdown, which its own backticks cannot end."""
    line = " ".join(printable(text).split("\n"))
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    blank = " " if "`" in line else ""
    return f"{fence}{blank}{line}{blank}{fence}"
