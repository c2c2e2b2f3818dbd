"""Parity: what must be equal between runs, checked before training and measured after."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_lightning.cli.screen import nearest
from trm_lightning.errors import UserError
from trm_lightning.runs.load import build_model, make_data

PARITIES = ("tokens", "seconds", "parameters")
# How far two runs may differ and still be called equal.
TOLERANCE = {"tokens": 0.01, "seconds": 0.05, "parameters": 0.01}
# Data settings that may differ between runs on one text: how windows are cut from it, and what is
# added to it.
_WINDOWING = {
    "window_size", "batch_size", "windows", "supervised_tokens", "train_tokens", "eval_stride",
    "scrambled_validation_alphabet",  # adds a split and leaves the others as they are
    "eval_batch_tokens", "seed", "cache_dir",
}  # fmt: skip


def steps_per_batch(run: DictConfig) -> int:
    """Return the optimizer steps per batch of a composed training config."""
    if run.accumulate_supervision or run.carry:
        return 1
    return int(run.model.get("n_supervision", 1))


def check_budget(cfg: DictConfig) -> None:
    """Check that the budget is of the kind that the parity needs.

    Raises:
        UserError: for an unknown parity, or a budget or number of workers out of range.
    """
    if cfg.parity not in PARITIES:
        raise UserError(
            f"parity={cfg.parity}: there is no such parity{nearest(cfg.parity, PARITIES)}",
            f"There are: {', '.join(PARITIES)}.",
        )
    if cfg.workers < 1:
        raise UserError(f"workers={cfg.workers}: it must be at least 1.")
    asked = {name for name, value in cfg.budget.items() if value is not None}
    if cfg.parity == "seconds" and asked != {"seconds"}:
        raise UserError(
            "parity=seconds needs a budget in seconds and nothing else.",
            "Give the seconds of training of each run, e.g. budget.seconds=600.",
        )
    if cfg.parity == "seconds" and cfg.workers > 1:
        raise UserError(
            f"parity=seconds workers={cfg.workers}: parallel runs slow each other down, so equal "
            "seconds would not be equal compute.",
            "Leave workers=1.",
        )
    if cfg.parity != "seconds" and "seconds" in asked:
        raise UserError(
            f"budget.seconds gives models unequal tokens, and parity={cfg.parity} asks for equal.",
            "Use parity=seconds, or a budget in tokens.",
        )


def check_same_text(configs: dict[str, DictConfig]) -> None:
    """Refuse runs on different text, split or vocabulary before any of them is trained.

    Raises:
        UserError: naming the settings that differ.
    """
    texts = {name: _text_settings(config) for name, config in configs.items()}
    first, *others = texts
    for name in others:
        keys = texts[first].keys() | texts[name].keys()
        differing = sorted(key for key in keys if texts[first].get(key) != texts[name].get(key))
        if differing:
            raise UserError(
                f"{first} and {name} would be trained on different data: "
                + "; ".join(
                    f"data.{key} is {texts[first].get(key)} and {texts[name].get(key)}"
                    for key in differing
                ),
                "Perplexities compare on one text, split and vocabulary only: set the same.",
            )


def check_same_tokens(configs: dict[str, DictConfig]) -> None:
    """Refuse budgets that show the models different amounts of text.

    Raises:
        UserError: naming the budgets.
    """
    budgets = {name: _token_limits(config) for name, config in configs.items()}
    if len(set(budgets.values())) > 1:
        told = "; ".join(f"{name}: {dict(budget)}" for name, budget in budgets.items())
        raise UserError(
            f"The models would not see equally many tokens: {told}.",
            "Set one budget for all, e.g. budget.tokens=10_000_000.",
        )


def check_same_parameters(configs: dict[str, DictConfig], baseline: str) -> None:
    """Refuse models of unequal size before any of them is trained.

    Args:
        configs: composed training configs by the entry's name.
        baseline: name of the entry that the others are compared with.

    Raises:
        UserError: saying by how much each differs from the baseline.
    """
    counts = {name: _count_parameters(config) for name, config in configs.items()}
    base = counts[baseline]
    if any(abs(count / base - 1) > TOLERANCE["parameters"] for count in counts.values()):
        told = ", ".join(f"{n} {c:,} ({100 * (c / base - 1):+.1f} %)" for n, c in counts.items())
        raise UserError(
            f"The models differ in parameters by more than 1 %: {told}.",
            "Give entries with their own model.width or model.n_layers.",
        )


def parity_reached(entries: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return each entry's tokens, seconds and parameters as multiples of its baseline's."""
    by_name = {entry["name"]: entry for entry in entries}
    return {
        entry["name"]: {
            kind: _amount(entry, kind) / _amount(base, kind)
            for kind in TOLERANCE
            if _amount(entry, kind) and _amount(base, kind)
        }
        for entry in entries
        for base in [by_name[entry["against"]]]
    }


def _text_settings(config: DictConfig) -> dict[str, Any]:
    container: Any = OmegaConf.to_container(config["data"], resolve=True)
    return {key: value for key, value in container.items() if key not in _WINDOWING}


def _token_limits(config: DictConfig) -> tuple[tuple[str, float], ...]:
    """Return the limits on tokens: exact for steps and tokens; epochs as they stand."""
    limits = {name: value for name, value in config.budget.items() if value is not None}
    if "steps" in limits:
        batches = limits.pop("steps") / steps_per_batch(config)
        limits["tokens in steps"] = batches * config.data.batch_size * config.data.window_size
    return tuple(limits.items())


def _count_parameters(config: DictConfig) -> int:
    return build_model(config.model, make_data(config.data).tokenizer).n_parameters()


def _amount(entry: dict[str, Any], kind: str) -> float:
    if kind == "parameters":
        return float(entry["parameters"] or 0)
    figure = entry["figures"][kind]
    return 0.0 if figure is None else float(figure["mean"])
