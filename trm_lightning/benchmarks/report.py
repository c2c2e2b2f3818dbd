"""The benchmark's table."""

from typing import Any


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table that also reads well on a terminal."""
    head = ["", "ms (lowest to highest)", "tokens/s", "times a reference", "GFLOP", "GFLOP/s"]
    head += ["% of peak", "note"]
    lines = []
    for section in dict.fromkeys(row["section"] for row in rows):
        cells = [head] + [_cells(row) for row in rows if row["section"] == section]
        used = [i for i in range(len(head)) if any(line[i] for line in cells[1:])]
        cells = [[line[i] for i in used] for line in cells]
        widths = [max(len(line[i]) for line in cells) for i in range(len(used))]
        rule = ["-" * width for width in widths]
        lines += [f"## {section}", ""]
        lines += [_line(line, widths) for line in (cells[0], rule, *cells[1:])]
        lines.append("")
    return "\n".join(lines)


def _line(cells: list[str], widths: list[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


def _cells(row: dict[str, Any]) -> list[str]:
    low, high = (_milliseconds(row[f"seconds_{end}"]) for end in ("low", "high"))
    rate, share = row["tokens_per_second"], row["percent_of_peak"]
    ratios = row["times_reference"].items()
    return [
        row["name"],
        f"{_milliseconds(row['seconds_median'])} ({low} to {high})",
        "" if rate is None else f"{rate:,.0f}",
        "; ".join(f"{ratio:.2f} x {name}" for name, ratio in ratios),
        *_arithmetic(row),
        "" if share is None else f"{share:.0f}",
        row.get("note", ""),
    ]


def _arithmetic(row: dict[str, Any]) -> tuple[str, str]:
    """Return the operations of a call in GFLOP, and GFLOP per second."""
    flops = row["flops"]
    if flops is None:
        return "", ""
    return f"{flops / 1e9:,.1f}", f"{flops / row['seconds_median'] / 1e9:,.0f}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.{0 if seconds >= 0.1 else 1 if seconds >= 0.01 else 2}f}"
