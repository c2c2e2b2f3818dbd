"""What refinement does on puzzles: solved after each depth, and where halting stops."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from trm_lightning.data import PuzzleDataModule
from trm_lightning.evaluation.puzzles import PuzzleScore, PuzzleSum
from trm_lightning.files import make_folder, write_json
from trm_lightning.models import LanguageModel
from trm_lightning.reports.board_figure import board_figure
from trm_lightning.reports.plots import save_figure
from trm_lightning.reports.puzzle_sections import depth_figure
from trm_lightning.runs.environment import environment
from trm_lightning.runs.load import LoadedRun
from trm_lightning.training.flops import count_flops

FILE = "puzzles.json"
CHOSEN_ON = "val"  # the split that a depth or a threshold is chosen on
HALTING_PROBABILITIES = (0.5, 0.8, 0.9, 0.95, 0.99)  # tried where the model has a halting head
N_TIMED = 32  # puzzles that are answered together when the time is taken
Row = dict[str, Any]


def analyze_puzzles(
    run: LoadedRun,
    data: PuzzleDataModule,
    split: str,
    depth: int,
    thresholds: Sequence[float],
    folder: Path,
) -> Row:
    """Measure a run on the puzzles of a split; write ``puzzles.json`` and pictures.

    Args:
        run: its model refines to the full depth.
        data: of the run.
        split: what is reported; depth and threshold are chosen on the validation split.
        depth: most refinements that are tried; 0 for a model that refines nothing.
        thresholds: of early exit.
        folder: to write to.

    Returns:
        The content of ``puzzles.json``.
    """
    model = run.model
    if getattr(model, "halt", None) is not None:
        thresholds = sorted({*thresholds, *HALTING_PROBABILITIES})
    content = {
        "kind": "puzzles",
        "run": str(run.folder),
        "checkpoint": run.checkpoint.name,
        "optimizer_steps": run.optimizer_steps,
        "data": data.name,
        "split": split,
        "puzzles": len(data.puzzles(split)),
        "scored_with": model.scoring_depth,
        "depths": _timed(model, data, split, by_depth(model, data, split, depth)),
        "halting": by_threshold(model, data, split, thresholds if depth > 1 else ()),
        "environment": environment(),
    }
    content["chosen"] = _chosen(model, data, split, content)
    make_folder(folder)
    if depth:
        save_figure(depth_figure(content), folder / "puzzle_depth")
    if model.puzzle_size is not None:
        save_figure(board_figure(model, data, split), folder / "board")
    write_json(folder / FILE, content)
    print(_summary(content, folder))
    return content


@torch.no_grad()
def by_depth(model: LanguageModel, data: PuzzleDataModule, split: str, depth: int) -> list[Row]:
    """Score a split after each of 1 to ``depth`` refinements; as it is, where ``depth`` is 0."""
    depths = list(range(1, depth + 1)) or [0]
    sums = [PuzzleSum() for _ in depths]
    for tokens, first in _batches(model, data, split, "refining"):
        scores = model.log_probs_at(tokens, depths, first)
        for total, log_probs in zip(sums, scores, strict=True):
            total.update(log_probs, tokens, first)
    rows = []
    for at, total in zip(depths, sums, strict=True):
        score = total.score(data.splits[split].counts)
        rows.append({"refinements": at, "flops": _flops(model, data, at), **_row(score)})
    return rows


@torch.no_grad()
def by_threshold(
    model: LanguageModel, data: PuzzleDataModule, split: str, thresholds: Sequence[float]
) -> list[Row]:
    """Score a split with early exit at each of the thresholds."""
    if not model.can_exit_early or not thresholds:
        return []
    totals, depths = [PuzzleSum() for _ in thresholds], [0] * len(thresholds)
    for tokens, first in _batches(model, data, split, "halting"):
        each = torch.stack(model.log_probs_at(tokens, range(1, model.scoring_depth + 1), first))
        stops = model.exit_depths(tokens, thresholds, first)
        for i, stop in enumerate(stops):
            board = torch.arange(len(tokens), device=stop.device)
            totals[i].update(each[stop - 1, board], tokens, first)
            depths[i] += int(stop.sum())
    rows = []
    for threshold, total, depth in zip(thresholds, totals, depths, strict=True):
        score = total.score(data.splits[split].counts)
        rows.append(
            {"exit_threshold": threshold, "mean_depth": depth / score.puzzles, **_row(score)}
        )
    return rows


def _chosen(model: LanguageModel, data: PuzzleDataModule, split: str, content: Row) -> Row:
    """Choose depth and threshold on validation puzzles; return the rows of ``split`` for them."""
    chosen: Row = {}
    depths, halting = content["depths"], content["halting"]
    if split != CHOSEN_ON:
        depths = by_depth(model, data, CHOSEN_ON, depths[-1]["refinements"])
        thresholds = [row["exit_threshold"] for row in halting]
        halting = by_threshold(model, data, CHOSEN_ON, thresholds)
    for name, tried, work in (
        ("depths", depths, "refinements"),
        ("halting", halting, "mean_depth"),
    ):
        if tried:
            chosen[name] = content[name][best_row(tried, work)]
    return chosen


def best_row(rows: Sequence[Row], work: str) -> int:
    """Return which row solves most puzzles, and of those that solve as many the least ``work``."""
    return max(range(len(rows)), key=lambda i: (rows[i]["solved"], -rows[i][work]))


def _row(score: PuzzleScore) -> Row:
    numbers = score.as_dict()
    return {name: numbers[name] for name in ("solved", "cells_right", "nats_per_cell")}


def _flops(model: LanguageModel, data: PuzzleDataModule, depth: int) -> int:
    """Return the operations that answer one puzzle with so many refinements."""
    device = next(model.parameters()).device
    tokens = torch.zeros(1, data.window_size, dtype=torch.long, device=device)
    return count_flops(lambda: model.log_probs_at(tokens, [depth], data.puzzle_size))


@torch.no_grad()
def _timed(model: LanguageModel, data: PuzzleDataModule, split: str, rows: list[Row]) -> list[Row]:
    """Add to each row the seconds that a puzzle takes, in batches of ``N_TIMED``; best of two."""
    tokens, first = next(iter(_batches(model, data, split, "timing")))
    tokens = tokens[:N_TIMED]

    def run(depth: int) -> float:
        begin = time.perf_counter()
        model.log_probs_at(tokens, [depth], first)[0].sum().item()  # waits for a GPU
        return (time.perf_counter() - begin) / len(tokens)

    run(rows[0]["refinements"])
    return [
        {**row, "seconds": min(run(row["refinements"]), run(row["refinements"]))} for row in rows
    ]


def _batches(
    model: LanguageModel, data: PuzzleDataModule, split: str, what: str
) -> Iterable[tuple[Tensor, int]]:
    device = next(model.parameters()).device
    for tokens, first in tqdm(data.eval_windows(split), desc=what, unit="batch", leave=False):
        yield tokens.to(device), first


def _summary(content: Row, folder: Path) -> str:
    lines = [
        f"{content['split']}, {content['puzzles']:,} puzzles of {content['data']}",
        f"  {'refinements':>15s} {'solved':>9s} {'cells right':>12s} {'MFLOPs':>8s} {'ms':>8s}   "
        f"per puzzle, {N_TIMED} together",
    ]
    for row in content["depths"]:
        beyond = row["refinements"] > content["scored_with"]
        note = "   more than trained with" if beyond else ""
        share = f"{100 * row['solved']:7.2f} % {100 * row['cells_right']:10.2f} %"
        work = f"{row['flops'] / 1e6:8.1f} {1e3 * row['seconds']:8.2f}"
        lines.append(f"  {row['refinements']:15d} {share} {work}{note}")
    lines += [
        f"  exit at {row['exit_threshold']:<7g} {100 * row['solved']:8.2f} %   "
        f"{row['mean_depth']:.2f} refinements per puzzle"
        for row in content["halting"]
    ]
    for name, row in content["chosen"].items():
        what = "best fixed depth" if name == "depths" else "best halting"
        work = row.get("refinements", row.get("mean_depth"))
        lines.append(
            f"  {what}, chosen on {CHOSEN_ON}: {100 * row['solved']:.2f} % with {work:.4g} "
            "refinements"
        )
    return "\n".join([*lines, f"Written to {folder}"])
