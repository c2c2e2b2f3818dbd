"""Figures of an analysis, drawn from the content of its ``analysis.json`` alone."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trm_lightning.reports.colors import (
    FAINT,
    INK,
    QUANTITIES,
    Style,
    model_style,
    ordered_styles,
)
from trm_lightning.reports.plots import (
    add_legend,
    add_line,
    fit_to_later,
    new_axes,
    scale_perplexity,
    short_number,
    whole_numbers,
)

Content = dict[str, Any]
Rows = list[dict[str, Any]]
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
    """Return the figures by name: groups for any model, the rest for a recursive one."""
    figures = {}
    if "recursion" in content:
        figures["depth"] = _depth(content)
        for name, (title, unit, series) in CURVES.items():
            measured = {key: label for key, label in series.items() if has_values(content, key)}
            if measured:
                figures[name] = _curves(content, title, unit, measured)
        if content["early_exit"]:
            figures["early_exit"] = _early_exit(content)
    for name, groups in content["groups"].items():
        draw = _groups_by_depth if "recursion" in content else _groups
        figures[name.replace(" ", "_")] = draw(content, name, groups)
    return figures


def has_values(content: Content, key: str) -> bool:
    """Say whether a quantity was measured; a model without recursions has no latent ``z``."""
    if key.startswith("z_") and not content["recursion"]["n_recursions"]:
        return False
    return any(row.get(key) is not None for row in whole_refinements(content))


def measure_label(content: Content) -> str:
    """Return what the y axis of a score says."""
    return "perplexity" if content["is_likelihood"] else "not a likelihood"


def whole_refinements(content: Content) -> Rows:
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


def _style(content: Content) -> Style:
    return model_style(content["net"])


def _depth(content: Content) -> Figure:
    """Score against refinements; answers read off between them as small dots."""
    label, measure = measure_label(content), content["measure"]
    figure, axes = new_axes("Depth", "refinements", label)
    whole, n = whole_refinements(content), content["recursion"]["n_recursions"]
    between = [row for row in content["steps"] if row["recursion"] < n]
    axes.plot(
        [row["refinement"] - 1 + row["recursion"] / n for row in between],
        [row[measure] for row in between],
        ".", markersize=4, color=FAINT, label="read off after a recursion" if between else "_",
    )  # fmt: skip
    add_line(
        axes, _style(content), [row["refinement"] for row in whole],
        [row[measure] for row in whole], "after a refinement",
    )  # fmt: skip
    supervised = [row for row in whole if is_supervised(content, row)]
    axes.plot(
        [row["refinement"] for row in supervised], [row[measure] for row in supervised],
        "o", markersize=8, color=INK, fillstyle="none", label="trained: the loss is made of it",
    )  # fmt: skip
    later = [row[measure] for row in whole if row["refinement"] > 0]
    _scale_depth(axes, [whole[0][measure]], later)
    floor = content["entropy_floor_perplexity"]
    if floor is not None and axes.get_ylim()[0] <= floor <= axes.get_ylim()[1]:
        axes.axhline(floor, color=INK, linewidth=0.9, linestyle=":", label="entropy floor")
    _mark_training(axes, content)
    add_legend(axes)
    return figure


def _scale_depth(axes: Axes, first: list[float], later: list[float]) -> None:
    """Show the differences between refinements; the start of a chunk may lie off the axis."""
    scale_perplexity(axes, later)
    fit_to_later(axes, first, later)


def _early_exit(content: Content) -> Figure:
    """Score against mean depth: chunks that stop one by one, and all at the same depth."""
    label, measure = measure_label(content), content["measure"]
    figure, axes = new_axes("Early exit", "refinements per token", label)
    trained = content["recursion"]["scoring_depth"]
    fixed = [row for row in whole_refinements(content) if 1 <= row["refinement"] <= trained]
    stopping = sorted(content["early_exit"], key=lambda row: row["mean_depth"])
    add_line(axes, _style(content), [row["mean_depth"] for row in stopping],
             [row[measure] for row in stopping], "chunks that stop early")  # fmt: skip
    add_line(axes, Style(FAINT, "X", "--"), [row["refinement"] for row in fixed],
             [row[measure] for row in fixed], "all to the same depth")  # fmt: skip
    scale_perplexity(axes, [row[measure] for row in [*stopping, *fixed]])
    add_legend(axes)
    return figure


def _curves(content: Content, title: str, unit: str, series: dict[str, str]) -> Figure:
    figure, axes = new_axes(title, "refinements", unit)
    rows = whole_refinements(content)
    factor = 100 if unit.startswith("%") else 1
    for style, (key, label) in zip((_style(content), *QUANTITIES), series.items(), strict=False):
        values = [None if row[key] is None else factor * row[key] for row in rows]
        add_line(axes, style, [row["refinement"] for row in rows], values, label)
    _mark_training(axes, content)
    add_legend(axes)
    return figure


def _groups_by_depth(content: Content, name: str, groups: Rows) -> Figure:
    figure, axes = new_axes(f"By {name}", "refinements", measure_label(content))
    lines = [group[content["measure"]] for group in groups]
    styles = ordered_styles(_style(content).color, len(groups))
    for style, group, values in zip(styles, groups, lines, strict=True):
        add_line(axes, style, range(len(values)), values, group["name"])
    first, later = [v[0] for v in lines if v], [x for v in lines for x in v[1:]]
    _scale_depth(axes, first, later or first)
    _mark_training(axes, content)
    add_legend(axes)
    return figure


def _groups(content: Content, name: str, groups: Rows) -> Figure:
    figure, axes = new_axes(f"By {name}", measure_label(content), "")
    values = [group[content["measure"]][0] for group in groups]
    names = [f"{group['name']} ({short_number(group['tokens'])})" for group in groups]
    axes.barh(names, values, color=_style(content).color, height=0.6)
    axes.bar_label(axes.containers[0], fmt="{:,.4g}", padding=3, color=INK)  # type: ignore[arg-type]
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.margins(x=0.15)
    return figure


def _mark_training(axes: Axes, content: Content) -> None:
    """Shade what is deeper than the model was trained with; mark supervision steps."""
    recursion, deepest = content["recursion"], content["steps"][-1]["refinement"]
    trained = recursion["scoring_depth"]
    for step in range(1, recursion["n_supervision"]):
        axes.axvline(step * recursion["n_refinements"], color=FAINT, linewidth=0.7, linestyle="--")
    if deepest > trained:
        axes.axvspan(
            trained, deepest, color=FAINT, alpha=0.12, linewidth=0, label="deeper than trained"
        )
    whole_numbers(axes)
