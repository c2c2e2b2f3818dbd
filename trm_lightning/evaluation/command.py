"""Exact scores of a trained model on a split of its data."""

from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from trm_lightning.data import EvalWindows
from trm_lightning.evaluation.likelihood import sum_windows
from trm_lightning.evaluation.metrics import described, score_lines
from trm_lightning.evaluation.tasks import new_sum, scorers_of
from trm_lightning.files import write_json
from trm_lightning.models import LanguageModel
from trm_lightning.runs.environment import environment
from trm_lightning.runs.load import find_device, load_run, open_data


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Score ``cfg.split``, print the numbers and write them to the run's ``evaluation.json``.

    Returns:
        The content of that file.

    Raises:
        UserError: for a missing run or split, other data, a stride or bound out of range.
    """
    run = load_run(cfg.run, find_device(cfg.device), cfg.exit_threshold, cfg.trust)
    data = open_data(run)
    device = next(run.model.parameters()).device
    windows = data.eval_windows(cfg.split, stride=cfg.stride)
    split = data.splits[cfg.split]
    scores = {}
    for name, log_probs in scorers_of(run.model, data.is_puzzle).items():
        bar = tqdm(windows, desc=f"scoring {cfg.split}", unit="batch", leave=False)
        total = sum_windows(new_sum(data.is_puzzle), log_probs, bar, device)
        score = total.score(split.counts)
        scores[f"{cfg.split}/{name}"] = described(f"{cfg.split}/{name}", score)
    content = {
        "checkpoint": str(run.checkpoint),
        "optimizer_steps": run.optimizer_steps,
        "window": data.window_size,
        "stride": windows.stride,
        "scores": scores,
        "exit_threshold": run.model.exit_threshold,
        "mean_depth": _mean_depth(run.model, windows),
        "data_fingerprint": data.fingerprint,
        "environment": environment(),
    }
    write_json(run.folder / "evaluation.json", content)
    print(f"{run.checkpoint}, step {run.optimizer_steps:,}; stride {windows.stride}")
    for name, described_score in scores.items():
        print("\n".join(score_lines(name, described_score)))
    if content["mean_depth"] is not None:
        what = "puzzle" if data.is_puzzle else "token"
        print(f"Refinements per {what}: {content['mean_depth']:.2f}")
    print(f"Written to {run.folder / 'evaluation.json'}")
    return content


def _mean_depth(model: LanguageModel, windows: EvalWindows) -> float | None:
    """Return the mean number of refinements per scored token; None without early exit."""
    if model.exit_threshold is None:
        return None
    device = next(model.parameters()).device
    depths = [model.depths(tokens.to(device), first) for tokens, first in windows]
    return sum(int(d.sum()) for d in depths) / sum(d.numel() for d in depths)
