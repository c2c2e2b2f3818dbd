"""The audit command: every check on a trained run, or on a model built from its config."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from trm_lightning.data import TextDataModule
from trm_lightning.data.token_cache import TokenSplit
from trm_lightning.errors import UserError
from trm_lightning.evaluation.command import open_data
from trm_lightning.evaluation.tasks import check_task
from trm_lightning.files import write_json
from trm_lightning.leakage.named_function import load_function, read_ids
from trm_lightning.leakage.outcome import Audit
from trm_lightning.leakage.text_audit import audit_text
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
    if cfg.scorer is not None:
        return _audit_function(cfg)
    model, data, title = _open_run(cfg) if cfg.run else _build(cfg)
    _split(data, cfg.split)
    print(title, flush=True)
    if not model.is_likelihood:
        print(f"\n{GIVEN_THE_ANSWER}")
    audits = audit_scores(
        model, data, split=cfg.split, trained=bool(cfg.run), train_steps=cfg.train_steps
    )
    return _tell(cfg, title, audits)


def _audit_function(cfg: DictConfig) -> int:
    """Audit a function that the user named, on ids of his own or on those of the data."""
    function = load_function(cfg.scorer)
    decode = None
    if cfg.ids is not None:
        ids, vocab_size, title = read_ids(Path(cfg.ids)), cfg.vocab_size, f"on {cfg.ids}"
    else:
        data: TextDataModule = instantiate(cfg.data)
        data.prepare_data()
        data.setup()
        ids, vocab_size, title = _split(data, cfg.split).tokens, data.vocab_size, f"on {data.name}"
        decode = data.tokenizer.decode
    title = f"{cfg.scorer} {title}"
    print(title, flush=True)
    audit = audit_text(
        function, vocab_size=vocab_size, text=ids, decode=decode, seconds=cfg.seconds
    )
    return _tell(cfg, title, {cfg.scorer: audit})


def _split(data: TextDataModule, name: str) -> TokenSplit:
    if name not in data.splits:
        raise UserError(
            f"The data set {data.name} has no split {name!r}.",
            f"It has: {', '.join(data.splits)}.",
        )
    return data.splits[name]


def _tell(cfg: DictConfig, title: str, audits: dict[str, Audit]) -> int:
    """Print audits, write them where ``json`` says, and return how many checks failed."""
    for name, audit in audits.items():
        print(f"\n{name}\n{audit}")
    n_failed = sum(len(audit.failed) for audit in audits.values())
    n_suspicious = sum(len(audit.suspicious) for audit in audits.values())
    outcome = "All checks passed." if n_failed == 0 else f"{n_failed} checks FAILED."
    print(f"\n{'A suspicion is left.' if n_suspicious and not n_failed else outcome}")
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
    chosen = {"run": cfg.run, "model": cfg.get("model"), "scorer": cfg.scorer}
    if cfg.scorer and (cfg.run or "model" in cfg):
        others = [name for name in ("run", "model") if chosen[name]]
        raise UserError(f"scorer={cfg.scorer} is audited alone, not with {others[0]}=….")
    if cfg.ids is not None and (cfg.scorer is None or cfg.vocab_size is None):
        raise UserError("ids=… goes with scorer=module:function and vocab_size=….")
    if cfg.run and ("model" in cfg or own):
        raise UserError(
            f"run={cfg.run} has its own model and data{f', not {own[0]}' if own else ''}.",
            "Give run=…, or model=… and data=….",
        )
    if not any(chosen.values()):
        raise UserError(
            "Neither a run nor a model was given.",
            "Give run=outputs/<day>/<run>, a model: model=trm data=builtin_word, or a function of "
            "yours: scorer=my_module:function",
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
    check_task(model, data)
    return model, data, f"{type(model).__name__}, untrained, on {data.name}"
