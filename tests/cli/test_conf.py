"""Every config that the package ships composes and fits what it names."""

from pathlib import Path

import pytest

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import Call, check_call, compose_or_explain, composer, conf_dir
from trm_lightning.errors import UserError

COMMANDS = sorted(path.stem for path in conf_dir().glob("*.yaml"))


def call(command: str) -> Call:
    resolvers.register()
    return Call(command, conf_dir(), command, config_dir=None, multirun=False)


def groups_of(command: str) -> set[str]:
    with composer(call(command)) as composed:
        chosen = compose_or_explain(composed, []).hydra.runtime.choices
    return {str(group) for group in chosen if not str(group).startswith("hydra")}


def calls(command: str) -> list[list[str]]:
    """As few calls as it takes to make every choice of every group of the command once.

    The groups that a command has from trm-train's are tried there.
    """
    tried = groups_of("train") if command in ("compare", "tune") else set()
    groups = sorted(groups_of(command) - tried)
    with composer(call(command)) as composed:
        choices = {group: composed.choices(group) for group in groups}
        if "ray" not in composed.choices("hydra/launcher"):  # an extra
            choices["launcher"] = [name for name in choices.get("launcher", []) if name != "ray"]
    # These set keys of the model, data or schedule that they choose, and so stand alone.
    alone = [f"{group}={n}" for group in ("experiment", "debug") for n in choices.pop(group, [])]
    needed = max(map(len, choices.values()), default=0)
    return [[choice] for choice in alone] + [
        [f"{group}={names[i % len(names)]}" for group, names in choices.items() if names]
        for i in range(needed)
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_and_every_choice_compose_and_fit(command: str) -> None:
    for overrides in [[], *calls(command)]:
        try:
            check_call(call(command), overrides)
        except UserError as error:
            # What only the user can know, such as the path of a text, is the one thing to lack.
            lines = [line for line in error.what.splitlines() if "problems:" not in line]
            assert all("must be given" in line for line in lines), (overrides, error.what)


def test_conf_is_the_checkouts() -> None:
    assert conf_dir() == Path(__file__).resolve().parents[2] / "conf"
