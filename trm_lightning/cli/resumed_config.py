"""The config that a resumed run trains with: the checkpoint's, with the settings of this call.

What `conf/` holds today does not change a run that has begun.
"""

from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from trm_lightning.cli.compose import Composer, compose_or_explain, hydra_values
from trm_lightning.cli.differences import flat
from trm_lightning.cli.overrides import parse_overrides
from trm_lightning.cli.resume import Resumption, say, stored_overrides
from trm_lightning.cli.screen import nearest
from trm_lightning.errors import UserError
from trm_lightning.runs.find import resumable_checkpoints

_OF_A_CALL = ("hydra", "resume", "trust", "run_dir", "experiment_name", "logger")
_N_SHOWN = 6
_MISSING = object()


def resumed_config(run: Resumption, composed: Composer) -> DictConfig:
    """Return the stored config with this call's settings.

    Raises:
        UserError: for a checkpoint that cannot be used, a class in it that is not trusted, or a
            setting that the stored config does not have.
    """
    from trm_lightning.runs.checkpoint_file import read_first  # with torch
    from trm_lightning.runs.stored_config import stored_config

    file, checkpoint = read_first(resumable_checkpoints(run.checkpoint))
    parsed = parse_overrides(run.own)
    given: Any = next((o.value() for o in parsed if o.key_or_group == "trust"), [])
    trust = [*(given if isinstance(given, list) else [given]), *composed.call.own_targets()]
    # Loggers that this call names are its own, and need no trust in the folder.
    stored_loggers = all(o.key_or_group != "logger" for o in parsed)
    stored = stored_config(checkpoint["run"], file, trust, stored_loggers)
    config = _relocated(stored, run.folder)
    if not stored_loggers:
        config.logger = {}
    _tell_changes(config, composed, run.folder)
    for override in parsed:
        _apply(config, override, composed)
    with open_dict(config):
        config.resume = str(run.checkpoint)
    return config


def _relocated(config: DictConfig, folder: Path) -> DictConfig:
    """Let what lay in the run's folder lie in it where it is now; refuse other places to write.

    Raises:
        UserError: naming a logger's folder that lies elsewhere.
    """
    before = str(config.get("run_dir", ""))

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: moved(value) for key, value in node.items()}
        if isinstance(node, list):
            return [moved(value) for value in node]
        if isinstance(node, str) and before and (node == before or node.startswith(f"{before}/")):
            return str(folder) + node[len(before) :]
        return node

    content: Any = moved(OmegaConf.to_container(config))
    for name, logger in (content.get("logger") or {}).items():
        place = logger.get("save_dir") if isinstance(logger, dict) else None
        if place is not None and not Path(place).resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"The stored config has logger.{name} write to {place}, outside of {folder}.",
                f"If you want that, say so: logger.{name}.save_dir={place}",
            )
    content["run_dir"] = str(folder)
    return OmegaConf.create(content)


def _apply(config: DictConfig, override: Override, composed: Composer) -> None:
    """Put one override of this call into the stored config.

    Raises:
        UserError: there is no such setting, or it composes a run anew.
    """
    key, line = override.key_or_group, override.input_line
    if composed.choices(key):
        if key not in config:
            raise UserError(
                f"`{line}` composes a new run, and a resumed one keeps its own settings",
                "Give single settings, such as optimizer.lr=…, or start a new run.",
            )
        config[key] = compose_or_explain(composed, [str(line)])[key]
    elif override.is_delete():
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else config
        if not isinstance(node, DictConfig) or last not in node:
            raise UserError(f"`{line}`: the run has no setting `{key}`")
        del node[last]
    else:
        known = OmegaConf.select(config, key, default=_MISSING) is not _MISSING
        if not known and not override.is_add() and not override.is_force_add():
            settings = list(flat(OmegaConf.to_container(config)))
            raise UserError(f"`{line}`: the run has no setting `{key}`{nearest(key, settings)}")
        OmegaConf.update(config, key, override.value(), force_add=True)


def _tell_changes(config: DictConfig, composed: Composer, folder: Path) -> None:
    """Say in what the stored config differs from what the run's overrides would give today."""
    try:
        cfg = composed(stored_overrides(folder))
        with hydra_values(cfg):
            today = flat(OmegaConf.to_container(cfg, resolve=True))
    except Exception as error:  # whatever it is, it does not matter to the run
        say(f"conf/ cannot compose this run any more ({str(error).splitlines()[0]}).")
        return
    kept = flat(OmegaConf.to_container(config))
    differing = [
        f"{key}={kept.get(key)} ({today.get(key, 'nothing')} in conf/)"
        for key in [*kept, *(key for key in today if key not in kept)]
        if kept.get(key) != today.get(key) and key.split(".")[0] not in _OF_A_CALL
    ]
    if differing:
        more = f" and {len(differing) - _N_SHOWN} more" if len(differing) > _N_SHOWN else ""
        say(
            "The run goes on with its own settings, some of which conf/ and the run's overrides "
            f"would not give today: {', '.join(differing[:_N_SHOWN])}{more}."
        )
