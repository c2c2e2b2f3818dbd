"""An analysis from its composed config to ``analysis.json`` and figures."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from trm_lightning.analysis.early_exit import check_thresholds, score_early_exit
from trm_lightning.analysis.measure import (
    Measurement,
    check_same_as_scored,
    open_windows,
    token_labels,
)
from trm_lightning.analysis.puzzles import analyze_puzzles
from trm_lightning.data import EvalWindows, PuzzleDataModule, TextDataModule
from trm_lightning.errors import UserError
from trm_lightning.evaluation import score_windows
from trm_lightning.evaluation.metrics import MEANINGS, safe_exp
from trm_lightning.files import make_folder, write_json
from trm_lightning.models import LanguageModel
from trm_lightning.reports.analysis_figures import analysis_figures
from trm_lightning.reports.plots import save_figure
from trm_lightning.reports.refinement_figure import refinement_figure
from trm_lightning.runs.environment import environment
from trm_lightning.runs.load import LoadedRun, find_device, load_run, open_data

FOLDER = "analysis"
N_HEAT_MAP_TOKENS = 8
_RECURSION = (
    "n_supervision", "n_recursions", "scoring_depth", "supervised_depths", "chunk_size",
    "factorization",
)  # fmt: skip


def analyze(cfg: DictConfig) -> dict[str, Any]:
    """Measure ``cfg.run`` on ``cfg.split`` and write the folder ``analysis/`` of the run.

    Returns:
        The content of ``analysis.json``.

    Raises:
        UserError: for a missing run or split, other data, settings out of range.
    """
    check_thresholds(cfg.exit_thresholds)
    run = load_run(cfg.run, find_device(cfg.device), trust=cfg.trust)
    thresholds = set(cfg.exit_thresholds)
    if run.model.exit_threshold is not None:
        thresholds.add(run.model.exit_threshold)
        # Depth is looked at one by one: nothing may stop before.
        run = replace(run, model=run.model.with_exit_threshold(None))
    model = run.model
    depth = _depth(model, cfg.depth)
    data = open_data(run)
    if isinstance(data, PuzzleDataModule):
        folder = run.folder / FOLDER
        return analyze_puzzles(run, data, cfg.split, depth, sorted(thresholds), folder)
    windows = open_windows(data, cfg.split, cfg.max_tokens)
    check_same_as_scored(model, windows)
    measurement = Measurement(model, depth, token_labels(data, cfg.split, windows.tokens))
    measurement.run(_with_bar(windows, f"measuring {depth} refinements" if depth else "measuring"))
    content = {
        "kind": "analysis",
        **_described(run, data, cfg.split, windows),
        "steps": _steps(model, measurement),
        "groups": {
            name: group.rows(measure_of(model)) for name, group in measurement.groups.items()
        },
        "ablations": _score_ablations(model, windows) if cfg.ablations else [],
        "early_exit": (
            score_early_exit(model, sorted(thresholds), windows)
            if model.can_exit_early and model.scoring_depth > 1
            else []
        ),
        "environment": environment(),
    }
    folder = run.folder / FOLDER
    make_folder(folder)
    for name, figure in analysis_figures(content).items():
        save_figure(figure, folder / name)
    if model.scoring_depth:
        window = torch.from_numpy(np.asarray(windows.tokens[: model.window_size], np.int64))
        figure = refinement_figure(model, run.tokenizer, window, N_HEAT_MAP_TOKENS)
        save_figure(figure, folder / "refinement")
    write_json(folder / "analysis.json", content)
    print(_summary(content, folder))
    return content


def measure_of(model: LanguageModel) -> str:
    """Return what the number that a model is scored by is called, a key of MEANINGS."""
    return next(iter(model.scorers()))


def _depth(model: LanguageModel, depth: int | None) -> int:
    if not model.scoring_depth:
        return 0
    if depth is None:
        return 2 * model.scoring_depth
    if depth < model.scoring_depth:
        raise UserError(
            f"depth must be at least {model.scoring_depth}, the refinements that this model is "
            f"scored with (is {depth}).",
            "Leave it out for twice as many.",
        )
    return depth


def _with_bar(windows: EvalWindows, what: str) -> Iterable[tuple[torch.Tensor, int]]:
    return tqdm(windows, desc=what, unit="batch", leave=False)


def _described(
    run: LoadedRun, data: TextDataModule, split: str, windows: EvalWindows
) -> dict[str, Any]:
    model = run.model
    whole, floor = data.splits[split], data.splits[split].entropy_floor_nats
    described: dict[str, Any] = {
        "run": str(run.folder),
        "checkpoint": run.checkpoint.name,
        "optimizer_steps": run.optimizer_steps,
        "data": data.name,
        "data_fingerprint": data.fingerprint,
        "split": split,
        "tokens": len(windows.tokens),
        "split_tokens": whole.n_tokens,
        "whole_split": len(windows.tokens) == whole.n_tokens,
        "window": windows.window_size,
        "stride": windows.stride,
        "net": type(model).__name__,
        "parameters": model.n_parameters(),
        "is_likelihood": measure_of(model).startswith("ppl"),  # a model that leaks has none either
        "measure": measure_of(model),
        "meaning": MEANINGS[measure_of(model)],
        "entropy_floor_perplexity": None if floor is None else safe_exp(floor),
    }
    if model.scoring_depth:
        described["recursion"] = {
            **{name: getattr(model, name) for name in _RECURSION},
            "n_refinements": model.scoring_depth // model.n_supervision,
            "exit_threshold": run.config.model.get("exit_threshold"),
        }
    return described


def _steps(model: LanguageModel, measurement: Measurement) -> list[dict[str, Any]]:
    """Return the rows of the table, with the supervision step that each belongs to."""
    rows = []
    for row in measurement.sums.rows():
        place: dict[str, Any] = {}
        if model.scoring_depth:
            per_step = model.scoring_depth // model.n_supervision
            place = {
                "supervision_step": math.ceil(row["refinement"] / per_step),
                "beyond_training": row["refinement"] > model.scoring_depth,
            }
        rows.append(place | row | {measure_of(model): safe_exp(row["nats_per_token"])})
    return rows


def _score_ablations(model: LanguageModel, windows: EvalWindows) -> list[dict[str, Any]]:
    device = next(model.parameters()).device
    rows = []
    for name, (meaning, log_probs) in model.ablations().items():
        total = score_windows(log_probs, _with_bar(windows, name), device)
        nats = total.nats / total.tokens
        kind = "ppl_without_answer" if name == "without the answer" else measure_of(model)
        row = {"name": name, "meaning": meaning, "measure": kind}
        rows.append(row | {"nats_per_token": nats, "value": safe_exp(nats)})
    return rows


def _summary(content: dict[str, Any], folder: Path) -> str:
    measure = content["measure"]
    part = "whole split" if content["whole_split"] else f"of {content['split_tokens']:,}"
    lines = [f"{content['split']}, {content['tokens']:,} tokens ({part}); {content['meaning']}"]
    whole = [row for row in content["steps"] if row["recursion"] == _last_recursion(content)]
    for row in whole:
        beyond = "   more than trained with" if row.get("beyond_training") else ""
        lines.append(f"  refinement {row['refinement']:3d} {row[measure]:12.3f}{beyond}")
    lines += [f"  {row['name']:24s} {row['value']:10.3f}" for row in content["ablations"]]
    lines += [
        f"  exit below {row['exit_threshold']:<9g} {row[measure]:12.3f}"
        f"   {row['mean_depth']:.2f} refinements per token"
        for row in content["early_exit"]
    ]
    return "\n".join([*lines, f"Written to {folder}"])


def _last_recursion(content: dict[str, Any]) -> int:
    return int(content.get("recursion", {}).get("n_recursions", 0))
