"""Time of a training step as a function of one size at a time."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from omegaconf import DictConfig

from trm_lightning.benchmarks.subjects import random_tokens, shipped
from trm_lightning.benchmarks.timing import Variant, measure, peak
from trm_lightning.benchmarks.training import variant_of
from trm_lightning.reports.colors import FAINT, Style, model_style

PANELS = {
    "window": "tokens of a window",
    "chunk_size": "tokens of a chunk",
    "n_refinements": "refinements T",
    "batch": "windows of a batch",
}


def scaling_rows(cfg: DictConfig, device: torch.device) -> list[dict[str, Any]]:
    """Measure optimizer steps over all sizes; rows have ``panel``, ``net`` and ``size``."""
    rows = []
    for panel in PANELS:
        variants = [peak(device)]
        for size in cfg.scaling[panel]:
            variants += _variants(cfg, device, panel, size)
        measured = measure(
            "scaling", variants, device, cfg.scaling.repetitions,
            cfg.scaling.seconds_per_measurement, cfg.clock,
        )  # fmt: skip
        rows += [row for row in measured if "panel" in row]
    return rows


def _variants(cfg: DictConfig, device: torch.device, panel: str, size: int) -> list[Variant]:
    """Return the models that have the panel's size, at that size."""
    window = size if panel == "window" else cfg.window
    batch = {"batch": size, "window": cfg.scaling.window_batch}.get(panel, cfg.batch)
    tokens = random_tokens(cfg, batch, window, device)
    changed = {panel: size} if panel in ("chunk_size", "n_refinements") else {}
    modules = {"TRM": shipped(cfg, "trm", window, **changed)}
    if not changed:
        modules["AR"] = shipped(cfg, "ar", window)
    found = []
    for net, module in modules.items():
        name = f"{net}, {PANELS[panel]}: {size}"
        found.append(variant_of(name, module, tokens, panel=panel, net=net, size=size))
    return found


def scaling_figure(rows: list[dict[str, Any]]) -> Figure:
    """Draw milliseconds of a step against each size, both logarithmic.

    Dashed lines show the time at each model's highest FLOP/s; the distance to them is lost
    efficiency.
    """
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    for place, (panel, label) in enumerate(PANELS.items(), start=1):
        axes = figure.add_subplot(2, 2, place)
        inside = [row for row in rows if row["panel"] == panel]
        for net in ("TRM", "AR"):
            _draw(axes, model_style(net), net, [row for row in inside if row["net"] == net])
        sizes = sorted({row["size"] for row in inside})
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="ms per training step")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        _scale(axes)
        axes.grid(color=FAINT, alpha=0.25, linewidth=0.6)
        axes.legend(frameon=False, fontsize=7.5)
    return figure


def _scale(axes: Axes) -> None:
    """Show at least a factor of 10, so that noise does not look like growth."""
    low, high = axes.get_ylim()
    missing = max(10 * low / high, 1.0) ** 0.5
    axes.set_ylim(low / missing, high * missing)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw(axes: Axes, style: Style, net: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    sizes = [row["size"] for row in rows]
    middle, low, high = (
        [1000 * row[f"seconds_{which}"] for row in rows] for which in ("median", "low", "high")
    )
    below = [a - b for a, b in zip(middle, low, strict=True)]
    above = [a - b for a, b in zip(high, middle, strict=True)]
    axes.errorbar(
        sizes, middle, yerr=(below, above), marker=style.marker, markersize=4, color=style.color,
        linewidth=1.4, label=net,
    )  # fmt: skip
    best = max(row["flops"] / row["seconds_median"] for row in rows)
    ideal = [1000 * row["flops"] / best for row in rows]
    axes.plot(
        sizes, ideal, "--", color=style.color, linewidth=0.9, label=f"{net}: at its highest FLOP/s"
    )
