"""A comparison as Markdown that also reads well on a terminal."""

from typing import Any

from trm_lightning.studies.cells import (
    NONE,
    markdown_table,
    mean_cell,
    percent_cell,
    plain_cell,
)
from trm_lightning.studies.study_table import study_parts

NOT_A_LIKELIHOOD = "not a likelihood"


def render(comparison: dict[str, Any]) -> str:
    """Return title, notes and tables: scores, the study if any, cost, and seeds side by side."""
    entries = comparison["entries"]
    n_seeds = max((len(entry["runs"]) for entry in entries), default=0)
    intro = (
        f"{comparison['data'] or 'No run has ended yet'}; {n_seeds} seed(s) per entry; "
        f"baseline: {comparison['baseline']}. "
        "Means over seeds ± half of the 95 % t interval; differences are paired by seed."
    )
    parts = [
        f"# Comparison {comparison['name']}",
        intro,
        "## Perplexity on validation text",
        _score_table(entries),
        *_test_parts(entries),
        *study_parts(comparison.get("study")),
        "## Cost",
        _cost_table(entries),
        "## Seeds side by side (best / final)",
        _seed_table(entries),
        "## Notes",
        "\n".join(f"- {note}" for note in _all_notes(comparison)),
    ]
    return "\n\n".join(parts) + "\n"


def _score_table(entries: list[dict[str, Any]]) -> str:
    head = [
        "entry", "best", "final", "best − baseline", "final − baseline", "perplexity better by",
        "loss better by", "final over best", "bits per character", "published (best)",
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
                percent_cell(figures["degradation_percent"]),
                _score(entry, figures["bits_per_character"], digits=3),
                _score(entry, entry["published"]),
            ]
        )  # fmt: skip
    return markdown_table(head, rows)


def _test_parts(entries: list[dict[str, Any]]) -> list[str]:
    """Return heading and table of test scores; nothing where no data have a test split."""
    rows = []
    for entry in entries:
        figures, own = entry["figures"], not entry["is_baseline"]
        if figures.get("test") is not None:
            differences = [
                figures["test_difference"],
                figures["test_perplexity_improvement_percent"],
            ]
            difference, better = differences if own else (None, None)
            rows.append(
                [
                    entry["name"],
                    _score(entry, figures["test"]),
                    mean_cell(difference, signed=True),
                    percent_cell(better),
                ]
            )
    if not rows:
        return []
    head = ["entry", "test", "test − baseline", "perplexity better by"]
    return ["## Perplexity on test text, by the best weights on validation text",
            markdown_table(head, rows)]  # fmt: skip


def _cost_table(entries: list[dict[str, Any]]) -> str:
    head = [
        "entry", "parameters", "training FLOPs per token", "tokens", "seconds", "tokens/s",
        "time per token (baseline 1)", "tokens to baseline's best", "seconds to baseline's best",
    ]  # fmt: skip
    rows = []
    for entry in entries:
        figures = entry["figures"]
        rows.append(
            [
                entry["name"],
                NONE if entry["parameters"] is None else f"{entry['parameters']:,}",
                NONE if entry["flops_per_token"] is None else f"{entry['flops_per_token']:,.0f}",
                mean_cell(figures["tokens"], digits=0),
                mean_cell(figures["seconds"], digits=1),
                mean_cell(figures["tokens_per_second"], digits=0),
                mean_cell(figures["time_ratio"]),
                _reached(entry, "tokens_to_baseline", 0),
                _reached(entry, "seconds_to_baseline", 1),
            ]
        )
    return markdown_table(head, rows)


def _seed_table(entries: list[dict[str, Any]]) -> str:
    seeds = sorted({run["seed"] for entry in entries for run in entry["runs"]}, key=str)
    rows = []
    for entry in entries:
        cells = {}
        for run in entry["runs"]:
            cells[run["seed"]] = run["status"]
            if run["status"] == "completed":
                values = f"{plain_cell(run['best'])} / {plain_cell(run['final'])}"
                cells[run["seed"]] = values + _qualifier(entry)
        rows.append([entry["name"], *(cells.get(seed, NONE) for seed in seeds)])
    return markdown_table(["entry", *(f"seed {seed}" for seed in seeds)], rows)


def _all_notes(comparison: dict[str, Any]) -> list[str]:
    own = [f"{e['name']}: {e['note']}." for e in comparison["entries"] if e["note"]]
    return [
        *comparison["notes"],
        *own,
        "FLOPs are counted over the matrix products of forward and backward passes, per token of "
        "the training windows; seconds are of training alone, validation not counted.",
        f"`{' '.join(comparison['command'])}`",
    ]


def _score(entry: dict[str, Any], value: Any, digits: int = 2) -> str:
    """A score, never without the words that say what it is if it is no perplexity of the text."""
    text = mean_cell(value, digits) if isinstance(value, dict) else plain_cell(value, digits)
    return text if text == NONE else text + _qualifier(entry)


def _qualifier(entry: dict[str, Any]) -> str:
    if entry["is_likelihood"] is False:
        return f" ({NOT_A_LIKELIHOOD})"
    split = (entry["metric"] or "val/").partition("/")[0]
    return "" if split == "val" else f" (of {split})"


def _reached(entry: dict[str, Any], name: str, digits: int) -> str:
    if entry["is_baseline"] or not entry["comparable"]:
        return NONE
    n_runs = sum(run["status"] == "completed" for run in entry["runs"])
    n_reached = entry["figures"]["reached_baseline"]
    if not n_reached:
        return "not reached"
    text = mean_cell(entry["figures"][name], digits)
    return text if n_reached == n_runs else f"{text} ({n_reached} of {n_runs} seeds)"
