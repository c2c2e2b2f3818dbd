"""Composition and check of a command's config before Hydra makes a run folder."""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from trm_lightning.cli import launch
from trm_lightning.cli.config_check import check_config
from trm_lightning.cli.overrides import parse_overrides, variations
from trm_lightning.cli.printed import shell_command
from trm_lightning.cli.schema import SCHEMAS
from trm_lightning.cli.screen import combine, nearest
from trm_lightning.errors import UserError
from trm_lightning.runs.find import last_checkpoint


def conf_dir() -> Path:
    """The repository's conf/ in a checkout, the copy inside the package where it was installed."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else package) / "conf"


@dataclass
class Call:
    """One call of a command: its name, where its configs are, and Hydra's parsed flags."""

    command: str
    conf: Path
    config_name: str
    config_dir: Path | None
    multirun: bool

    @classmethod
    def parse(cls, command: str, args: argparse.Namespace) -> "Call":
        """Read the flags that say where configs are; folders are relative to the caller's."""
        for flag in ("config_path", "config_dir"):
            given = getattr(args, flag)
            if given is not None and not Path(given).is_dir():
                raise UserError(f"--{flag.replace('_', '-')}={given}: there is no such folder")
        return cls(
            command=command,
            conf=Path(args.config_path).resolve() if args.config_path else conf_dir(),
            config_name=args.config_name or command,
            config_dir=Path(args.config_dir).resolve() if args.config_dir else None,
            multirun=args.multirun,
        )

    def flags(self) -> list[str]:
        """Where the configs are and what to do with them, as command-line flags."""
        flags = ["--config-path", str(self.conf)] if self.conf != conf_dir() else []
        flags += ["--config-name", self.config_name] if self.config_name != self.command else []
        flags += ["--config-dir", str(self.config_dir)] if self.config_dir else []
        return flags + (["--multirun"] if self.multirun else [])

    def own_targets(self) -> list[str]:
        """What the YAMLs of the call's --config-dir name by `_target_`."""
        files = sorted(self.config_dir.rglob("*.yaml")) if self.config_dir else []
        texts = (file.read_text(encoding="utf-8", errors="replace") for file in files)
        return [name for text in texts for name in _TARGET.findall(text)]

    @property
    def help_hint(self) -> str:
        """Where to read what the command takes."""
        here = shell_command(self.command)
        return (
            f"`{here} --help` lists groups and settings, "
            "`--cfg job` shows the composed configuration."
        )


# Extras of pyproject.toml by the launcher that they bring.
_LAUNCHER_EXTRAS = {
    "joblib": "sweep-joblib", "submitit_slurm": "sweep-submitit",
    "submitit_local": "sweep-submitit", "ray": "sweep-ray",
}  # fmt: skip
_TARGET = re.compile(r"_target_:\s*['\"]?([\w.]+)")
_MOST_CHECKED = 20  # jobs of a sweep; one takes about a quarter of a second


@contextmanager
def composer(call: Call) -> Iterator["Composer"]:
    """Hydra's compose API set up for a call, and taken down again.

    Inside of a job, its own Hydra is put aside meanwhile: there can be one at a time.
    """
    running, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(
            version_base="1.3", config_dir=str(call.conf), job_name=call.command
        ):
            yield Composer(call)
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = running, config


class Composer:
    """Composes a call's configs. Use it through `composer`."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __call__(self, overrides: list[str]) -> DictConfig:
        """The composed config with its `hydra` node."""
        if self.call.config_dir and not any(o.startswith("hydra.searchpath=") for o in overrides):
            overrides = [*overrides, f"hydra.searchpath=['file://{self.call.config_dir}']"]
        return compose(self.call.config_name, overrides, return_hydra_config=True)

    def choices(self, group: str) -> list[str]:
        """The choices of a config group, subfolders' too; empty where there is no such group."""
        loader = GlobalHydra.instance().config_loader()
        found = set(loader.get_group_options(group, ObjectType.CONFIG))
        for inner in loader.get_group_options(group, ObjectType.GROUP):
            found.update(f"{inner}/{name}" for name in self.choices(f"{group}/{inner}"))
        if self.call.config_dir:
            folder = self.call.config_dir / group
            added = folder.rglob("*.yaml")
            found.update(path.relative_to(folder).with_suffix("").as_posix() for path in added)
        return sorted(found)


def check_call(call: Call, overrides: list[str]) -> None:
    """Compose and check the config of a call, or of the jobs of a multirun.

    The first jobs of a multirun are checked, with one choice changed at a time: a sum and not a
    product of the numbers of choices. Each job checks its own config again.

    Raises:
        UserError: naming all that was found wrong.
    """
    parsed = parse_overrides(overrides)
    fixed = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
    swept = [override for override in parsed if override.is_sweep_override()]
    first, *others = variations(swept)[:_MOST_CHECKED]
    with composer(call) as composed:
        cfg = compose_or_explain(composed, [*fixed, *first])
        if swept and not call.multirun and cfg.hydra.mode != RunMode.MULTIRUN:
            raise UserError(
                f"`{swept[0].input_line}` gives several values to one run",
                "Add --multirun to run them one after the other, or quote the value.",
            )
        check_task(cfg, call)
        for choices in others:
            check_task(compose_or_explain(composed, [*fixed, *choices]), call)


