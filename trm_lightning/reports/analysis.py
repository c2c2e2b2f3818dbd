"""The report of an analysis, also part of the report of an analysed run."""

from pathlib import Path
from typing import Any

from trm_lightning.cli.printed import shell_command
from trm_lightning.evaluation.metrics import MEANINGS
from trm_lightning.evaluation.rounding import fixed, number, percent
from trm_lightning.reports.analysis_figures import (
    analysis_figures,
    measure_label,
    whole_refinements,
)
from trm_lightning.reports.document import Number, Picture, Report, Section, Table
from trm_lightning.reports.folders import read_stored
from trm_lightning.reports.sections import repeat_section
from trm_lightning.reports.titles import MODELS
from trm_lightning.runs.results_file import ENVIRONMENT
from trm_lightning.runs.shapes import AMOUNT, COUNT, FLAG, PERPLEXITY, SIZE, TEXT, Maybe, Shape
from trm_lightning.studies.cells import without_empty_columns

_ROW: Shape = {"refinement": COUNT, "recursion": COUNT}
SHAPE: Shape = {
    "run": TEXT, "data": TEXT, "net": TEXT, "split": TEXT, "measure": TEXT, "meaning": TEXT,
    "parameters": COUNT, "optimizer_steps": COUNT, "tokens": SIZE, "split_tokens": SIZE,
    "window": SIZE, "stride": SIZE, "whole_split": FLAG, "is_likelihood": FLAG,
    "entropy_floor_perplexity": Maybe(PERPLEXITY), "steps": [_ROW],
    "groups": {"*": [{"name": TEXT, "tokens": COUNT}]}, "ablations": [{"name": TEXT}],
    "early_exit": [{"exit_threshold": AMOUNT, "mean_depth": AMOUNT}], "environment": ENVIRONMENT,
}  # fmt: skip
CAPTIONS = {
    "depth": "Score of all tokens after each refinement; the axis fits what follows the first. "
    "Small dots: the answer read off after fewer recursions than trained with. Rings: answers that "
    "the loss is made of.",
    "surprise": "How uncertain the prediction is, and how far a refinement moves it.",
    "changes": "Tokens whose most probable guess differs from the refinement before.",
    "drift": "1 means that a refinement leaves the direction of a state as it was.",
    "norms": "Mean Euclidean norm of the states of scored tokens.",
    "early_exit": "Chunks stop when a refinement changes their answer by less than a bound; beside "
    "it, every chunk refined equally often. Further left is less work for the same text.",
}
HEAT_MAP_CAPTION = (
    "Most probable token after each refinement, darker where it is more probable, framed where it "
    "is right. Below stands the actual text. Refinement 0 is what a chunk starts from."
)


def analysis_report(folder: Path) -> Report:
    """Return the report of the folder that the analyze command wrote.

    Raises:
        UserError: when its ``analysis.json`` cannot be read.
    """
    content = read_stored(folder / "analysis.json", SHAPE)
    overrides = [f"run={content['run']}", f"split={content['split']}"]
    if not content["whole_split"]:
        overrides.append(f"max_tokens={content['tokens']}")
    command = shell_command("analyze", *overrides)
    return Report(
        title=f"What refinement does: {MODELS.get(content['net'], content['net'])} on "
        f"{content['data']}",
        subtitle=f"{content['parameters']:,} parameters, {content['optimizer_steps']:,} optimizer "
        f"steps",
        folder=content["run"],
        numbers=_numbers(content),
        sections=[
            *analysis_sections(folder, content),
            repeat_section(command, content["environment"], None),
        ],
        warning="" if content["is_likelihood"] else content["meaning"],
    )


def analysis_sections(folder: Path, content: dict[str, Any]) -> list[Section]:
    """Return the parts of the report: depth with its figures, the heat map, groups, ablations."""
    pictures = [
        Picture(name, CAPTIONS.get(name, _group_caption(content)), figure)
        for name, figure in analysis_figures(content).items()
    ]
    by_depth = [picture for picture in pictures if picture.name in CAPTIONS]
    groups = [picture for picture in pictures if picture.name not in CAPTIONS]
    sections = []
    if "recursion" in content:
        sections.append(
            Section("Refinement by refinement", _scope(content), by_depth, [_steps(content)])
        )
        if (folder / "refinement.svg").is_file():
            heat_map = Picture("refinement", HEAT_MAP_CAPTION, folder / "refinement", wide=True)
            sections.append(Section("A window of text", pictures=[heat_map]))
    tables = [_group_table(content, name, rows) for name, rows in content["groups"].items()]
    text = "" if "recursion" in content else _scope(content)
    sections.append(Section("Where it helps", text, groups, tables))
    if content["early_exit"]:
        sections.append(
            Section("Where refinement can stop", _EARLY_EXIT, tables=[_early_exit(content)])
        )
    if content["ablations"]:
        sections.append(Section("Parts taken out", _ABLATIONS, tables=[_ablations(content)]))
    return sections


_ABLATIONS = (
    "The same weights scored with a part taken out. They were trained with it, so a loss says how "
    "much they rely on it, not how good a model without it could be: for that, compare retrained "
    "models."
)


_EARLY_EXIT = (
    "A chunk is refined until its answer changes by less than a bound, relative to its size. "
    "Nothing of this looks at the tokens to predict."
)


