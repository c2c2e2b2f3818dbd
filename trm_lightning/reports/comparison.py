"""The report of a comparison."""

import shlex
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from trm_lightning.evaluation.puzzles import is_share
from trm_lightning.evaluation.rounding import number
from trm_lightning.reports.colors import FAINT, INK, Style, family_of, series_styles
from trm_lightning.reports.curves import AXES, History, side_by_side
from trm_lightning.reports.document import Listing, Number, Picture, Report, Section, Table
from trm_lightning.reports.folders import read_history, read_stored
from trm_lightning.reports.plots import new_axes
from trm_lightning.reports.sections import environment_table, verdict_text
from trm_lightning.reports.studies import study_numbers, study_section
from trm_lightning.reports.study_figures import Styles
from trm_lightning.runs.results_file import ENVIRONMENT, FILE, read_results
from trm_lightning.runs.shapes import COUNT, FLAG, TEXT, Maybe, Shape
from trm_lightning.studies.notes import SMOKE
from trm_lightning.studies.table import comparison_tables
from trm_lightning.studies.verdict import verdict

_RUN: Shape = {"seed": Maybe(COUNT), "folder": TEXT, "status": TEXT}
_ENTRY: Shape = {
    "name": TEXT, "note": TEXT, "is_baseline": FLAG, "metric": Maybe(TEXT),
    "is_likelihood": Maybe(FLAG), "comparable": FLAG, "figures": {}, "runs": [_RUN],
}  # fmt: skip
SHAPE: Shape = {
    "name": TEXT, "status": TEXT, "data": Maybe(TEXT), "entries": [_ENTRY], "notes": [TEXT],
    "baseline": TEXT, "parity": Maybe(TEXT), "budget": Maybe(TEXT), "command": [TEXT],
    "environment": ENVIRONMENT,
}  # fmt: skip
Entry = dict[str, Any]
N_NUMBERS = 6
SHARE = "puzzles solved, %"


def comparison_report(folder: Path) -> Report:
    """Return the report of a comparison, finished or not.

    Raises:
        UserError: when its ``comparison.json`` cannot be read.
    """
    content = read_stored(folder / "comparison.json", SHAPE)
    tables = comparison_tables(content)
    styles = series_styles({e["name"]: _family(folder, e) for e in content["entries"]})
    study = content.get("study")
    sections = [
        *([study_section(study, _styles_of_series(folder, content))] if study else []),
        Section(
            "Scores", _SCORES, _interval_pictures(content, styles), _named(tables, "scores", "test")
        ),
        Section("Learning curves", _CURVES, _curves(folder, content, styles)),
        Section("Cost and seeds", tables=_named(tables, "cost", "seeds")),
        Section("Notes", points=_notes(content)),
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
        verdict=verdict(content),
        warning=_warning(content),
    )


def _named(tables: dict[str, Table], *names: str) -> list[Table]:
    return [tables[name] for name in names if name in tables]


def _family(folder: Path, entry: Entry) -> str:
    """Return the family of an entry's model: as its runs recorded it, else by its name."""
    for run in entry["runs"]:
        if (run_folder(folder, run) / FILE).is_file():
            return family_of(read_results(run_folder(folder, run))["family"])
    return family_of(entry["name"])


def _styles_of_series(folder: Path, content: dict[str, Any]) -> dict[str, Style]:
    """Return the styles of a study's series, each of the family of its first entry."""
    families: dict[str, str] = {}
    for entry in content["entries"]:
        if entry.get("series"):
            families.setdefault(entry["series"], _family(folder, entry))
    return series_styles(families)


_SCORES = (
    "Means over seeds ± half of the 95 % interval by Student's t. Differences are paired by seed: "
    "below 0 is better than the baseline."
)
_CURVES = "Thin: each seed. Thick: their mean, as far as all seeds have come."


def _warning(content: dict[str, Any]) -> str:
    told = []
    if content["status"] != "completed":
        told.append("UNFINISHED: some runs are missing.")
    if content["budget"] == "smoke":
        told.append(SMOKE)
    names = [entry["name"] for entry in content["entries"] if entry["is_likelihood"] is False]
    if names:
        told.append(f"NOT A LIKELIHOOD: {', '.join(names)}. No perplexity compares with that.")
    return " ".join(told)


def _label(entry: Entry) -> str:
    """Return what an entry's number is."""
    if entry["is_likelihood"] is False:
        return "not a likelihood"
    split = (entry["metric"] or "val/").partition("/")[0]
    if is_share(entry["metric"]):
        return SHARE if split == "val" else f"{SHARE} of {split}"
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
        shown = number(value["mean"], value["half_width"])
        numbers.append(Number(entry["name"], shown, f"{_label(entry)}, {kind}"))
    return numbers


def _interval_pictures(content: dict[str, Any], styles: Styles) -> list[Picture]:
    """Draw perplexities of one text, or puzzles solved; others have no place on their axis."""
    shown = [entry for entry in content["entries"] if _score(entry)]
    caption = "Mean over seeds with its 95 % interval; small dots are seeds."
    for label in ("perplexity", SHARE):
        of_kind = [entry for entry in shown if entry["metric"] and _label(entry) == label]
        if of_kind:
            return [Picture("intervals", caption, _intervals(of_kind, styles, label))]
    return []


def _intervals(entries: list[Entry], styles: Styles, label: str) -> Figure:
    figure, axes = new_axes(label.capitalize(), "best, else final", "")
    for i, entry in enumerate(entries):
        score = _score(entry)
        assert score is not None
        kind, value = score
        style = styles[entry["name"]]
        seeds = [run[kind] for run in entry["runs"] if run.get(kind) is not None]
        axes.plot(seeds, [i + 0.22] * len(seeds), ".", markersize=4, color=FAINT)
        axes.errorbar(
            value["mean"], i, xerr=value["half_width"], fmt=style.marker, markersize=5, capsize=3,
            color=style.color, linewidth=1.4,
        )  # fmt: skip
        axes.annotate(
            number(value["mean"], value["half_width"]), (value["mean"], i), (0, 6),
            textcoords="offset points", ha="center", color=INK, fontsize=8,
        )  # fmt: skip
    axes.set_yticks(range(len(entries)), [entry["name"] for entry in entries], color=INK)
    axes.set_ylim(len(entries) - 0.5, -0.6)
    axes.margins(x=0.12)  # room for the numbers at the ends
    axes.grid(False)
    return figure


def _curves(folder: Path, content: dict[str, Any], styles: Styles) -> list[Picture]:
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
            f"{label.capitalize()} on held-out data against {AXES[x]}.",
            side_by_side(curves, metrics, styles, x, label),
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
        seeds: dict[str, list[str]] = {}  # by what was found
        for run in entry["runs"]:
            of_run = run_folder(folder, run)
            found = read_results(of_run).get("audit") if (of_run / FILE).is_file() else None
            told = "Not audited." if found is None else verdict_text(found)
            seeds.setdefault(told, []).append(str(run["seed"]))
        rows += [[entry["name"], ", ".join(of), told] for told, of in seeds.items()]
    return Section("Leak audit", tables=[Table("", ["Entry", "Seeds", "Verdict"], rows, n_text=3)])
