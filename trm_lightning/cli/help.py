"""`--help`: what a command does, what can be chosen, where results go."""

import inspect
import json
import textwrap
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_lightning.cli.compose import Call, Composer, compose_or_explain, composer, hydra_values

_WIDTH = 100


def show_help(call: Call, doc: str, overrides: list[str]) -> None:
    """Print the help of a command, with the choices and settings that `overrides` lead to."""
    with composer(call) as composed:
        cfg = compose_or_explain(composed, overrides)
        groups = _groups(composed, cfg.hydra.runtime.choices)
        with hydra_values(cfg) as results:
            settings = _settings(cfg)
    paragraphs = inspect.cleandoc(doc).split("\n\n")
    name = f"trm-{call.command}"
    parts = [
        textwrap.fill(" ".join(paragraphs[0].split()), _WIDTH),
        f"Usage: {name} [group=choice …] [key=value …] [--multirun] [--cfg job]\n"
        f"   or: python -m trm_lightning.{call.command} …",
        *(text for text in paragraphs if text.startswith("Examples:")),
        "Groups (* is chosen):\n" + "\n".join(groups),
        "Settings:\n" + "\n".join(f"  {line}" for line in settings),
        f"Results: a folder of its own for each run, here {results}",
        f"More: `{name} --cfg job` shows every setting, `{name} --hydra-help` the other flags.\n"
        f"Your own configs: --config-dir FOLDER. "
        f'Tab completion in bash: eval "$({name} -sc install=bash)"',
    ]
    print("\n\n".join(parts), flush=True)


def _groups(composed: Composer, chosen: DictConfig) -> list[str]:
    """One entry for each group that the command uses."""
    lines = []
    for group, choice in reversed(list(chosen.items())):  # Hydra keeps the last of the file first
        group = str(group)
        if group.split("/")[0] == "hydra":
            continue
        names = [f"{name}*" if name == choice else name for name in composed.choices(group)]
        text = f"  {group}={' | '.join(names)}"
        lines.append(textwrap.fill(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False))
    return lines


def _settings(cfg: DictConfig) -> list[str]:
    """The settings of the top level, and those of its small mappings such as `budget`."""
    lines = []
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    groups = {*map(str, cfg.hydra.runtime.choices), "hydra"}
    for key, value in raw.items():
        if key in groups:
            continue
        inner = value if isinstance(value, dict) else {"": value}
        for name, setting in inner.items():
            place = f"{key}.{name}" if name else key
            shown = setting if isinstance(setting, str) else json.dumps(setting)
            lines.append(f"{place}={shown}")
    return lines
