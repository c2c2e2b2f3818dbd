"""Budgets by name: how long a study trains as a smoke test, on a laptop, or on a GPU."""

from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_lightning.cli.screen import nearest
from trm_lightning.errors import UserError

LIMITS = ("steps", "tokens", "epochs", "seconds")
SETTINGS = ("seeds", "common", "entries")


def at_budget(cfg: DictConfig, given: Collection[str] = ()) -> DictConfig:
    """Return a study's config with its ``budget`` as limits, where it is a name.

    What ``budgets`` holds under that name besides limits counts too: ``seeds``, further overrides
    for every entry (``common``), and which ``entries`` are trained (all of them by default).

    Args:
        cfg: the comparison's config.
        given: keys that the command line sets, which come before a budget's.

    Raises:
        UserError: for a name that the study does not have, or a budget that is none.
    """
    if not isinstance(cfg.budget, str):
        _check_keys("budget", cfg.budget, LIMITS)
        return cfg
    known = cfg.budgets or {}
    if cfg.budget not in known:
        raise UserError(
            f"budget={cfg.budget}: this comparison has no such budget{nearest(cfg.budget, known)}",
            f"It has: {', '.join(known)}." if known else "Give limits, e.g. budget.tokens=1000000.",
        )
    chosen = known[cfg.budget]
    _check_keys(f"budgets.{cfg.budget}", chosen, (*LIMITS, *SETTINGS))
    cfg = cfg.copy()
    cfg.budget = {name: chosen.get(name) for name in LIMITS}
    if "seeds" in chosen and "seeds" not in given:
        cfg.seeds = chosen.seeds
    cfg.common = [*cfg.common, *chosen.get("common", [])]
    if "entries" in chosen:
        cfg.entries = [entry for entry in cfg.entries if entry.name in chosen.entries]
    return cfg


def budget_name(cfg: DictConfig) -> str | None:
    """Return the name of the budget; None where its limits are given."""
    return cfg.budget if isinstance(cfg.budget, str) else None


def _check_keys(place: str, budget: Any, known: Collection[str]) -> None:
    """Refuse a budget that is no mapping, or has keys that none has.

    Raises:
        UserError: naming them.
    """
    if not isinstance(budget, Mapping | DictConfig):
        raise UserError(
            f"{place}={budget!r}: a budget is a mapping of limits or the name of one.",
            "For example budget.tokens=1000000, or budget=smoke with a study that has it.",
        )
    container: Any = OmegaConf.to_container(budget) if isinstance(budget, DictConfig) else budget
    unknown = [str(key) for key in container if key not in known]
    wrong = [
        f"{key}={value!r}"
        for key, value in container.items()
        if key in LIMITS and not isinstance(value, int | float | None)
    ]
    if unknown or wrong:
        meant = nearest(unknown[0], known) if unknown else ""
        raise UserError(
            f"{place} has {', '.join(unknown + wrong)}{meant}",
            f"It takes numbers for: {', '.join(LIMITS)}.",
        )
