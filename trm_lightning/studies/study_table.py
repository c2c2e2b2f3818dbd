"""A study's part of a comparison: its text and its table."""

from collections.abc import Callable
from typing import Any

from trm_lightning.evaluation.rounding import NONE, fixed
from trm_lightning.studies.cells import Table, escaped, markdown_table, mean_cell

Values = dict[str, Any]


def study_parts(study: Values) -> list[str]:
    """Return heading, explanation and table of a study as Markdown."""
    table = study_table(study)
    return [f"## {table.title}", escaped(study_text(study)), markdown_table(table)]


def study_table(study: Values) -> Table:
    """Return the table of a study, titled."""
    return TABLES[study["kind"]](study)


def study_text(study: Values) -> str:
    """Return how a study's numbers came about and are to be read."""
    if study["kind"] in _TEXTS:
        return _TEXTS[study["kind"]]
    base = study["baseline_series"]
    if study["kind"] == "frontier":
        return (
            f"An entry's equal is the {base} with its perplexity, read off between the {base}s "
            "that were trained (straight lines where both axes are logarithmic, through the best "
            "at or below each cost; never beyond the ends). Each seed has its own curve; ratios "
            "are geometric means over seeds with their 95 % t interval."
        )
    return (
        "A block run r times is worth r^φ distinct blocks: φ is 0 where loops bring nothing, 1 "
        "where each is as good as a block of its own. Least squares over all runs of a series and "
        f"of {base}: nats per token = E + A (n r^φ)^−α, with n distinct blocks. The interval is "
        "Student's, with the spread of 1,000 resamplings of the seeds."
    )


def ratio_cell(ratio: Values | None) -> str:
    """Return a ratio with its interval, or the bound that it is."""
    if ratio is None:
        return NONE
    text = f"{ratio['ratio']:.2f}"
    if ratio["relation"] != "equal":
        return f"{ratio['relation']} {text}"
    return text + interval_cell(ratio)


def exponent_cell(value: float) -> str:
    """Return an exponent; one that is nearly 0 has no sign."""
    return f"{round(value, 2) + 0.0:.2f}"


def interval_cell(values: Values) -> str:
    """Return an interval in brackets, or nothing where there is none."""
    if values["low"] is None:
        return ""
    return f" ({exponent_cell(values['low'])} to {exponent_cell(values['high'])})"


def _frontier_table(study: Values) -> Table:
    base = study["baseline_series"]
    head = [
        "Entry", "Series", "Parameters", "Training FLOPs", "Seconds", "Perplexity",
        f"Parameters of its equal {base}, as a multiple", f"FLOPs over its equal {base}'s",
        f"Seconds over its equal {base}'s",
    ]  # fmt: skip
    rows = []
    for point in study["points"]:
        ratios = point["ratios"] or {}
        rows.append(
            [
                point["name"],
                point["series"],
                f"{point['parameters']['mean']:,.0f}",
                f"{point['flops']['mean']:.3g}",
                mean_cell(point["seconds"]),
                mean_cell(point["perplexity"]),
                *(ratio_cell(ratios.get(cost)) for cost in ("parameters", "flops", "seconds")),
            ]
        )
    return Table("Parameter efficiency", head, rows)


def _recurrence_table(study: Values) -> Table:
    head = ["Series", "φ", "95 % interval", "α", "E (nats)", "Residual (nats)", "Runs"]
    rows = [
        [
            found["series"],
            "not identified" if found["phi"] is None else exponent_cell(found["phi"]),
            interval_cell(found).strip(" ()") or NONE,
            fixed(found["alpha"], 2),
            fixed(found["floor"], 3),
            fixed(found["residual"], 4),
            f"{found['n_runs']}",
        ]
        for found in study["exponents"]
    ]
    return Table("Recurrence exponent", head, rows)


