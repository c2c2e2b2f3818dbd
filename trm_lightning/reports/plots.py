"""The look of all figures, and how they become files and parts of a page.

Drawn without pyplot, which keeps state between figures. Colours and markers: ``colors``.
"""

import io
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from trm_lightning.files import write_bytes
from trm_lightning.reports.colors import FAINT, INK, Style

SIZE = (4.4, 2.9)  # inches: about a phone's width, so that text keeps its size on one
PNG_DPI = 200


def _look() -> AbstractContextManager[None]:
    """Let SVGs keep text as text, and the same numbers give the same file."""
    return matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "trm_lightning", "font.size": 8.5}
    )


def new_axes(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Return an empty figure in the common look."""
    with _look():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontsize=9.5, color=INK, fontweight="bold")
        axes.set_xlabel(x, color=INK)
        axes.set_ylabel(y, color=INK)
        axes.tick_params(colors=INK, labelcolor=INK, width=0.6, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=INK, linewidth=0.6)
    axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def add_line(
    axes: Axes, style: Style, x: Sequence[float], y: Sequence[float | None], label: str = ""
) -> None:
    """Draw a series; values that are None or not finite are left out."""
    points = [(a, b) for a, b in zip(x, y, strict=True) if b is not None and math.isfinite(b)]
    marker = style.marker if len(points) <= 40 else ""
    axes.plot(
        [a for a, _ in points], [b for _, b in points], style.line, marker=marker, markersize=3.5,
        linewidth=1.4, color=style.color, label=label or "_",
    )  # fmt: skip


def add_legend(axes: Axes) -> None:
    """Name the labelled series below the axes' title, where they cover no data."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    n_columns = 3 if sum(sorted(map(len, labels))[-3:]) <= 45 else 2
    axes.figure.legend(
        handles, labels, loc="outside lower left", ncols=n_columns, frameon=False,
        labelcolor=INK, fontsize=7.5, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip


def scale_perplexity(axes: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic axis where values span more than a factor of 3, with plain numbers."""
    values = [value for value in values if math.isfinite(value)]
    low, high = min(values, default=0), max(values, default=0)
    if low > 0 and high / low > 3:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def fit_to_later(axes: Axes, first: Sequence[float], later: Sequence[float]) -> None:
    """Fit the y axis to the later values alone, where the first ones would squeeze them.

    What lies outside is told above the axes.
    """
    if not first or not later:
        return
    change = axes.yaxis.get_transform()  # the identity or a logarithm
    low, high = change.transform((min(later), max(later)))
    span = max(high - low, 0.02 * abs(high), 1e-9)
    places = change.transform(first)
    outside = [
        v for v, at in zip(first, places, strict=True) if not low - span <= at <= high + span
    ]
    if not outside:
        return
    bottom, top = change.inverted().transform((low - 0.12 * span, high + 0.12 * span))
    axes.set_ylim(bottom, top)
    shown = " to ".join(f"{value:,.4g}" for value in sorted({min(outside), max(outside)}))
    axes.annotate(
        f"off the axis at the start: {shown}", (1, 1.01), xycoords="axes fraction",
        ha="right", va="bottom", color=FAINT, fontsize=7,
    )  # fmt: skip


def whole_numbers(axes: Axes) -> None:
    """Put the x axis' ticks at whole numbers only."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def short_number(value: float, _: int = 0) -> str:
    """Return 1200 as 1.2k and 3000000 as 3M."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"


def save_figure(figure: Figure, stem: Path) -> str:
    """Write ``stem``.svg and ``stem``.png, each at once or not at all; return the SVG."""
    svg = _rendered(figure, "svg")
    figure.set_layout_engine("none")  # it is laid out now, and to do so takes most of the time
    for suffix, content in ((".svg", svg), (".png", _rendered(figure, "png"))):
        write_bytes(stem.with_name(stem.name + suffix), content)
    return svg.decode()


def as_element(svg: str, name: str) -> str:
    """Return a matplotlib SVG file's content as an element of a page.

    Its ids are made the page's own by ``name``; its font is the page's; its size is its width. A
    figure drawn in INK gets the page's colours, any other one keeps its white paper.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    if INK in svg:
        svg = svg.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
    return svg


def _rendered(figure: Figure, format: str) -> bytes:
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar sign in a token or a name is a dollar sign
    buffer = io.BytesIO()
    # Without a date, the same numbers give the same file.
    metadata = {"Date": None} if format == "svg" else {}
    with _look():
        figure.savefig(buffer, format=format, dpi=PNG_DPI, facecolor="white", metadata=metadata)
    return buffer.getvalue()
