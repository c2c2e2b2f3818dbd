"""Hydra overrides, `key=value`, as lists of text."""

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import OverrideParseException

from trm_lightning.errors import UserError


def parse_overrides(overrides: list[str]) -> list[Override]:
    """Parse Hydra overrides. Raises UserError for what is not one."""
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        raise UserError(
            f"cannot read the override `{error.override}`",
            "Overrides are written key=value. Quote a value that has spaces, commas or brackets "
            "twice, e.g. 'experiment_name=\"a, b\"'.",
        ) from error


def merge(overrides: list[str], without: str | None = None) -> list[str]:
    """The overrides with the last one given for each key, in the order of first mention.

    Args:
        overrides: Hydra overrides.
        without: a key to leave out.
    """
    last = {o.get_key_element(): str(o.input_line) for o in parse_overrides(overrides)}
    return [line for key, line in last.items() if key != without]


def of_loggers(overrides: list[str]) -> list[str]:
    """The overrides that choose and set up loggers, the choice first."""
    parsed = [
        o for o in parse_overrides(overrides) if str(o.key_or_group).split(".")[0] == "logger"
    ]
    return [str(o.input_line) for o in sorted(parsed, key=lambda o: o.key_or_group != "logger")]


def name_by_choices(overrides: list[str]) -> str:
    """An override that has a sweep's jobs named by what differs between them alone."""
    fixed = [o.key_or_group for o in parse_overrides(overrides) if not o.is_sweep_override()]
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(fixed)}]"


def variations(swept: list[Override]) -> list[list[str]]:
    """The first choice of every sweep, then each other choice alone."""
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        for o in swept
        if o.is_discrete_sweep()
        and not isinstance(o.value(), Glob)  # known to Hydra's loader alone
    ]
    first = [options[0] for options in choices]
    return [first] + [
        [*first[:i], option, *first[i + 1 :]]
        for i, options in enumerate(choices)
        for option in options[1:]
    ]
