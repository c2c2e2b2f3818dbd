"""The content of a run's ``results.json``."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from trm_lightning.data import TextDataModule
from trm_lightning.evaluation.metrics import ALL_MEANINGS, described, safe_exp
from trm_lightning.evaluation.puzzles import PUZZLE_MEANINGS
from trm_lightning.evaluation.tasks import AnyScore
from trm_lightning.models import LanguageModel
from trm_lightning.runs.checkpoint_file import FORMAT
from trm_lightning.runs.environment import environment
from trm_lightning.runs.history import read_lines


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
        "ids_digest": data.ids_digest,
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
        "eval_stride": data.eval_windows("val").stride,
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
    final: dict[str, AnyScore],
    test: dict[str, AnyScore],
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
        "format": FORMAT,
        **course,
        **{key: value for key, value in kept.items() if key != "config"},
        "final": {name: described(name, score) for name, score in final.items()},
        "best": best_scores(history, leaks=bool((facts.get("audit") or {}).get("leaks"))),
        "test": {name: described(name, score) for name, score in test.items()},
        "environment": environment(),
        "config": kept["config"],
    }


def best_scores(history: Path, leaks: bool = False) -> dict[str, dict[str, float]]:
    """Return the best value of each validated score, and its optimizer step.

    Args:
        history: the run's ``metrics.jsonl``.
        leaks: what was logged under a sound name before the leak was found was not sound either.
    """
    best: dict[str, dict[str, float]] = {}
    for line in read_lines(history):
        for name, value in line.items():
            split, _, kind = name.partition("/")
            if split == "train" or kind not in ALL_MEANINGS:
                continue
            if leaks and kind.startswith(("ppl", "solved")):
                name = f"{split}/{'copied' if kind == 'solved' else 'not_a_perplexity'}"
            key, sign = ("solved", -1) if kind in PUZZLE_MEANINGS else ("perplexity", 1)
            if name not in best or sign * value < sign * best[name][key]:
                best[name] = {key: value, "step": line["step"]}
    return best
