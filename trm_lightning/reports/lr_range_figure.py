"""The picture of a learning-rate range test."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import FuncFormatter

from trm_lightning.reports.colors import FAINT, INK
from trm_lightning.reports.plots import add_legend, new_axes, save_figure, short_number


def write_lr_range_figure(
    ratios: Sequence[float],
    losses: Sequence[float],
    smooth: Sequence[float],
    suggested: float,
    stem: Path,
) -> None:
    """Draw the loss over the rate, and write ``stem``.svg and ``stem``.png.

    Args:
        ratios: rates as multiples of the optimizer's own.
        losses: nats per token after each.
        smooth: the same, smoothed.
        suggested: the rate to mark.
        stem: path without a suffix.
    """
    figure, axes = new_axes(
        "Learning-rate range test", "multiple of the optimizer's rates", "nats per token"
    )
    axes.plot(ratios, losses, linewidth=0.8, color=FAINT, alpha=0.8, label="loss")
    axes.plot(ratios, smooth, linewidth=1.4, color=INK, label="smoothed")
    axes.axvline(suggested, linewidth=0.9, linestyle=":", color=INK, label="falls fastest")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    add_legend(axes)
    save_figure(figure, stem)