_TEXTS = {
    "trend": (
        "One line per entry. The change per doubling is the slope of a straight line through a "
        "seed's points, over the logarithm of the axis; its interval is of seeds."
    ),
    "gain": (
        "How much better each entry is than its own baseline, of the same text and vocabulary. The "
        "change per doubling is the slope of a straight line over the logarithm of the axis."
    ),
    "memory": (
        "Nats per token of the text trained on and of held-out text: one straight line against two "
        "that meet at the best place. p is the chance that one line gives as good a pair; "
        "intervals are of 1,000 fits to residuals drawn anew."
    ),
    "exits": (
        "Held-out text scored with the same weights at every fixed depth, and with states that "
        "stop early: where a refinement hardly changes their answer, or where a learned head "
        "expects it to be right."
    ),
    "solved": (
        "Test puzzles, scored with the same weights at every depth up to twice that of training. "
        "The chosen depth is the one that solves most validation puzzles, run by run; so is the "
        "threshold of halting, where a refinement hardly changes the answers or a learned head "
        "expects them to be right."
    ),
    "readout": (
        "A fresh linear head, trained on the frozen states of nine tenths of the sampled training "
        "text and scored on the last tenth and on held-out text; the model's own head beside it. "
        "The model has been trained on that last tenth, so its score is no validation. "
        "Nats per token."
    ),
    "depth_probe": (
        "A fresh linear layer for each state after each pass, trained on frozen states of training "
        "text. Nats per token (share guessed right) on held-out text."
    ),
}


def _trend_table(study: Values) -> Table:
    value = "Better than its baseline by (%)" if study["relative"] else "Perplexity, best"
    head = ["Entry", "Series", study["axis"], value, "Seconds"]
    rows = [
        [
            point["name"],
            point["series"],
            f"{point['at']:g}",
            mean_cell(point["value"], signed=study["relative"]),
            mean_cell(point["seconds"]),
        ]
        for point in study["points"]
    ]
    return Table(f"Trend over {study['axis']}", head, rows, n_text=2)


def _break_table(study: Values) -> Table:
    head = ["Series", f"Best break, {study['axis']}", "95 % interval", "p of one line", "Runs"]
    rows = [
        [
            found["series"],
            NONE if found["at"] is None else f"{found['at']:.2g}",
            NONE if found["at"] is None else f"{found['low']:.2g} to {found['high']:.2g}",
            fixed(found["p"], 3),
            f"{found['n']}",
        ]
        for found in study["breaks"]
    ]
    return Table("Break", head, rows)


def _readout_table(study: Values) -> Table:
    head = ["Entry", "Head", "A tenth of the training text", "Held-out text"]
    rows = [
        [entry["name"], title, *(mean_cell(entry[head][of]) for of in _PARTS)]
        for entry in study["entries"]
        for head, title in (("own_head", "its own"), ("fresh_head", "fresh"))
    ]
    return Table("Heads on frozen states", head, rows, n_text=2)


_PARTS = ("training_tenth", "held_out")


def _probe_table(study: Values) -> Table:
    targets = list(study["entries"][0]["readings"][0]["scores"]) if study["entries"] else []
    head = ["Entry", "State", "Refinement", "Update of z", "Pass", *targets]
    rows = [
        [
            entry["name"],
            reading["symbol"],
            *(str(reading[key]) for key in ("refinement", "recursion", "pass")),
            *(_probe_cell(reading["scores"][target]) for target in targets),
        ]
        for entry in study["entries"]
        for reading in entry["readings"]
    ]
    return Table("What a linear probe reads", head, rows, n_text=2)


def _exit_table(study: Values) -> Table:
    head = ["Entry", "Depth", "Refinements per token", "Nats per token"]
    rows = [
        [entry["name"], kind, mean_cell(point["depth"]), mean_cell(point["nats"])]
        for entry in study["entries"]
        for kind, points in (("fixed", entry["fixed"]), (entry["rule"], entry["early"]))
        for point in points
    ]
    return Table("Depth and nats", head, rows, n_text=2)


def _solved_table(study: Values) -> Table:
    head = ["Entry", "As trained (%)", "Refinements", "At the chosen depth (%)", "Refinements",
            "Halting (%)", "Refinements"]  # fmt: skip
    nothing = {"percent": None, "depth": None}
    rows = [
        [
            entry["name"],
            *(
                mean_cell(entry.get(at, nothing)[value])
                for at in ("trained", "chosen", "halting")
                for value in ("percent", "depth")
            ),
        ]
        for entry in study["entries"]
    ]
    return Table("Test puzzles solved", head, rows)


def _probe_cell(score: Values) -> str:
    return f"{mean_cell(score['nats'])} ({100 * score['accuracy']['mean']:.1f} %)"


TABLES: dict[str, Callable[[Values], Table]] = {
    "frontier": _frontier_table,
    "recurrence": _recurrence_table,
    "trend": _trend_table,
    "gain": _trend_table,
    "exits": _exit_table,
    "solved": _solved_table,
    "memory": _break_table,
    "readout": _readout_table,
    "depth_probe": _probe_table,
}
