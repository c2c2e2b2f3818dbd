"""Exact scores of a trained model on a split of its data."""

from collections.abc import Callable, Container
from typing import Any, Protocol

from omegaconf import DictConfig
from tqdm import tqdm

from trm_lightning.data import EvalWindows, TextDataModule
from trm_lightning.evaluation.likelihood import sum_windows
from trm_lightning.evaluation.metrics import described, score_lines
from trm_lightning.evaluation.tasks import new_sum, scorers_of
from trm_lightning.files import write_json
from trm_lightning.models import LanguageModel
from trm_lightning.models.base import LogProbs
from trm_lightning.runs.environment import environment
from trm_lightning.runs.load import find_device, load_run, open_data


class Watch(Protocol):
    """Makes a model's calls, and tries some of them with other tokens; see ``CallWatch``."""

    findings: dict[str, dict[str, Any]]
    n_tried: int

    def begin(self, tried: Container[int], turn: int) -> None:
        """Begin to score a text anew; the calls of these numbers are tried."""
        ...

    def scorers(self) -> dict[str, LogProbs]:
        """Return ``model.scorers()``, watched."""
        ...


def evaluate(cfg: DictConfig, watch_of: Callable[[LanguageModel], Watch]) -> dict[str, Any]:
    """Score ``cfg.split``, print the numbers and write them to the run's ``evaluation.json``.

    Args:
        cfg: conf/evaluate.yaml.
        watch_of: what tries the calls that are summed; a perplexity that fails is called none.

    Returns:
        The content of that file.

    Raises:
        UserError: for a missing run or split, other data, a stride or bound out of range.
    """
    run = load_run(cfg.run, find_device(cfg.device), cfg.exit_threshold, cfg.trust)
    data = open_data(run)
    windows = data.eval_windows(cfg.split, stride=cfg.stride)
    watch = None if data.is_puzzle else watch_of(run.model)
    sums = _sums(run.model, data, windows, watch, cfg.split)
    found = {} if watch is None else watch.findings
    if any(name.startswith("ppl") and checks for name, checks in found.items()):
        run.model.leaks = True
    names = scorers_of(run.model, data.is_puzzle)
    scores = {}
    for name, total in zip(names, sums, strict=True):
        score = total.score(data.splits[cfg.split].counts)
        scores[f"{cfg.split}/{name}"] = described(f"{cfg.split}/{name}", score)
    audit = None if watch is None else _found(watch)
    content = {
        "checkpoint": str(run.checkpoint),
        "optimizer_steps": run.optimizer_steps,
        "window": data.window_size,
        "stride": windows.stride,
        "scores": scores,
        "audit": audit,
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
    _tell_audit(audit)
    print(f"Written to {run.folder / 'evaluation.json'}")
    return content


def _sums(
    model: LanguageModel,
    data: TextDataModule,
    windows: EvalWindows,
    watch: Watch | None,
    split: str,
) -> list[Any]:
    """Score a split by every scorer; the first, the middle and the last call are tried."""
    device, n = next(model.parameters()).device, len(windows)
    if watch is None:
        scorers = scorers_of(model, data.is_puzzle)
    else:
        watch.begin({0, n // 2, n - 1}, turn=0)
        scorers = watch.scorers()
    sums = []
    for log_probs in scorers.values():
        bar = tqdm(windows, desc=f"scoring {split}", unit="batch", leave=False)
        sums.append(sum_windows(new_sum(data.is_puzzle), log_probs, bar, device))
    return sums


def _found(watch: Watch) -> dict[str, Any]:
    """Return what a watch has found, as plain containers."""
    found = {
        name: {
            check: {"detail": finding.detail, "position": finding.position}
            for check, finding in findings.items()
        }
        for name, findings in watch.findings.items()
    }
    return {"calls_tried": watch.n_tried, "found": found}


def _tell_audit(audit: dict[str, Any] | None) -> None:
    """Print what the calls that were tried again have shown."""
    if audit is None:
        return
    failed = {name: checks for name, checks in audit["found"].items() if checks}
    if not failed:
        print(f"Leak audit: {audit['calls_tried']} of these calls were tried again; nothing moved.")
    for name, checks in failed.items():
        print(f"LEAK AUDIT OF {name} FAILED: it sees what it is scored on. trm-audit tells more.")
        for check, finding in checks.items():
            place = "" if finding["position"] is None else f"token {finding['position']}: "
            print(f"  ✗ {check:20s} {place}{finding['detail']}")


def _mean_depth(model: LanguageModel, windows: EvalWindows) -> float | None:
    """Return the mean number of refinements per scored token; None without early exit."""
    if model.exit_threshold is None:
        return None
    device = next(model.parameters()).device
    depths = [model.depths(tokens.to(device), first) for tokens, first in windows]
    return sum(int(d.sum()) for d in depths) / sum(d.numel() for d in depths)
