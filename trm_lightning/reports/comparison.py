"""The report of a comparison."""

import re
import shlex
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from trm_lightning.reports.curves import AXES, History, side_by_side
from trm_lightning.reports.document import (
    Listing,
    Number,
    Picture,
    Report,
    Section,
    Table,
    number,
)
from trm_lightning.reports.folders import read_history, read_json
from trm_lightning.reports.plots import COLORS, INK, new_axes
from trm_lightning.reports.sections import environment_table, verdict_text
from trm_lightning.reports.studies import study_numbers, study_section
from trm_lightning.studies.table import render

KEYS = {"name", "status", "entries", "notes", "baseline", "parity", "scale", "command",
        "environment"}  # fmt: skip
Entry = dict[str, Any]
N_NUMBERS = 6


def comparison_report(folder: Path) -> Report:
    """Return the report of a comparison, finished or not.

    Raises:
        UserError: when its ``comparison.json`` cannot be read.
    """
    content = read_json(folder / "comparison.json", KEYS)
    tables = markdown_tables(render(content))
    study = content.get("study")  # comparisons of earlier versions lack it
    sections = [
        *([study_section(study, tables)] if study else []),
        Section("Scores", _SCORES, _interval_pictures(content), tables[:1]),
        Section("Learning curves", _CURVES, _curves(folder, content)),
        Section("Cost and seeds", tables=tables[-2:]),
        Section("To be known", points=_notes(content)),
        _audits(folder, content),
        Section(
            "To repeat it",
            tables=[environment_table(content["environment"])],
            listings=[Listing("Command", shlex.join(content["command"]))],
        ),
    ]
    n_seeds = max((len(entry["runs"]) for entry in content["entries"]), default=0)
    parity = f", equal {content['parity']}" if content["parity"] else ""
    return Report(
        title=f"Comparison {content['name']}",
        subtitle=f"{content['data'] or 'no data yet'}; {len(content['entries'])} entries, "
        f"{n_seeds} seed{'' if n_seeds == 1 else 's'} each{parity}; baseline {content['baseline']}",
        numbers=(study_numbers(study) if study else _numbers(content))[:N_NUMBERS],
        sections=[s for s in sections if s.points or s.tables or s.pictures],
        warning=_warning(content),
    )


_SCORES = (
    "Means over seeds ± half of the 95 % interval by Student's t. Differences are paired by seed: "
    "below 0 is better than the baseline."
)
_CURVES = "Thin: each seed. Thick: their mean, as far as all seeds have come."


def markdown_tables(text: str) -> list[Table]:
    """Return the tables of a comparison's Markdown, each with the heading above it."""
    tables: list[Table] = []
    for part in text.split("\n## ")[1:]:
        title, *lines = part.splitlines()
        rows = [
            [
                cell.strip().replace("\\|", "|")
                for cell in re.split(r"(?<!\\) \| ", line.strip("| "))
            ]
            for line in lines
            if line.startswith("|")
        ]
        if rows:
            tables.append(Table(title, rows[0], rows[2:]))
    return tables


def _warning(content: dict[str, Any]) -> str:
    told = []
    if content["status"] != "completed":
        told.append("UNFINISHED: some runs are missing.")
    if content["scale"] < 1:
        told.append(f"REDUCED BUDGET: {content['scale']:g} of the full one.")
    names = [entry["name"] for entry in content["entries"] if entry["is_likelihood"] is False]
    if names:
        told.append(f"NOT A LIKELIHOOD: {', '.join(names)}. No perplexity compares with that.")
    return " ".join(told)


def _label(entry: Entry) -> str:
    """Return what an entry's number is."""
    if entry["is_likelihood"] is False:
        return "not a likelihood"
    split = (entry["metric"] or "val/").partition("/")[0]
    return "perplexity" if split == "val" else f"perplexity of {split}"


def _score(entry: Entry) -> tuple[str, dict[str, Any]] | None:
    """Return an entry's best score, or its final one where no best is known."""
    for kind in ("best", "final"):
        if entry["figures"].get(kind):
            return kind, entry["figures"][kind]
    return None


