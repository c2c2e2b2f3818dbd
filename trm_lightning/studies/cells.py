"""Tables of text cells, their Markdown, and cells of means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trm_lightning.evaluation.rounding import NONE, number


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
    head, *rows = [[_escaped(cell) for cell in row] for row in [table.header, *table.rows]]
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


def _escaped(cell: str) -> str:
    """Return text that can neither end a Markdown table's cell nor be markup."""
    return cell.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