def _early_exit(content: dict[str, Any]) -> Table:
    measure = content["measure"]
    rows = [
        [f"{row['exit_threshold']:g}", fixed(row["mean_depth"]), number(row[measure], digits=5)]
        for row in content["early_exit"]
    ]
    header = ["Bound", "Refinements per token", measure_label(content).capitalize()]
    trained = content["recursion"].get("exit_threshold")
    note = "" if trained is None else f"The run was trained and is scored with {trained:g}."
    return Table("", header, rows, note)


def _numbers(content: dict[str, Any]) -> list[Number]:
    measure, label = content["measure"], measure_label(content).capitalize()
    rows = {row["refinement"]: row for row in whole_refinements(content)}
    trained = content.get("recursion", {}).get("scoring_depth", 0)
    # A model trained to stop early is measured at full depth here, so that depths compare.
    stops = content.get("recursion", {}).get("exit_threshold") is not None
    scored = "at full depth" if stops else "as scored"
    numbers = [Number(label, number(rows[trained][measure]), f"{scored}, {content['split']}")]
    if trained:
        numbers += [
            Number("Before refinement", number(rows[0][measure]), "what a chunk starts from"),
            Number("After the first", number(rows[1][measure]), "of "
                   f"{trained} refinement{'s' if trained > 1 else ''}"),
            Number("Twice as deep" if 2 * trained in rows else f"{max(rows)} refinements",
                   number(rows[max(rows)][measure]), "without training for it"),
        ]  # fmt: skip
    numbers.append(Number("Top guess right", percent(rows[trained]["right"]), scored))
    return numbers


def _scope(content: dict[str, Any]) -> str:
    part = f"all {content['tokens']:,} tokens"
    if not content["whole_split"]:
        part = f"only the first {content['tokens']:,} of {content['split_tokens']:,} tokens"
    return (
        f"Scored on {part} of the {content['split']} split, in windows of {content['window']} "
        f"with stride {content['stride']}, each token once, summed in float64: "
        f"{content['meaning'].rstrip('.')}."
    )


def _steps(content: dict[str, Any]) -> Table:
    measure, several = content["measure"], content["recursion"]["n_supervision"] > 1
    place = ["Step", "Refinement"] if several else ["Refinement"]
    columns = [*place, measure_label(content).capitalize(), "Entropy", "KL", "Right",
               "Changed", "Better", "Worse", "cos y", "cos z"]  # fmt: skip
    rows = []
    for row in whole_refinements(content):
        place = [f"{row['refinement']}{' *' if row['beyond_training'] else ''}"]
        if several:
            place.insert(0, str(row["supervision_step"]))
        values = [number(row[measure], digits=5), fixed(row["entropy"]), fixed(row["kl"])]
        shares = [percent(row[key]) for key in ("right", "changed", "better", "worse")]
        rows.append([*place, *values, *shares, fixed(row["y_cosine"]), fixed(row["z_cosine"])])
    note = (
        "Entropy and KL divergence in nats. KL, changed guesses and cosines compare with the "
        "refinement before; better: from a wrong to the right token, worse: the other way round. "
        "* deeper than trained. The best row is chosen by looking at this very split: an oracle, "
        "not a score."
    )
    note = f"Step: supervision step. {note}" if several else note
    return without_empty_columns(Table("", columns, rows, note))


def _group_caption(content: dict[str, Any]) -> str:
    return f"{measure_label(content).capitalize()} of the tokens of each group alone."


def _group_table(content: dict[str, Any], name: str, rows: list[dict[str, Any]]) -> Table:
    """One line for each group: before, after the first refinement, as trained, at the deepest."""
    measure = content["measure"]
    if "recursion" not in content:
        cells = [[row["name"], f"{row['tokens']:,}", number(row[measure][0])] for row in rows]
        return Table(f"By {name}", ["", "Tokens", measure_label(content).capitalize()], cells)
    trained = content["recursion"]["scoring_depth"]
    depths = sorted({0, 1, trained, len(rows[0][measure]) - 1})
    header = ["", "Tokens", *(f"{d} refinement{'' if d == 1 else 's'}" for d in depths)]
    cells = [
        [row["name"], f"{row['tokens']:,}", *(number(row[measure][d]) for d in depths)]
        for row in rows
    ]
    return Table(f"By {name}", header, cells, f"The full depth is {trained} refinements.")


def _ablations(content: dict[str, Any]) -> Table:
    trained = content["recursion"]["scoring_depth"]
    whole = next(r for r in whole_refinements(content) if r["refinement"] == trained)
    rows = [["nothing", "as trained, at full depth", _named(content["measure"]),
             number(whole[content["measure"]], digits=5), "–"]]  # fmt: skip
    rows += [
        [
            row["name"], row["meaning"], _named(row["measure"]), number(row["value"], digits=5),
            f"{row['nats_per_token'] - whole['nats_per_token']:+.4f}",
        ]
        for row in content["ablations"]
    ]  # fmt: skip
    header = ["Taken out", "What that means", "Number", "Value", "Δ nats per token"]
    return Table("", header, rows, n_text=3)


def _named(measure: str) -> str:
    likelihood = MEANINGS[measure].startswith("exact perplexity")
    return "perplexity" if likelihood else "not a likelihood"
