"""Learning curves of one run or of several side by side."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from trm_lightning.evaluation.puzzles import is_share
from trm_lightning.reports.colors import FAINT, INK, Style
from trm_lightning.reports.plots import (
    add_legend,
    add_line,
    new_axes,
    scale_perplexity,
    short_number,
)

History = Sequence[Mapping[str, float]]  # lines of metrics.jsonl
TRAINING = "train/ppl"
AXES = {"tokens": "tokens", "seconds": "seconds of training"}


def run_curve(
    history: History, metric: str, x: str, label: str, style: Style, floor: float | None = None
) -> Figure:
    """Draw a run's training loss and one of its scores.

    Args:
        history: the run's log.
        metric: a validated score, such as ``val/ppl``.
        x: key of AXES.
        label: of the y axis.
        style: of the model.
        floor: exp(entropy) of the text, where it is known.
    """
    figure, axes = new_axes(f"Against {x}", AXES[x], label)
    shown = []
    training = _points(history, TRAINING, x)
    if training:
        axes.plot(
            [a for a, _ in training], [b for _, b in training],
            linewidth=0.9, alpha=0.8, color=FAINT, label="training",
        )  # fmt: skip
        shown += [b for _, b in training[len(training) // 20 :]]  # not the fall of the first steps
    scored = _points(history, metric, x)
    if scored:
        add_line(axes, style, [a for a, _ in scored], [b for _, b in scored], "validation")
        shown += [b for _, b in scored]
    if floor is not None and math.isfinite(floor):
        axes.axhline(floor, color=INK, linewidth=0.9, linestyle=":", label="entropy floor")
        shown.append(floor)
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    if is_share(metric):
        axes.set_ylim(0, 102)
    elif shown:
        scale_perplexity(axes, shown)
        axes.set_ylim(top=max(shown) * 1.1)
    add_legend(axes)
    return figure


def side_by_side(
    curves: Mapping[str, Sequence[History]],
    metrics: Mapping[str, str],
    styles: Mapping[str, Style],
    x: str,
    label: str,
) -> Figure:
    """Draw a score of several entries: each seed thinly, their mean where all have a point.

    Args:
        curves: the logs of each entry's seeds.
        metrics: the score of each entry.
        styles: of each entry.
        x: key of AXES.
        label: of the y axis.
    """
    figure, axes = new_axes(f"Against {x}", AXES[x], label)
    shown = []
    for name, seeds in curves.items():
        metric, style = metrics[name], styles[name]
        points = [_points(seed, metric, x) for seed in seeds]
        for seed in points:
            axes.plot(*zip(*seed, strict=True), linewidth=0.7, alpha=0.4, color=style.color)
        n = min((len(seed) for seed in points), default=0)
        if n == 0:
            continue
        means = [
            [sum(seed[k][axis] for seed in points) / len(points) for k in range(n)]
            for axis in (0, 1)
        ]
        add_line(axes, style, means[0], means[1], name)
        shown += [value for seed in points for _, value in seed]
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    if any(map(is_share, metrics.values())):
        axes.set_ylim(0, 102)
    elif shown:
        scale_perplexity(axes, shown)
    add_legend(axes)
    return figure


def _points(history: History, name: str, x: str) -> list[tuple[float, float]]:
    """Return where a score was logged, and its value where that is finite; shares in percent."""
    scale = 100 if is_share(name) else 1
    shown = [line for line in history if math.isfinite(line.get(name, math.nan))]
    return [(line[x], scale * line[name]) for line in shown]
