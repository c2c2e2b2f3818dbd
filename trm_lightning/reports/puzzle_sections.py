"""The parts of a report that are about puzzles: scores, boards, solved after each depth."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from trm_lightning.evaluation.rounding import NONE, fixed, percent
from trm_lightning.reports.colors import FAINT, QUANTITIES, model_style
from trm_lightning.reports.document import Picture, Section, Table
from trm_lightning.reports.folders import read_stored
from trm_lightning.reports.plots import add_legend, add_line, new_axes
from trm_lightning.runs.shapes import AMOUNT, COUNT, SIZE, TEXT, Shape

_ROW: dict[str, Shape] = {"solved": AMOUNT, "cells_right": AMOUNT, "nats_per_cell": AMOUNT}
_DEPTH: Shape = {"refinements": COUNT, "flops": AMOUNT, "seconds?": AMOUNT, **_ROW}
_HALTING: Shape = {"exit_threshold": AMOUNT, "mean_depth": AMOUNT, **_ROW}
SHAPE: Shape = {
    "data": TEXT, "split": TEXT, "puzzles": SIZE, "scored_with": COUNT, "depths": [_DEPTH],
    "halting": [_HALTING], "chosen": {"depths?": _DEPTH, "halting?": _HALTING},
}  # fmt: skip
BOARD_CAPTION = (
    "A puzzle, and the answer after each refinement: what the question gives in black, right cells "
    "blue, wrong ones red."
)
_DEPTH_TEXT = (
    "The same weights, refined less and more often than they were trained. Depth and threshold are "
    "chosen on the validation puzzles; no choice looks at the answer of the puzzle."
)


def depth_figure(content: dict[str, Any]) -> Figure:
    """Draw the share of solved puzzles and of right cells against the depth."""
    figure, axes = new_axes("Accuracy over depth", "refinements", "% of the puzzles")
    depths = [row["refinements"] for row in content["depths"]]
    for name, label, style in (
        ("solved", "solved", model_style("trm")),
        ("cells_right", "cells right", QUANTITIES[0]),
    ):
        add_line(axes, style, depths, [100 * row[name] for row in content["depths"]], label)
    if content["halting"]:
        points = [(row["mean_depth"], 100 * row["solved"]) for row in content["halting"]]
        style = QUANTITIES[1]
        axes.plot(
            *zip(*points, strict=True), style.marker, color=style.color, markersize=4,
            label="solved, with halting",
        )  # fmt: skip
    axes.axvline(content["scored_with"], color=FAINT, linewidth=0.9, linestyle=":", label="trained")
    add_legend(axes)
    return figure


def puzzle_scores(results: dict[str, Any]) -> Section:
    """Return the table of a run's scores on puzzles."""
    rows = []
    for part, weights in (("final", "last"), ("test", "best")):
        for name, score in results[part].items():
            rows.append([
                name, weights, percent(score["solved"]), percent(score["cells_right"]),
                fixed(score["nats_per_cell"], 4), f"{score['puzzles']:,}", f"{score['cells']:,}",
            ])  # fmt: skip
    header = ["Score", "Weights", "Solved", "Cells right", "Nats per cell", "Puzzles", "Cells"]
    note = (
        "A puzzle is solved where every cell is right. Every puzzle of a split is scored once; "
        f"data {results['data_fingerprint']}."
    )
    return Section("Scores", tables=[Table("", header, rows, note, n_text=2)])


def depth_sections(folder: Path, file: Path) -> list[Section]:
    """Return what ``trm-analyze`` found of a run on puzzles.

    Args:
        folder: of the analysis.
        file: its ``puzzles.json``.
    """
    content = read_stored(file, SHAPE)
    pictures = [
        Picture(name, caption, folder / name, wide=name == "board")
        for name, caption in (
            ("puzzle_depth", "Puzzles solved and cells right after each number of refinements."),
            ("board", BOARD_CAPTION),
        )
        if (folder / f"{name}.svg").is_file()
    ]
    rows = [
        [str(row["refinements"]), percent(row["solved"]), percent(row["cells_right"]),
         f"{row['flops']:,.0f}", fixed(1e3 * row["seconds"]) if "seconds" in row else NONE]
        for row in content["depths"]
    ]  # fmt: skip
    header = ["Refinements", "Solved", "Cells right", "FLOPs per puzzle", "ms per puzzle"]
    tables = [Table("By depth", header, rows, "Times are of puzzles answered in one batch.")]
    if content["halting"]:
        rows = [
            [f"{row['exit_threshold']:g}", fixed(row["mean_depth"]), percent(row["solved"])]
            for row in content["halting"]
        ]
        tables.append(Table("Halting", ["Threshold", "Mean refinements", "Solved"], rows))
    chosen = [
        [{"depths": "fixed depth", "halting": "halting"}[name], percent(row["solved"]),
         fixed(row.get("refinements", row.get("mean_depth")), 2)]
        for name, row in content["chosen"].items()
    ]  # fmt: skip
    tables.append(Table("Chosen on validation", ["", "Solved", "Refinements"], chosen, n_text=1))
    title = f"Accuracy over depth, {content['split']}, {content['puzzles']:,} puzzles"
    return [Section(title, _DEPTH_TEXT, pictures, tables)]
