"""The audit command: every check on what its config names, and how the outcome is told."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trm_lightning.errors import UserError
from trm_lightning.files import write_json
from trm_lightning.leakage.example import Example, script
from trm_lightning.leakage.outcome import Audit
from trm_lightning.leakage.subjects import Audited, audit_subject
from trm_lightning.leakage.text_probe import Decoder, shown
from trm_lightning.leakage.verdict import verdict
from trm_lightning.runs.environment import environment

SUBJECTS = ("run", "model", "scorer", "program", "transformers")


def audit_command(cfg: DictConfig) -> Audited:
    """Audit what the config names, print a table, and write it as JSON where ``json`` says.

    Raises:
        UserError: for settings that do not fit, a missing run or split, other data.
    """
    _check_settings(cfg)
    torch.manual_seed(cfg.seed)
    audited = audit_subject(cfg)
    for name, audit in audited.audits.items():
        print(f"\n{name}\n{audit}")
        for line in finding_lines(audited, name):
            print(line)
    print(f"\n{audited.outcome}")
    if cfg.json is not None:
        content = {
            "audited": audited.title,
            **verdict(audited.audits),
            "scores": {name: audit.as_dict() for name, audit in audited.audits.items()},
            "environment": environment(),
        }
        write_json(Path(cfg.json), content)
        print(f"Written to {cfg.json}")
    return audited


def first_example(audit: Audit) -> tuple[str, Example] | None:
    """Return the name of the first failed check that has an example, and the example."""
    failed = (check for check in audit.checks if check.passed is False)
    return next(((check.name, check.example) for check in failed if check.example), None)


def finding_lines(audited: Audited, name: str) -> list[str]:
    """Return how to see the first finding of a score again: in its text, and by a script."""
    found = first_example(audited.audits[name])
    if found is None:
        return []
    check, example = found
    lines = ["", f"{check} in a text as short as was found:"]
    lines += [f"  {label:8s} {text}" for label, text in told(example, audited.decode)]
    if name in audited.preambles:
        lines += ["", "To see it again:", "", script(example, audited.preambles[name])]
    return lines


def told(example: Example, decode: Decoder) -> list[tuple[str, str]]:
    """Return what an example shows, as labels and texts."""
    ids = torch.tensor(example.ids)
    lines = [("text", shown(ids, example.position, decode))]
    if example.kind == "moves":
        changes = [
            f"token {i}, {decode([example.ids[i]])!r} to {decode([example.other[i]])!r}"
            for i in example.changed[:3]
        ]
        more = len(example.changed) - len(changes)
        lines.append(("changed", "; ".join(changes) + (f" and {more} more" if more else "")))
        amount = f"{example.moved:.3g} nats"
        lines.append(("moves", f"the score of token {example.position} by {amount}"))
    return lines


def _check_settings(cfg: DictConfig) -> None:
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    own = [item for item in given if item.lstrip("+~").startswith(("model", "data"))]
    chosen = [name for name in SUBJECTS if cfg.get(name)]
    if not chosen:
        raise UserError(
            "Neither a run nor a model was given.",
            "Give run=outputs/<day>/<run>, a model: model=trm data=builtin_word, a function of "
            "yours: scorer=my_module:function, program=… or transformers=…",
        )
    if cfg.run and ("model" in cfg or own):
        raise UserError(
            f"run={cfg.run} has its own model and data{f', not {own[0]}' if own else ''}.",
            "Give run=…, or model=… and data=….",
        )
    if len(chosen) > 1:
        raise UserError(f"{chosen[-1]}={cfg[chosen[-1]]} is audited alone, not with {chosen[0]}=….")
    needs_size = chosen[0] in ("scorer", "program")
    if cfg.ids is not None and (
        chosen[0] in ("run", "model") or (needs_size and not cfg.vocab_size)
    ):
        raise UserError("ids=… goes with scorer=module:function or program=…, and vocab_size=….")
    if chosen[0] == "transformers" and (cfg.ids is None) == (cfg.text is None):
        raise UserError("transformers=… is audited on text=file.txt or on ids=file.json.")
    if cfg.text is not None and chosen[0] != "transformers":
        raise UserError("text=… goes with transformers=….", "Others: ids=…, or data=….")
    if cfg.train_steps < 0:
        raise UserError(f"train_steps must be 0 or more (is {cfg.train_steps}).")
    if cfg.json is not None and not Path(cfg.json).absolute().parent.is_dir():
        raise UserError(f"json={cfg.json} lies in a folder that does not exist.", "Make it first.")