def check_task(cfg: DictConfig, call: Call, task: DictConfig | None = None) -> None:
    """Check what a command is given: a composed config without its `hydra` node, or `task`.

    Raises:
        UserError: naming all that was found wrong.
    """
    with hydra_values(cfg) as folder:
        if task is None:
            _refuse_used_folder(call, folder)
            task = cfg.copy()
            with open_dict(task):
                del task["hydra"]
        _refuse_no_folder(folder)
        check_config(task, SCHEMAS.get(call.command), call.help_hint)


def _refuse_used_folder(call: Call, folder: Path) -> None:
    """Refuse to train a new run over another one's checkpoints."""
    if call.command == "train" and launch.rank() == 0 and last_checkpoint(folder).is_file():
        raise UserError(
            f"{folder} holds a run already, which a new one would overwrite.",
            f"Go on with it (resume={folder}), or choose another folder (hydra.run.dir=…).",
        )


def _refuse_no_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made or written: Hydra would end in a stack trace."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "is not a folder" if not there.is_dir() else "cannot be written"
        raise UserError(f"hydra.run.dir={folder}: {there} {what}.", "Choose another place.")


@contextmanager
def hydra_values(cfg: DictConfig) -> Iterator[Path]:
    """Make `${hydra:…}` in a composed config resolve as it will in the job; gives the run folder.

    Raises:
        UserError: the run folder's name refers to something that is not there.
    """
    HydraConfig.instance().set_config(cfg)
    try:
        with open_dict(cfg), read_write(cfg.hydra):
            # What Hydra fills in at run time.
            cfg.hydra.job.id, cfg.hydra.job.num = "0", 0
            cfg.hydra.runtime.output_dir = str(cfg.hydra.run.dir)
        HydraConfig.instance().set_config(cfg)
        yield Path(cfg.hydra.runtime.output_dir)
    except OmegaConfBaseException as error:
        raise UserError(f"hydra.run.dir: {str(error).splitlines()[0]}") from error
    finally:
        HydraConfig.instance().cfg = None


def compose_or_explain(composed: Composer, overrides: list[str]) -> DictConfig:
    """Compose; say what Hydra found wrong in terms of what the user wrote."""
    _refuse_numbers_as_choices(composed, overrides)
    try:
        return composed(overrides)
    except MissingConfigException as error:
        raise _missing_config(error, composed.call) from error
    except YAMLError as error:
        raise UserError(f"a config file is not valid YAML:\n{error}") from error
    except (HydraException, ValueError) as error:
        unknown = _unknown_keys(composed, overrides)
        if unknown:
            hint = (
                "A parameter that its class has but the config leaves out is set with +key=value."
            )
            raise combine(unknown, f"{hint}\n{composed.call.help_hint}") from error
        cause = f"\n{error.__cause__}" if error.__cause__ else ""
        raise UserError(f"{error}{cause}".strip(), composed.call.help_hint) from error


def _refuse_numbers_as_choices(composed: Composer, overrides: list[str]) -> None:
    """Refuse a list of choices with something else than names in it, at which Hydra stumbles."""
    for override in parse_overrides(overrides):
        chosen: Any = override.value()
        if not isinstance(chosen, list) or all(isinstance(name, str) for name in chosen):
            continue
        if choices := composed.choices(override.key_or_group):
            raise UserError(
                f"`{override.input_line}`: {chosen} are no names of configs",
                f"{override.key_or_group} may be: {', '.join(choices)}",
            )


def _missing_config(error: MissingConfigException, call: Call) -> UserError:
    """A group choice, or a primary config, that no file has."""
    wanted = error.missing_cfg_file or ""
    group, _, choice = wanted.rpartition("/")
    if group == "hydra/launcher" and choice in _LAUNCHER_EXTRAS:
        extra = _LAUNCHER_EXTRAS[choice]
        return UserError(
            f"The launcher {choice} is not installed.", f"pip install 'trm-lightning[{extra}]'"
        )
    if not group or not error.options:
        files = sorted(path.stem for path in call.conf.glob("*.yaml"))
        what = f"there is no config `{wanted}` in {call.conf}{nearest(wanted, files)}"
        return UserError(what, f"There are: {', '.join(files) or 'none'}")
    where = str(error).split(":", 1)[0] + ": " if str(error).startswith("In '") else ""
    what = f"{where}`{group}={choice}`: there is no {group} `{choice}`"
    return UserError(
        what + nearest(choice, error.options), f"{group} may be: {', '.join(error.options)}"
    )


def _unknown_keys(composed: Composer, overrides: list[str]) -> list[str]:
    """Overrides of keys that the config, composed without any of them, does not have."""
    parsed = parse_overrides(overrides)
    groups = [str(o.input_line) for o in parsed if composed.choices(o.key_or_group)]
    values = [o for o in parsed if not composed.choices(o.key_or_group)]
    try:
        base = composed(groups)
    except (HydraException, ValueError):
        return []
    known = _keys(OmegaConf.to_container(base), "")
    settings = [key for key in known if not key.startswith("hydra")]
    unknown = [
        (o.input_line, o.key_or_group)
        for o in values
        if o.key_or_group not in known and not o.is_add() and not o.is_force_add()
    ]
    return [
        f"`{line}`: there is no setting `{key}`{nearest(key, settings)}" for line, key in unknown
    ]


def _keys(node: Any, path: str) -> list[str]:
    """All dotted keys of a nested container."""
    if isinstance(node, dict):
        items = [(f"{path}.{key}" if path else str(key), value) for key, value in node.items()]
    elif isinstance(node, list):
        items = [(f"{path}[{index}]", value) for index, value in enumerate(node)]
    else:
        return []
    return [found for key, value in items for found in (key, *_keys(value, key))]
