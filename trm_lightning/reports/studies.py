"""A study's part of a comparison's report: its first numbers, its picture and its table."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from trm_lightning.reports.colors import FAINT, INK, Style
from trm_lightning.reports.document import Number, Picture, Section
from trm_lightning.reports.plots import add_legend, new_axes, short_number
from trm_lightning.studies.frontier import Envelope
from trm_lightning.studies.power_law import Curve
from trm_lightning.studies.study_table import (
    exponent_cell,
    interval_cell,
    ratio_cell,
    study_table,
    study_text,
)

Values = dict[str, Any]
Styles = Mapping[str, Style]
PANELS = {"parameters": "parameters", "flops": "training FLOPs", "seconds": "seconds of training"}


def study_section(study: Values, styles: Styles) -> Section:
    """Return a study's section; ``styles`` are of its series."""
    table = study_table(study)
    pictures = []
    if study["points"] and study["kind"] == "frontier":
        caption = (
            "Best perplexity over what it costs, both logarithmic: means over seeds with 95 % "
            "intervals. Each line is a series' envelope, the best at or below each cost."
        )
        pictures = [Picture("frontier", caption, frontier_figure(study, styles), wide=True)]
    elif study["points"]:
        caption = (
            "Nats per token over passes through a block: means over seeds with 95 % intervals. "
            "Solid: the fitted curve of a series' loops. Dotted: that of distinct blocks."
        )
        pictures = [Picture("recurrence", caption, recurrence_figure(study, styles))]
    return Section(table.title, study_text(study), pictures, [replace(table, title="")])


def study_numbers(study: Values) -> list[Number]:
    """Return the study's answers, one for each entry or series that has one."""
    base = study["baseline_series"]
    if study["kind"] == "frontier":
        return [
            Number(
                f"{point['name']} equals",
                f"{ratio_cell(point['ratios']['parameters'])} ×",
                f"its parameters in {base}",
            )
            for point in study["points"]
            if point["ratios"] and point["ratios"]["parameters"]
        ]
    return [
        Number(f"φ of {found['series']}", exponent_cell(found["phi"]) + interval_cell(found), "")
        for found in study["exponents"]
        if found["phi"] is not None
    ]


def frontier_figure(study: Values, styles: Styles) -> Figure:
    """Draw perplexity over parameters, training FLOPs and seconds, side by side."""
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    shown = study["points"]
    for place, (cost, label) in enumerate(PANELS.items(), start=1):
        axes = figure.add_subplot(1, 3, place)
        axes.set_title(f"Over {label}", loc="left", fontsize=9.5, color=INK, fontweight="bold")
        axes.set_xlabel(label, color=INK, fontsize=8.5)
        if place == 1:
            axes.set_ylabel("perplexity, best", color=INK, fontsize=8.5)
        axes.tick_params(which="both", colors=INK, labelcolor=INK, width=0.6, labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set(color=INK, linewidth=0.6)
        axes.grid(axis="y", color=FAINT, alpha=0.25, linewidth=0.6)
        for name, points in _by_series(shown).items():
            _draw_envelope(axes, styles[name], [(p[cost], p["perplexity"]) for p in points], name)
        _log_axes(axes, [(point[cost], point["perplexity"]) for point in shown])
    add_legend(figure.axes[0])
    return figure


def _draw_envelope(
    axes: Axes, style: Style, points: list[tuple[Values, Values]], name: str
) -> None:
    """Draw one series' means with intervals in both directions, and its envelope."""
    envelope = Envelope.of([(cost["mean"], score["mean"]) for cost, score in points])
    axes.plot(envelope.costs, envelope.perplexities, style.line, color=style.color, linewidth=1.4)
    axes.errorbar(
        [cost["mean"] for cost, _ in points], [score["mean"] for _, score in points],
        xerr=[cost["half_width"] or 0 for cost, _ in points],
        yerr=[score["half_width"] or 0 for _, score in points],
        fmt=style.marker, markersize=4, capsize=2, linewidth=1, color=style.color,
        label=name,
    )  # fmt: skip


def _log_axes(axes: Axes, points: list[tuple[Values, Values]]) -> None:
    """Make both axes logarithmic, with numbers at enough places where they span little."""
    axes.set(xscale="log", yscale="log")
    for k, axis in enumerate((axes.xaxis, axes.yaxis)):
        means = [point[k]["mean"] for point in points]
        span = max(means) / min(means)
        ticks = LogLocator(subs=(1, 2, 5) if span < 30 else (1,)) if span > 3 else MaxNLocator(4)
        axis.set_major_locator(ticks)
        axis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(_short_power))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _short_power(value: float, _: int = 0) -> str:
    """Return 1000 as 1k; numbers of FLOPs, beyond all such names, as 1e+13."""
    return f"{value:.0e}" if value >= 1e12 else short_number(value)


def recurrence_figure(study: Values, styles: Styles) -> Figure:
    """Draw nats per token over blocks times loops, with the curve fitted to each series."""
    figure, axes = new_axes("What loops are worth", "blocks × loops", "nats per token, best")
    series = _by_series(study["points"])
    for name, points in series.items():
        axes.errorbar(
            [p["blocks"] * p["loops"] for p in points], [p["nats"]["mean"] for p in points],
            yerr=[p["nats"]["half_width"] or 0 for p in points], fmt=styles[name].marker,
            markersize=4, capsize=2, linewidth=1, color=styles[name].color,
            label=name + _phi_text(study, name),
        )  # fmt: skip
    for found in study["exponents"]:
        if found["phi"] is not None:
            base = series[study["baseline_series"]]
            color = styles[found["series"]].color
            _draw_fit(axes, found, series[found["series"]], color, "-")
            _draw_fit(axes, found, base, color, ":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    add_legend(axes)
    return figure


def _draw_fit(
    axes: Axes, found: Mapping[str, Any], points: list[Values], color: str, line: str
) -> None:
    """Draw a fitted curve: over loops for each number of blocks, or over blocks run once."""
    fields = ("phi", "alpha", "floor", "amplitude")
    curve = Curve(*(found[field] for field in fields))
    most = max(point["loops"] for point in points)
    if most == 1:
        blocks = [point["blocks"] for point in points]
        passes = np.geomspace(min(blocks), max(blocks), 50)
        axes.plot(passes, curve.at(passes, 1), line, color=color, linewidth=1.2)
        return
    loops = np.geomspace(1, most, 50)
    for n in sorted({point["blocks"] for point in points}):
        axes.plot(n * loops, curve.at(n, loops), line, color=color, linewidth=1.2)


def _phi_text(study: Values, series: str) -> str:
    for found in study["exponents"]:
        if found["series"] == series and found["phi"] is not None:
            return f", φ = {exponent_cell(found['phi'])}"
    return ""


def _by_series(points: list[Values]) -> dict[str, list[Values]]:
    """Return points by the name of their series, in the order of their first entries."""
    series: dict[str, list[Values]] = {}
    for point in points:
        series.setdefault(point["series"], []).append(point)
    return series
