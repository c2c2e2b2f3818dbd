"""The pictures of studies, one for each kind."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from trm_lightning.reports.colors import FAINT, FAMILIES, INK, OTHERS, Style
from trm_lightning.reports.plots import add_legend, new_axes, short_number, whole_numbers
from trm_lightning.studies.breaks import CERTAIN
from trm_lightning.studies.frontier import Envelope
from trm_lightning.studies.power_law import Curve
from trm_lightning.studies.study_table import exponent_cell
from trm_lightning.studies.trend import spans_octaves

Values = dict[str, Any]
Styles = Mapping[str, Style]
PALETTE = [style.color for style in (*FAMILIES.values(), *OTHERS)]
PANELS = {"parameters": "parameters", "flops": "training FLOPs", "seconds": "seconds of training"}


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


def trend_figure(study: Values, styles: Styles) -> Figure:
    """Draw each series' score over what its entries differ in."""
    y = "better than its baseline by, %" if study["relative"] else "perplexity, best"
    figure, axes = new_axes(f"Over {study['axis']}", study["axis"], y)
    if study["relative"]:
        axes.axhline(0, color=FAINT, linewidth=0.8)
    _draw_series(axes, study["points"], "value", styles)
    return figure


def break_figure(study: Values, styles: Styles) -> Figure:
    """Draw nats per token; where two straight lines are needed, shade the place they meet at.

    A series of a study is drawn twice, dotted for the text that it was trained on.
    """
    figure, axes = new_axes(f"Over {study['axis']}", study["axis"], "nats per token")
    lines = {"trained text": ":", "held out": "-"}
    parts = {
        f"{name}, {part}": replace(style, line=line)
        for name, style in styles.items()
        for part, line in lines.items()
    }
    for found in study["breaks"]:
        if found["at"] is not None and found["p"] < CERTAIN:
            color = parts[found["series"]].color
            axes.axvspan(found["low"], found["high"], color=color, alpha=0.12, linewidth=0)
            axes.axvline(found["at"], color=color, linewidth=0.8)
    _draw_series(axes, study["points"], "nats", parts)
    return figure


def _draw_series(axes: Axes, points: list[Values], key: str, styles: Styles) -> None:
    """Draw means with intervals over ``at``, a line for each series, on an axis that fits them."""
    for name, own in _by_series(points).items():
        own = sorted(own, key=lambda point: float(point["at"]))
        style = styles[name]
        axes.errorbar(
            [point["at"] for point in own], [point[key]["mean"] for point in own],
            yerr=[point[key]["half_width"] or 0 for point in own], fmt=style.line + style.marker,
            markersize=4, capsize=2, linewidth=1.2, color=style.color, label=name,
        )  # fmt: skip
    if spans_octaves(points):
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    add_legend(axes)


def readout_figure(study: Values, styles: Styles) -> Figure:
    """Draw the nats of both heads on training and on held-out text, entry by entry."""
    figure, axes = new_axes("Heads on frozen states", "nats per token", "")
    marks = {("own_head", "training_tenth"): "^", ("own_head", "held_out"): "o",
             ("fresh_head", "training_tenth"): "v", ("fresh_head", "held_out"): "s"}  # fmt: skip
    for k, ((head, part), mark) in enumerate(marks.items()):
        axes.errorbar(
            [entry[head][part]["mean"] for entry in study["entries"]],
            [i + 0.08 * (k - 1.5) for i in range(len(study["entries"]))],
            xerr=[entry[head][part]["half_width"] or 0 for entry in study["entries"]],
            fmt=mark, markersize=5, capsize=2, linewidth=1, color=PALETTE[k % len(PALETTE)],
            label=f"{head.replace('_', ' ')}, {part.replace('_', ' ')}",
        )  # fmt: skip
    axes.set_yticks(range(len(study["entries"])), [e["name"] for e in study["entries"]], color=INK)
    axes.set_ylim(len(study["entries"]) - 0.5, -0.5)
    add_legend(axes)
    return figure


