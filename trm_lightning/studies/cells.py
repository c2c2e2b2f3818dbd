"""Cells and tables of Markdown that also read well on a terminal."""

from typing import Any

NONE = "–"


def mean_cell(figure: dict[str, Any] | None, digits: int = 2, signed: bool = False) -> str:
    """Return a mean with half of its interval; ``figure`` is from ``Estimate.as_dict``."""
    if figure is None:
        return NONE
    sign = "+" if signed else ""
    text = f"{figure['mean']:{sign},.{digits}f}"
    half = figure["half_width"]
    return text if half is None else f"{text} ± {half:,.{digits}f}"


def percent_cell(figure: dict[str, Any] | None) -> str:
    """Return a mean in percent, with its sign."""
    text = mean_cell(figure, digits=1, signed=True)
    return text if text == NONE else f"{text} %"


def plain_cell(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimals."""
    return NONE if value is None else f"{value:,.{digits}f}"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table whose columns are aligned in the text as well."""
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    # At least 2: a rule for numbers is a dash and a colon.
    widths = [max(2, *(len(row[i]) for row in [head, *rows])) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in [head, rule, *rows]:
        first = row[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("| " + " | ".join([first, *rest]) + " |")
    return "\n".join(lines)
