"""The report of a training run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trm_lightning.cli.printed import shell_command
from trm_lightning.data import PuzzleDataModule
from trm_lightning.errors import UserError
from trm_lightning.evaluation.metrics import headline_of, is_puzzle_score, is_sound
from trm_lightning.evaluation.rounding import fixed, number, percent
from trm_lightning.reports.analysis import HEAT_MAP_CAPTION, SHAPE, analysis_sections
from trm_lightning.reports.board_figure import board_figure
from trm_lightning.reports.colors import model_style
from trm_lightning.reports.curves import AXES, run_curve
from trm_lightning.reports.document import Number, Picture, Report, Section, Table
from trm_lightning.reports.folders import read_history, read_stored
from trm_lightning.reports.puzzle_sections import BOARD_CAPTION, depth_sections, puzzle_scores
from trm_lightning.reports.refinement_figure import refinement_figure
from trm_lightning.reports.sample_text import sample_section
from trm_lightning.reports.sections import LEAKS, audit_section, repeat_section, training_command
from trm_lightning.reports.titles import run_title
from trm_lightning.runs.load import load_run, open_data
from trm_lightning.runs.results_file import read_results

N_HEAT_MAP_TOKENS = 8
SPLITS = {"val": "Validation", "test": "Test", "train": "Training"}


def run_report(folder: Path, trust: str | Sequence[str] = ()) -> Report:
    """Return the report of a finished run.

    Args:
        folder: of the run.
        trust: see :func:`load_run`.

    Raises:
        UserError: when its results cannot be read.
    """
    results = read_results(folder)
    command = training_command(folder, results["environment"])
    puzzles = _is_puzzle(results)
    scores = puzzle_scores(results) if puzzles else _scores(results)
    sections = [scores, _curves(folder, results), *sample_section(folder, puzzles)]
    analysed = folder / "analysis" / "puzzles.json"
    if puzzles and analysed.is_file():
        sections += depth_sections(analysed.parent, analysed)
    elif (folder / "analysis" / "analysis.json").is_file():
        content = read_stored(folder / "analysis" / "analysis.json", SHAPE)
        sections += analysis_sections(folder / "analysis", content)
    else:
        sections += _heat_map(folder, trust)
    sections += [
        audit_section(folder, results.get("audit"), "audit" in results),
        repeat_section(command, results["environment"], results["config"]),
    ]
    return Report(
        title=run_title(results["config"]),
        subtitle=f"{results['parameters']:,} parameters, {results['optimizer_steps']:,} optimizer "
        f"steps, {results['tokens_seen']:,} tokens, {results['seconds']:,.0f} s of training",
        folder=str(folder),
        numbers=_numbers(results),
        sections=sections,
        warning=warning(results),
    )


def warning(results: dict[str, Any]) -> str:
    """Return what must stand above a run's numbers; empty where they are likelihoods."""
    if (results.get("audit") or {}).get("leaks"):
        return LEAKS
    first = next(iter(results["final"].values()))
    return "" if is_sound(first) else str(first["meaning"])


def score_label(name: str, score: dict[str, Any]) -> str:
    """Return what a score such as ``val/ppl`` is called in a report."""
    split, _, kind = name.partition("/")
    of = SPLITS.get(split, split)
    if is_puzzle_score(score):
        return f"{of} puzzles {kind}"
    if kind == "ppl":
        return f"{of} perplexity"
    if score["is_likelihood"]:
        return f"{of} perplexity without the answer"
    return f"{of}, not a likelihood"


def told(score: dict[str, Any]) -> str:
    """Return the number that a score is told by: a perplexity, or a share in percent."""
    headline = headline_of(score)
    return percent(headline) if is_puzzle_score(score) else number(headline)


def _is_puzzle(results: dict[str, Any]) -> bool:
    return is_puzzle_score(next(iter(results["final"].values())))