def probe_figure(study: Values, styles: Styles) -> Figure:
    """Draw the nats of linear probes after each pass; solid lines are y, dotted ones z."""
    figure, axes = new_axes("Linear probes", "passes through the blocks", "nats per token")
    for entry in study["entries"]:
        for k, target in enumerate(entry["readings"][0]["scores"]):
            for symbol, line in (("y", "-"), ("z", ":")):
                read = [r for r in entry["readings"] if r["symbol"] == symbol]
                axes.plot(
                    [r["pass"] for r in read], [r["scores"][target]["nats"]["mean"] for r in read],
                    line, marker="o", markersize=3, linewidth=1.2, color=PALETTE[k % len(PALETTE)],
                    label=f"{target}, {symbol}" if entry is study["entries"][0] and read else "_",
                )  # fmt: skip
    whole_numbers(axes)
    add_legend(axes)
    return figure


def exit_figure(study: Values, styles: Styles) -> Figure:
    """Draw nats over refinements per token: lines at fixed depth, markers with early exit."""
    figure, axes = new_axes("Early exit", "refinements per token", "nats per token")
    for k, entry in enumerate(study["entries"]):
        color = PALETTE[k % len(PALETTE)]
        kinds = (
            ("fixed depth", entry["fixed"], "-"),
            (f"exit by {entry['rule']}", entry["early"], "o"),
        )
        for kind, points, mark in kinds:
            axes.plot(
                [p["depth"]["mean"] for p in points], [p["nats"]["mean"] for p in points], mark,
                markersize=4, linewidth=1.2, color=color, label=f"{entry['name']}, {kind}",
            )  # fmt: skip
    add_legend(axes)
    return figure


def solved_figure(study: Values, styles: Styles) -> Figure:
    """Draw the share of solved puzzles over refinements.

    A ring marks the depth of training, a cross early exit.
    """
    figure, axes = new_axes("Accuracy over depth", "refinements", "% of the test puzzles solved")
    for k, entry in enumerate(study["entries"]):
        color, points = PALETTE[k % len(PALETTE)], entry["curve"]
        halting = [entry["halting"]] if "halting" in entry else []
        for at, mark, label in (
            (points, ".-", entry["name"]), ([entry["trained"]], "o", None), (halting, "x", None),
        ):  # fmt: skip
            axes.plot(
                [p["depth"]["mean"] for p in at], [p["percent"]["mean"] for p in at], mark,
                markersize=4 if label else 9, fillstyle="full" if label else "none",
                linewidth=1.2, color=color, label=label,
            )  # fmt: skip
    add_legend(axes)
    return figure


def _by_series(points: list[Values]) -> dict[str, list[Values]]:
    """Return points by the name of their series, in the order of their first entries."""
    series: dict[str, list[Values]] = {}
    for point in points:
        series.setdefault(point["series"], []).append(point)
    return series


# What each kind of study shows: a caption, and what draws it.
PICTURES: dict[str, tuple[str, Callable[[Values, Styles], Figure]]] = {
    "frontier": (
        "Best perplexity over what it costs, both logarithmic: means over seeds with 95 % "
        "intervals. Each line is a series' envelope, the best at or below each cost.",
        frontier_figure,
    ),
    "recurrence": (
        "Nats per token over passes through a block: means over seeds with 95 % intervals. "
        "Solid: the fitted curve of a series' loops. Dotted: that of distinct blocks.",
        recurrence_figure,
    ),
    "trend": ("Means over seeds with 95 % intervals.", trend_figure),
    "gain": ("Means over seeds with 95 % intervals; above 0 is better.", trend_figure),
    "memory": (
        "Means over seeds with 95 % intervals; shaded: where two straight lines meet, where two "
        "are worth their numbers.",
        break_figure,
    ),
    "readout": ("Means over seeds with 95 % intervals; left is better.", readout_figure),
    "exits": ("Means over seeds; lower is better.", exit_figure),
    "solved": (
        "Means over seeds; a ring marks the depth of training, a cross halting at the threshold "
        "chosen on validation puzzles. What refines nothing is at 0.",
        solved_figure,
    ),
    "depth_probe": (
        "Nats of a fresh linear layer on frozen states, held-out text; means over seeds.",
        probe_figure,
    ),
}