def _numbers(content: dict[str, Any]) -> list[Number]:
    numbers = []
    for entry in content["entries"][:N_NUMBERS]:
        score = _score(entry)
        if score is None:
            numbers.append(Number(entry["name"], "–", "no run has ended"))
            continue
        kind, value = score
        half = "" if value["half_width"] is None else f" ± {number(value['half_width'], 2)}"
        numbers.append(
            Number(entry["name"], number(value["mean"]) + half, f"{_label(entry)}, {kind}")
        )
    return numbers


def _interval_pictures(content: dict[str, Any]) -> list[Picture]:
    """Draw perplexities of one text; other numbers have no place on their axis."""
    shown = [entry for entry in content["entries"] if entry["is_likelihood"] and _score(entry)]
    shown = [entry for entry in shown if _label(entry) == "perplexity"]
    if not shown:
        return []
    caption = "Mean over seeds with its 95 % interval; small dots are seeds."
    return [Picture("intervals", caption, _intervals(shown))]


def _intervals(entries: list[Entry]) -> Figure:
    figure, axes = new_axes("Perplexity", "best, else final", "")
    for i, entry in enumerate(entries):
        score = _score(entry)
        assert score is not None
        kind, value = score
        seeds = [run[kind] for run in entry["runs"] if run.get(kind) is not None]
        axes.plot(seeds, [i + 0.22] * len(seeds), ".", markersize=4, color=COLORS[5])
        axes.errorbar(
            value["mean"], i, xerr=value["half_width"], fmt="o", markersize=5, capsize=3,
            color=COLORS[0], linewidth=1.4,
        )  # fmt: skip
        axes.annotate(
            number(value["mean"]), (value["mean"], i), (0, 6), textcoords="offset points",
            ha="center", color=INK, fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(entries)), [entry["name"] for entry in entries], color=INK)
    axes.set_ylim(len(entries) - 0.5, -0.6)
    axes.margins(x=0.12)  # room for the numbers at the ends
    axes.grid(False)
    return figure


def _curves(folder: Path, content: dict[str, Any]) -> list[Picture]:
    """Draw the scores that were followed, one pair of figures for each kind of number."""
    by_label: dict[str, dict[str, list[History]]] = {}
    metrics = {}
    for entry in content["entries"]:
        histories = [read_history(run_folder(folder, run)) for run in entry["runs"]]
        followed: list[History] = [
            h for h in histories if sum(entry["metric"] in line for line in h) > 1
        ]
        if followed:
            by_label.setdefault(_label(entry), {})[entry["name"]] = followed
            metrics[entry["name"]] = entry["metric"]
    return [
        Picture(
            f"learning_{x}_{label.replace(' ', '_')}",
            f"{label.capitalize()} on held-out text against {AXES[x]}.",
            side_by_side(curves, metrics, x, label),
        )
        for label, curves in by_label.items()
        for x in AXES
    ]


def run_folder(folder: Path, run: dict[str, Any]) -> Path:
    """Return a run's folder, also where the comparison was moved with its runs."""
    moved = folder / "runs" / Path(run["folder"]).name
    return moved if moved.is_dir() else Path(run["folder"])


def _notes(content: dict[str, Any]) -> list[str]:
    own = [f"{entry['name']}: {entry['note']}." for entry in content["entries"] if entry["note"]]
    return [*content["notes"], *own]


def _audits(folder: Path, content: dict[str, Any]) -> Section:
    """Tell what the leak audits of all runs found, as their results keep it."""
    rows = []
    for entry in content["entries"]:
        for run in entry["runs"]:
            file = run_folder(folder, run) / "results.json"
            verdict = read_json(file, set()).get("audit") if file.is_file() else None
            told = "not audited" if verdict is None else verdict_text(verdict)
            rows.append([entry["name"], str(run["seed"]), told])
    return Section("Leak audit", tables=[Table("", ["Entry", "Seed", "Verdict"], rows, n_text=3)])
