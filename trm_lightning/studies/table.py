"""The tables of a comparison: built once, shown on the terminal, in Markdown and in HTML."""

from collections.abc import Sequence
from typing import Any

from trm_lightning.evaluation.puzzles import is_share
from trm_lightning.evaluation.rounding import NONE, number
from trm_lightning.studies.cells import (
    Table,
    code_span,
    escaped,
    markdown_table,
    mean_cell,
    percent_cell,
    without_empty_columns,
)
from trm_lightning.studies.study_table import study_parts, study_table
from trm_lightning.studies.verdict import verdict

NOT_A_LIKELIHOOD = "not a likelihood"
Entry = dict[str, Any]


def render(comparison: dict[str, Any]) -> str:
    """Return a comparison as Markdown that also reads well on a terminal."""
    entries, study = comparison["entries"], comparison.get("study")
    n_seeds = max((len(entry["runs"]) for entry in entries), default=0)
    intro = (
        f"{escaped(comparison['data'] or 'No run has ended yet')}; {n_seeds} seed(s) per entry; "
        f"baseline: {escaped(comparison['baseline'])}. "
        "Means over seeds ± half of the 95 % t interval; differences are paired by seed."
    )
    title = f"# Comparison {escaped(comparison['name'])}"
    parts = [title, intro, _list([escaped(sentence) for sentence in verdict(comparison)])]
    for name, table in comparison_tables(comparison).items():
        own = [f"## {table.title}", markdown_table(table)]
        parts += study_parts(study) if name == "study" and study else own
    parts += ["## Notes", _list(_all_notes(comparison))]
    return "\n\n".join(part for part in parts if part) + "\n"


def comparison_tables(comparison: dict[str, Any]) -> dict[str, Table]:
    """Return a comparison's tables by name, in the order to show them.

    Returns:
        ``scores``, ``test`` (where the data have a test split), ``study`` (where one was asked
        for), ``cost`` and ``seeds``.
    """
    entries, study = comparison["entries"], comparison.get("study")
    tables = {
        "scores": _score_table(entries),
        "test": _test_table(entries),
        "study": study_table(study) if study else None,
        "cost": _cost_table(entries),
        "seeds": _seed_table(entries),
    }
    return {name: without_empty_columns(t) for name, t in tables.items() if t and t.rows}


def _score_table(entries: Sequence[Entry]) -> Table:
    header = [
        "Entry", "Best", "Final", "Best − baseline", "Final − baseline", "Perplexity better by",
        "Loss better by", "Gap to the floor closed", "Final over best", "Bits per character",
        "Published (best)",
    ]  # fmt: skip
    rows = []
    for entry in entries:
        figures = entry["figures"]
        kind = "best" if figures.get("best_difference") else "final"
        own = not entry["is_baseline"]
        rows.append(
            [
                entry["name"],
                _score(entry, figures["best"]),
                _score(entry, figures["final"]),
                *(mean_cell(figures.get(f"{k}_difference") if own else None, signed=True)
                  for k in ("best", "final")),
                *(percent_cell(figures.get(f"{kind}_{of}_improvement_percent") if own else None)
                  for of in ("perplexity", "loss")),
                percent_cell(figures.get("floor_gap_closed_percent") if own else None),
                percent_cell(figures["degradation_percent"]),
                _score(entry, figures["bits_per_character"]),
                _score(entry, entry["published"]),
            ]
        )  # fmt: skip
    share = any(is_share(entry["metric"]) for entry in entries)
    title = "Solved validation puzzles, %" if share else "Perplexity on validation text"
    return Table(title, header, rows)


def _test_table(entries: Sequence[Entry]) -> Table:
    header = ["Entry", "Test", "Test − baseline", "Perplexity better by", "Loss better by"]
    rows = []
    for entry in entries:
        figures = entry["figures"]
        if figures.get("test") is None:
            continue
        own = {} if entry["is_baseline"] else figures
        rows.append(
            [
                entry["name"],
                _score(entry, figures["test"]),
                mean_cell(own.get("test_difference"), signed=True),
                percent_cell(own.get("test_perplexity_improvement_percent")),
                percent_cell(own.get("test_loss_improvement_percent")),
            ]
        )
    title = "Perplexity on test text, by the best weights on validation text"
    if any(is_share(entry["metric"]) for entry in entries):
        title = "Solved test puzzles, %, by the best weights on validation puzzles"
    return Table(title, header, rows)


def _cost_table(entries: Sequence[Entry]) -> Table:
    header = [
        "Entry", "Parameters", "Training FLOPs per token", "Tokens", "Seconds", "Tokens/s",
        "Time per token (baseline 1)", "Tokens to baseline's best", "Seconds to baseline's best",
    ]  # fmt: skip
    rows = []
    for entry in entries:
        figures = entry["figures"]
        rows.append(
            [
                entry["name"],
                NONE if entry["parameters"] is None else f"{entry['parameters']:,}",
                NONE if entry["flops_per_token"] is None else f"{entry['flops_per_token']:,.0f}",
                mean_cell(figures["tokens"]),
                mean_cell(figures["seconds"]),
                mean_cell(figures["tokens_per_second"]),
                mean_cell(figures["time_ratio"]),
                _reached(entry, "tokens_to_baseline"),
                _reached(entry, "seconds_to_baseline"),
            ]
        )
    note = (
        "FLOPs are counted over the matrix products of forward and backward passes, per token of "
        "the training windows; seconds are of training alone, validation not counted."
    )
    return Table("Cost", header, rows, note)


def _seed_table(entries: Sequence[Entry]) -> Table:
    seeds = sorted({run["seed"] for entry in entries for run in entry["runs"]}, key=str)
    rows = []
    for entry in entries:
        cells = {}
        for run in entry["runs"]:
            cells[run["seed"]] = run["status"]
            if run["status"] == "completed":
                values = f"{number(run['best'])} / {number(run['final'])}"
                cells[run["seed"]] = values + _qualifier(entry)
        rows.append([entry["name"], *(cells.get(seed, NONE) for seed in seeds)])
    header = ["Entry", *(f"Seed {seed}" for seed in seeds)]
    return Table("Seeds side by side (best / final)", header, rows)


def _list(points: Sequence[str]) -> str:
    return "\n".join(f"- {point}" for point in points)


def _all_notes(comparison: dict[str, Any]) -> list[str]:
    """Return the notes as Markdown."""
    tables = comparison_tables(comparison).values()
    notes = [
        *comparison["notes"],
        *(f"{e['name']}: {e['note']}." for e in comparison["entries"] if e["note"]),
        *(table.note for table in tables if table.note),
    ]
    return [
        *map(escaped, notes),
        code_span(" ".join(comparison["command"])),
    ]


def _score(entry: Entry, value: Any) -> str:
    """A score, never without the words that say what it is if it is no perplexity of the text."""
    text = mean_cell(value) if isinstance(value, dict) else number(value)
    return text if text == NONE else text + _qualifier(entry)


def _qualifier(entry: Entry) -> str:
    if entry["is_likelihood"] is False:
        return f" ({NOT_A_LIKELIHOOD})"
    split = (entry["metric"] or "val/").partition("/")[0]
    return "" if split == "val" else f" (of {split})"


def _reached(entry: Entry, name: str) -> str:
    if entry["is_baseline"] or not entry["comparable"]:
        return NONE
    n_runs = sum(run["status"] == "completed" for run in entry["runs"])
    n_reached = entry["figures"]["reached_baseline"]
    if not n_reached:
        return "not reached"
    text = mean_cell(entry["figures"][name])
    return text if n_reached == n_runs else f"{text} ({n_reached} of {n_runs} seeds)"
