"""Draw README's picture, docs/images/story.svg, from the numbers of docs/images/story.csv.

Usage: python docs/make_story_figure.py
"""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

IMAGES = Path(__file__).parent / "images"
INK, FAINT = "#1d2026", "#8b919b"
COLORS = {"ar": "#0072b2", "trm": "#d55e00", "looped": "#009e73"}
TITLES = {
    "notes": "in the notes' setting, vocabulary counted on all text",
    "honest": "in this project's, vocabulary counted on training text",
}


def main() -> None:
    """Read the numbers and write the picture."""
    with (IMAGES / "story.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "trm_lightning", "font.size": 9}
    ):
        figure, (gutter, axes) = plt.subplots(
            1, 2, figsize=(7.6, 3.9), sharey=True, width_ratios=(1.5, 4.2), layout="constrained"
        )
        draw(gutter, axes, rows)
        figure.savefig(IMAGES / "story.svg", metadata={"Date": None})


def draw(gutter: Axes, axes: Axes, rows: list[dict[str, str]]) -> None:
    """Draw one line per row: likelihoods on a log axis, the others in a gutter beside it."""
    y, group, ticks = 0.0, "", []
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            title = TITLES[group]
            axes.text(32, y, title, va="center", fontsize=8.5, color=INK, style="italic")
            y += 0.8
        ticks.append((y, row["label"]))
        if row["kind"] == "copying":
            draw_copying(gutter, y, row)
        else:
            draw_likelihood(axes, y, row)
        y += 1.0
    axes.set(xscale="log", xlim=(30, 1500), ylim=(y - 0.3, -0.5))
    axes.set_xlabel("validation perplexity of words, log scale", color=INK)
    axes.xaxis.set_major_locator(FixedLocator([30, 100, 300, 1000]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    gutter.set(xlim=(0, 1), xticks=[], facecolor="#f1f1f1")
    gutter.text(0.5, 3.7, "not a likelihood:\nhas no place\non the axis", ha="center", color=INK)
    gutter.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
    for each in (gutter, axes):
        each.spines[["top", "right", "left"]].set_visible(False)
        each.tick_params(axis="y", length=0, colors=INK)
    axes.tick_params(axis="y", labelleft=False)


def draw_copying(gutter: Axes, y: float, row: dict[str, str]) -> None:
    """Draw a hatched, hollow box: the model was given the tokens to predict."""
    gutter.barh(y, 0.4, left=0.1, height=0.6, fill=False, hatch="////", edgecolor=FAINT)
    gutter.text(0.56, y, row["perplexity"], va="center", color=INK)


def draw_likelihood(axes: Axes, y: float, row: dict[str, str]) -> None:
    """Draw a point with its number, and its 95 % interval where there is one."""
    value, half = float(row["perplexity"]), float(row["interval"] or 0)
    axes.errorbar(value, y, xerr=half, fmt="o", color=COLORS[row["kind"]], markersize=7)
    number = f"{value:.2f} ± {half:.2f}" if half else f"{value:.1f}"
    axes.text((value + half) * 1.08, y, number, va="center", color=INK)


if __name__ == "__main__":
    main()
