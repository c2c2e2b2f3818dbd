"""Figures of an analysis, drawn from the content of its ``analysis.json`` alone."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trm_lightning.reports.plots import (
    COLORS,
    FAINT,
    INK,
    add_legend,
    add_line,
    new_axes,
    scale_perplexity,
    short_number,
    whole_numbers,
)

Content = dict[str, Any]
CURVES = {
    "surprise": (
        "Entropy and change of the prediction",
        "nats per token",
        {"entropy": "entropy", "kl": "KL from the refinement before"},
    ),
    "changes": (
        "Top guesses that change",
        "% of tokens",
        {"changed": "changed", "better": "to the right token", "worse": "from the right token"},
    ),
    "drift": (
        "Direction of the states",
        "cosine to the refinement before",
        {"y_cosine": "answer y", "z_cosine": "latent z"},
    ),
    "norms": ("Size of the states", "mean norm", {"y_norm": "answer y", "z_norm": "latent z"}),
}


def analysis_figures(content: Content) -> dict[str, Figure]:
    """Return the figures by name: groups for any net, the rest for a recursive one."""
    figures = {}
    if "recursion" in content:
        figures["depth"] = _depth(content)
        for name, (title, unit, series) in CURVES.items():
            figures[name] = _curves(content, title, unit, series)
        if content["early_exit"]:
            figures["early_exit"] = _early_exit(content)
    for name, groups in content["groups"].items():
        draw = _groups_by_depth if "recursion" in content else _groups
        figures[name.replace(" ", "_")] = draw(content, name, groups)
    return figures


def measure_label(content: Content) -> str:
    """Return what the y axis of a score says."""
    return "perplexity" if content["is_likelihood"] else "not a likelihood"


def whole_refinements(content: Content) -> list[dict[str, Any]]:
    """Return the rows of finished refinements, the start first."""
    last = content.get("recursion", {}).get("n_recursions", 0)
    return [row for row in content["steps"] if row["recursion"] == last]


def is_supervised(content: Content, row: dict[str, Any]) -> bool:
    """Say whether the loss is made of the answer after this refinement."""
    recursion, refinement = content["recursion"], row["refinement"]
    if not 0 < refinement <= recursion["scoring_depth"]:
        return False
    in_step = (refinement - 1) % recursion["n_refinements"] + 1
    return bool(in_step > recursion["n_refinements"] - recursion["supervised_depths"])


def _depth(content: Content) -> Figure:
    """Score against refinements; answers read off between them as small dots."""
    label, measure = measure_label(content), content["measure"]
    figure, axes = new_axes("Depth", "refinements", label)
    whole = whole_refinements(content)
    n = content["recursion"]["n_recursions"]
    between = [row for row in content["steps"] if row["recursion"] < n]
    axes.plot(
        [row["refinement"] - 1 + row["recursion"] / n for row in between],
        [row[measure] for row in between],
        ".", markersize=4, color=COLORS[5], label="stopped after a recursion" if between else "_",
    )  # fmt: skip
    add_line(axes, 0, [row["refinement"] for row in whole], [row[measure] for row in whole], label)
    supervised = [row for row in whole if is_supervised(content, row)]
    axes.plot(
        [row["refinement"] for row in supervised], [row[measure] for row in supervised],
        "o", markersize=8, color=COLORS[1], fillstyle="none", label="answers that are trained",
    )  # fmt: skip
    shown = [row[measure] for row in content["steps"]]
    floor = content["entropy_floor_perplexity"]
    if floor is not None:
        shown.append(floor)
        axes.axhline(floor, color=INK, linewidth=0.9, linestyle=":", label="entropy floor")
    scale_perplexity(axes, shown)
    _mark_training(axes, content)
    add_legend(axes)
    return figure


def _early_exit(content: Content) -> Figure:
    """Score against mean depth: chunks that stop one by one, and all at the same depth."""
    label, measure = measure_label(content), content["measure"]
    figure, axes = new_axes("Halting", "refinements per token", label)
    trained = content["recursion"]["scoring_depth"]
    fixed = [row for row in whole_refinements(content) if 1 <= row["refinement"] <= trained]
    halting = sorted(content["early_exit"], key=lambda row: row["mean_depth"])
    add_line(axes, 0, [row["mean_depth"] for row in halting], [row[measure] for row in halting],
             "chunks that halt")  # fmt: skip
    add_line(axes, 1, [row["refinement"] for row in fixed], [row[measure] for row in fixed],
             "all to the same depth")  # fmt: skip
    scale_perplexity(axes, [row[measure] for row in [*halting, *fixed]])
    add_legend(axes)
    return figure


def _curves(content: Content, title: str, unit: str, series: dict[str, str]) -> Figure:
    figure, axes = new_axes(title, "refinements", unit)
    rows = whole_refinements(content)
    factor = 100 if unit.startswith("%") else 1
    for i, (key, label) in enumerate(series.items()):
        values = [None if row[key] is None else factor * row[key] for row in rows]
        add_line(axes, i, [row["refinement"] for row in rows], values, label)
    _mark_training(axes, content)
    add_legend(axes)
    return figure


def _groups_by_depth(content: Content, name: str, groups: list[dict[str, Any]]) -> Figure:
    figure, axes = new_axes(f"By {name}", "refinements", measure_label(content))
    for i, group in enumerate(groups):
        values = group[content["measure"]]
        add_line(axes, i, range(len(values)), values, group["name"])
    scale_perplexity(axes, [value for group in groups for value in group[content["measure"]]])
    _mark_training(axes, content)
    add_legend(axes)
    return figure


def _groups(content: Content, name: str, groups: list[dict[str, Any]]) -> Figure:
    figure, axes = new_axes(f"By {name}", measure_label(content), "")
    values = [group[content["measure"]][0] for group in groups]
    names = [f"{group['name']} ({short_number(group['tokens'])})" for group in groups]
    axes.barh(names, values, color=COLORS[0], height=0.6)
    axes.bar_label(axes.containers[0], fmt="{:,.4g}", padding=3, color=INK)  # type: ignore[arg-type]
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.margins(x=0.15)
    return figure


def _mark_training(axes: Axes, content: Content) -> None:
    """Shade what is deeper than the net was trained with; mark supervision steps."""
    recursion, deepest = content["recursion"], content["steps"][-1]["refinement"]
    trained = recursion["scoring_depth"]
    for step in range(1, recursion["n_supervision"]):
        axes.axvline(step * recursion["n_refinements"], color=FAINT, linewidth=0.7, linestyle="--")
    if deepest > trained:
        axes.axvspan(
            trained, deepest, color=FAINT, alpha=0.12, linewidth=0, label="deeper than trained"
        )
    whole_numbers(axes)
