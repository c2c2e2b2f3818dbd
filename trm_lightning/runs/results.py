"""What a run reports: ``results.json`` and the summary on the terminal."""

import shlex
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from trm_lightning.data import TextDataModule
from trm_lightning.evaluation.metrics import MEANINGS, Score, described, safe_exp, score_lines
from trm_lightning.models import LanguageModel
from trm_lightning.runs.load import environment
from trm_lightning.training.callbacks.train_log import read_lines


def describe_run(
    cfg: DictConfig, data: TextDataModule, model: LanguageModel, flops_per_token: float
) -> dict[str, Any]:
    """Return what identifies a run, as plain containers: saved in checkpoints and results.

    Args:
        cfg: the run's composed config.
        data: set up.
        model: that is trained.
        flops_per_token: of training, per token of the training windows.
    """
    split = data.splits["val"]
    floor = split.entropy_floor_nats
    return {
        "config": OmegaConf.to_container(cfg, resolve=True),
        "tokenizer": data.tokenizer.state(),
        "vocab_size": data.vocab_size,
        "data": data.name,
        "data_fingerprint": data.fingerprint,
        "train_tokens": data.splits["train"].n_tokens,
        "entropy_floor_perplexity": None if floor is None else safe_exp(floor),
        "family": model_choice(model),
        "parameters": model.n_parameters(),
        "width": getattr(model, "width", None),
        "n_layers": len(model.layers),
        "n_passes": model.n_supervision * model.n_passes,
        "flops_per_token": flops_per_token,
        "is_likelihood": model.is_likelihood,
        "eval_window": data.window_size,
        "eval_stride": data.eval_stride or data.window_size // 2,
    }


def model_choice(model: LanguageModel) -> str:
    """Return the choice of conf/model that the run was composed with, else the class's name."""
    if HydraConfig.initialized():
        choice = HydraConfig.get().runtime.choices.get("model")
        if choice is not None:
            return str(choice)
    return type(model).__name__


def results_of(
    facts: dict[str, Any],
    final: dict[str, Score],
    test: dict[str, Score],
    history: Path,
    course: dict[str, Any],
) -> dict[str, Any]:
    """Return the content of ``results.json``.

    Args:
        facts: from :func:`describe_run`.
        final: validation scores of the last weights.
        test: test scores of the best weights; empty where there is no test split.
        history: the run's ``metrics.jsonl``.
        course: steps, tokens, seconds: how the run went.
    """
    kept = {key: value for key, value in facts.items() if key != "tokenizer"}
    return {
        **course,
        **{key: value for key, value in kept.items() if key != "config"},
        "final": {name: described(name, score) for name, score in final.items()},
        "best": best_scores(history),
        "test": {name: described(name, score) for name, score in test.items()},
        "environment": environment(),
        "config": kept["config"],
    }


def best_scores(history: Path) -> dict[str, dict[str, float]]:
    """Return the lowest value of each validated score, and its optimizer step."""
    best: dict[str, dict[str, float]] = {}
    for line in read_lines(history):
        for name, value in line.items():
            if name.startswith("train/") or name.partition("/")[2] not in MEANINGS:
                continue
            if name not in best or value < best[name]["perplexity"]:
                best[name] = {"perplexity": value, "step": line["step"]}
    return best


def summary(results: dict[str, Any], folder: Path) -> str:
    """Return the closing screen: numbers, what they are, where things lie, what to try next."""
    lines = ["", f"{results['status']}: {_course(results)}", ""]
    for part in ("final", "test"):
        for name, score in results[part].items():
            lines += score_lines(name, score)
    floor = results["entropy_floor_perplexity"]
    if floor is not None:
        lines.append(f"  {'entropy floor':27s} {floor:10.3f}   no honest model scores below it")
    lines += [
        "",
        f"  Everything is in {folder}",
        "    results.json, metrics.jsonl, checkpoints/, tensorboard/, samples.txt, tokenizer.json",
        "",
        "Next:",
    ]
    return "\n".join(lines + [f"  {line}" for line in _next_commands(results, folder)])


def _course(results: dict[str, Any]) -> str:
    return (
        f"{results['data']}, {results['parameters']:,} parameters, "
        f"{results['optimizer_steps']:,} optimizer steps, {results['tokens_seen']:,} tokens, "
        f"{results['seconds']:.0f} s of training"
    )


def _next_commands(results: dict[str, Any], folder: Path) -> list[str]:
    other = "trm" if results["config"]["model"]["_target_"].endswith(".AR") else "ar"
    purpose = "the baseline" if other == "ar" else "the recursive model"
    program, *arguments = results["environment"]["command"]
    own = ("model=", "model.", "resume=", "hydra.")  # of this model and this run alone
    kept = [word for word in arguments if not word.startswith(own)]
    if program not in ("train.py", "trm-train"):
        kept = [f"data={results['data']}"]
    return [
        f"python -m trm_lightning.train {shlex.join([*kept, f'model={other}'])}   # {purpose}",
        f'python -m trm_lightning.generate run={folder} prompt=""   # text',
        f"tensorboard --logdir {folder.parent}   # curves and pictures",
    ]