def _numbers(results: dict[str, Any]) -> list[Number]:
    numbers = []
    for part in ("final", "test"):
        for name, score in results[part].items():
            best = results["best"].get(name) if part == "final" else None
            note = "" if best is None else f"best {told(best)} at step {best['step']:,}"
            numbers.append(Number(score_label(name, score), told(score), note or "best weights"))
    first = next(iter(results["final"].values()))
    if is_puzzle_score(first):
        numbers.append(Number("Cells right", percent(first["cells_right"]), "final"))
    elif first["is_likelihood"]:
        numbers.append(Number("Bits per character", fixed(first["bits_per_character"]), "final"))
    if results["entropy_floor_perplexity"] is not None:
        floor = number(results["entropy_floor_perplexity"])
        numbers.append(Number("Entropy floor", floor, "perplexity of the text itself"))
    speed = results["tokens_seen"] / max(results["seconds"], 1e-9)
    return [*numbers, Number("Speed", f"{speed:,.0f}", "tokens per second")]


def _scores(results: dict[str, Any]) -> Section:
    rows = []
    for part, weights in (("final", "last"), ("test", "best")):
        for name, score in results[part].items():
            rows.append([
                score_label(name, score), weights, number(score["perplexity"], digits=5),
                fixed(score["nats_per_token"], 4), fixed(score["bits_per_character"]),
                f"{score['tokens']:,}", f"{score['words']:,}", f"{score['characters']:,}",
                percent(score["unknown_share"]),
            ])  # fmt: skip
    header = ["Score", "Weights", "Value", "Nats per token", "Bits per character",
              "Tokens", "Words", "Characters", "Unknown"]  # fmt: skip
    note = (
        f"Every token scored once, in windows of {results['eval_window']} tokens with stride "
        f"{results['eval_stride']}; vocabulary {results['vocab_size']:,}, data "
        f"{results['data_fingerprint']}."
    )
    return Section("Scores", tables=[Table("", header, rows, note, n_text=2)])


def _curves(folder: Path, results: dict[str, Any]) -> Section:
    """Draw the score that the run is trained for; others are made at its end only."""
    history = read_history(folder)
    name, score = next(iter(results["final"].items()))
    if not history:
        return Section("Learning curves", "The run folder has no metrics.jsonl to draw them from.")
    if is_puzzle_score(score):
        label, floor = "puzzles solved, %", None
    else:
        label = "perplexity" if score["is_likelihood"] else "not a likelihood"
        floor = results["entropy_floor_perplexity"] if score["is_likelihood"] else None
    style = model_style(results["family"])
    caption = f"{label.capitalize()} against {{}}"
    if not is_puzzle_score(score):
        caption += "; training is measured with dropout, on the text it is trained on, in the "
        caption += "first supervision step"
    caption += "."
    return Section(
        "Learning curves",
        pictures=[
            Picture(
                f"learning_{x}",
                caption.format(AXES[x]),
                run_curve(history, name, x, label, style, floor),
            )
            for x in AXES
        ],
    )


def _heat_map(folder: Path, trust: str | Sequence[str]) -> list[Section]:
    """Draw the refinement of the validation split's first window; no section without one."""
    title = "A window of text"
    try:
        run = load_run(folder, trust=trust)
        data = open_data(run)
    except UserError as error:  # a report can be made where checkpoint or text are gone
        return [Section(title, f"There is no picture of it: {error.what}")]
    if not run.model.scoring_depth:
        return []
    if isinstance(data, PuzzleDataModule):
        figure, caption, title = board_figure(run.model, data, "val"), BOARD_CAPTION, "A puzzle"
        more = "More of this: " + shell_command("analyze", f"run={folder}")
        return [Section(title, more, [Picture("refinement", caption, figure, wide=True)])]
    window = np.asarray(data.splits["val"].tokens[: run.model.window_size], dtype=np.int64)
    tokens = torch.from_numpy(window)
    figure = refinement_figure(run.model, run.tokenizer, tokens, N_HEAT_MAP_TOKENS)
    more = "More of this: " + shell_command("analyze", f"run={folder}")
    return [Section(title, more, [Picture("refinement", HEAT_MAP_CAPTION, figure, wide=True)])]
