"""`--help`: what a command does, what can be chosen, where results go."""

import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from trm_lightning.cli.compose import Call, Composer, compose_or_explain, composer, hydra_values
from trm_lightning.cli.printed import shell_command
from trm_lightning.cli.yaml_comments import key_comments

_WIDTH = 100
_COLUMN = 34  # where descriptions begin
CONTROL = "leaky_"
DESCRIBED_GROUPS = ("model", "data", "optimizer", "schedule")


def show_help(call: Call, doc: str, overrides: list[str]) -> None:
    """Print the help of a command, with the choices and settings that `overrides` lead to."""
    with composer(call) as composed:
        cfg = compose_or_explain(composed, overrides)
        groups = _groups(composed, cfg.hydra.runtime.choices)
        with hydra_values(cfg) as results:
            settings = _settings(call, cfg)
    paragraphs = inspect.cleandoc(doc).split("\n\n")
    name = f"trm-{call.command}"
    here = shell_command(call.command)
    examples = [text for text in paragraphs if text.startswith("Examples:")]
    parts = [
        textwrap.fill(" ".join(paragraphs[0].split()), _WIDTH),
        f"Usage: {here} [group=choice …] [key=value …] [--multirun] [--cfg job]",
        *(_example_lines(text, name, here) for text in examples),
        *(["Groups (* is chosen):\n" + "\n".join(groups)] if groups else []),
        "Settings:\n" + "\n".join(settings),
        *([f"Results: a folder of its own for each run, here {results}"] if results.name else []),
        f"More: `{here} --cfg job` shows every setting, `--hydra-help` the other flags.\n"
        f"Your own configs: --config-dir FOLDER. In an active environment the command is also "
        f'{name}; tab completion in bash: eval "$({name} -sc install=bash)"',
    ]
    print("\n\n".join(parts), flush=True)


def _example_lines(text: str, name: str, here: str) -> str:
    """The examples, as they run here."""
    heading, *lines = text.splitlines()
    return "\n".join([heading, *(f"  {line.strip().replace(name, here, 1)}" for line in lines)])


def _groups(composed: Composer, chosen: DictConfig) -> list[str]:
    """One entry for each group that the command uses; the audit's controls stand apart."""
    lines = []
    for group, choice in reversed(list(chosen.items())):  # Hydra keeps the last of the file first
        group = str(group)
        if group.split("/")[0] == "hydra":
            continue
        names = composed.choices(group)
        controls = [name for name in names if name.startswith(CONTROL)]
        shown = [f"{n}*" if n == choice else n for n in names if n not in controls]
        lines.append(_filled(f"  {group}={' | '.join(shown)}", "    "))
        if controls:
            text = f"    controls of the leak audit, which fails them: {' | '.join(controls)}"
            lines.append(_filled(text, "      "))
    return lines


def _settings(call: Call, cfg: DictConfig) -> list[str]:
    """The command's settings, then those of its chosen models, data and the like."""
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    choices = {str(group): str(choice) for group, choice in cfg.hydra.runtime.choices.items()}
    places = {group: group.rpartition("@")[2] for group in choices}  # model@models.ar
    chosen = {place.split(".")[0] for place in places.values()}
    own = {key: value for key, value in raw.items() if key not in {*chosen, "hydra"}}
    lines = _described(own, "", _comments(call.conf, call.config_name))
    for group in sorted(reversed(choices), key=_rank):
        node, choice = OmegaConf.select(cfg, places[group]), choices[group]
        if _rank(group) < len(DESCRIBED_GROUPS) and isinstance(node, DictConfig):
            values: Any = OmegaConf.to_container(node, resolve=False)
            comments = _comments(call.conf / DESCRIBED_GROUPS[_rank(group)], choice)
            lines += ["", f"Settings of {group}={choice}:"]
            lines += _described(values, f"{places[group]}.", comments)
    return lines


def _rank(group: str) -> int:
    """Where a group stands among those whose settings are described; after them if it is none."""
    name = group.partition("@")[0]
    known = name in DESCRIBED_GROUPS
    return DESCRIBED_GROUPS.index(name) if known else len(DESCRIBED_GROUPS)


def _described(values: dict[str, Any], prefix: str, comments: dict[str, str]) -> list[str]:
    """Settings with their comments; mappings are listed key by key."""
    lines = []
    for key, value in values.items():
        if key.startswith("_") or (prefix and isinstance(value, str) and "${oc." in value):
            continue
        if isinstance(value, dict) and value:
            if key in comments:
                lines.append(f"  {prefix}{key}: {comments[key]}")
            inner = {k[len(key) + 1 :]: c for k, c in comments.items() if k.startswith(f"{key}.")}
            lines += _described(value, f"{prefix}{key}.", inner)
        else:
            lines.append(_setting(prefix + key, value, comments.get(key, "")))
    return lines


def _setting(place: str, value: Any, comment: str) -> str:
    """One setting with its value, and its comment beside it."""
    shown = value if isinstance(value, str) else json.dumps(value)
    head = f"  {place}={shown}"
    if not comment:
        return head
    text = textwrap.wrap(comment, _WIDTH - _COLUMN)
    if len(head) < _COLUMN:
        text[0] = f"{head:{_COLUMN}}{text[0]}"
    else:
        text[0] = f"{head}\n{' ' * _COLUMN}{text[0]}"
    return f"\n{' ' * _COLUMN}".join(text)


def _comments(folder: Path, name: str) -> dict[str, str]:
    """The comments of a YAML file, and of those beside it that it builds on."""
    file = folder / f"{name}.yaml"
    if not file.is_file():  # from a --config-dir
        return {}
    found: dict[str, str] = {}
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    for base in config.get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            found |= _comments(folder, base)
    return found | key_comments(file)


def _filled(text: str, indent: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
