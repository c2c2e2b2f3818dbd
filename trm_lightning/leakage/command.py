"""The audit command: every check on a trained run, or on a model built from its config."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from trm_lightning.data import TextDataModule
from trm_lightning.errors import UserError
from trm_lightning.evaluation.command import open_data
from trm_lightning.files import write_json
from trm_lightning.leakage.verdict import GIVEN_THE_ANSWER, audit_scores, verdict
from trm_lightning.models import LanguageModel
from trm_lightning.runs.environment import environment
from trm_lightning.runs.load import build_model, find_device, load_run


def audit_command(cfg: DictConfig) -> int:
    """Audit a model, print a table, and write it as JSON where ``json`` says.

    Returns:
        The number of checks that failed.

    Raises:
        UserError: for settings that do not fit, a missing run or split, other data.
    """
    _check_settings(cfg)
    torch.manual_seed(cfg.seed)
    model, data, title = _open_run(cfg) if cfg.run else _build(cfg)
    if cfg.split not in data.splits:
        raise UserError(
            f"The data set {data.name} has no split {cfg.split!r}.",
            f"It has: {', '.join(data.splits)}.",
        )
    print(title, flush=True)
    if not model.is_likelihood:
        print(f"\n{GIVEN_THE_ANSWER}")
    audits = audit_scores(
        model, data, split=cfg.split, trained=bool(cfg.run), train_steps=cfg.train_steps
    )
    for name, audit in audits.items():
        print(f"\n{name}\n{audit}")
    n_failed = sum(len(audit.failed) for audit in audits.values())
    print(f"\n{'All checks passed.' if n_failed == 0 else f'{n_failed} checks FAILED.'}")
    if cfg.json is not None:
        content = {
            "audited": title,
            **verdict(audits),
            "scores": {name: audit.as_dict() for name, audit in audits.items()},
            "environment": environment(),
        }
        write_json(Path(cfg.json), content)
        print(f"Written to {cfg.json}")
    return n_failed


def _check_settings(cfg: DictConfig) -> None:
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    own = [item for item in given if item.lstrip("+~").startswith(("model", "data"))]
    if cfg.run and ("model" in cfg or own):
        raise UserError(
            f"run={cfg.run} has its own model and data{f', not {own[0]}' if own else ''}.",
            "Give run=…, or model=… and data=….",
        )
    if not cfg.run and "model" not in cfg:
        raise UserError(
            "Neither a run nor a model was given.",
            "Give run=outputs/<day>/<run>, or a model: model=trm data=builtin_word",
        )
    if cfg.train_steps < 0:
        raise UserError(f"train_steps must be 0 or more (is {cfg.train_steps}).")
    if cfg.json is not None and not Path(cfg.json).absolute().parent.is_dir():
        raise UserError(f"json={cfg.json} lies in a folder that does not exist.", "Make it first.")


def _open_run(cfg: DictConfig) -> tuple[LanguageModel, TextDataModule, str]:
    run = load_run(cfg.run, find_device(cfg.device), trust=cfg.trust)
    return run.model, open_data(run), f"{run.checkpoint}, step {run.optimizer_steps:,}"


def _build(cfg: DictConfig) -> tuple[LanguageModel, TextDataModule, str]:
    data: TextDataModule = instantiate(cfg.data)
    data.prepare_data()
    data.setup()
    model = build_model(cfg.model, data.tokenizer).to(find_device(cfg.device)).eval()
    return model, data, f"{type(model).__name__}, untrained, on {data.name}"
