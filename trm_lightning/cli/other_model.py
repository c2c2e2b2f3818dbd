"""The training command of a run, for another model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from trm_lightning.cli.compose import Call, compose_or_explain, composer, conf_dir
from trm_lightning.cli.config_check import unknown_keys
from trm_lightning.cli.overrides import merge, parse_overrides
from trm_lightning.cli.resume import stored_overrides

_OF_A_RUN = ("model", "resume", "hydra", "run_dir", "trust")


def words_for(model: str, arguments: list[str], folder: Path) -> list[str]:
    """Return the arguments that train another model with a run's settings.

    Settings of the run's model that the other does not have are left out, and those that an
    experiment brings are deleted.

    Args:
        model: the other choice of conf/model.
        arguments: of the command line that the run was started or resumed with.
        folder: of the run, with the overrides that it was first started with.

    Raises:
        UserError: when these settings cannot be composed.
    """
    flags: list[str] = []
    while arguments and arguments[0].startswith("--config-"):
        flags, arguments = [*flags, *arguments[:2]], arguments[2:]
    stored = stored_overrides(folder) if (folder / ".hydra" / "overrides.yaml").is_file() else []
    parsed = parse_overrides(merge([*stored, *arguments]))
    lines = {o.key_or_group: str(o.input_line) for o in parsed}
    others = [line for key, line in lines.items() if key.split(".")[0] not in _OF_A_RUN]
    words = [*others, f"model={model}"]
    with _no_other_hydra(), composer(_call(flags)) as composed:
        node = compose_or_explain(composed, words).model
    unknown = unknown_keys(node)
    shared = [f"model.{key}" for key in map(str, node) if key not in unknown]
    own = [line for key, line in lines.items() if key in shared]
    return [*flags, *words, *own, *(f"~model.{key}" for key in unknown)]


@contextmanager
def _no_other_hydra() -> Iterator[None]:
    """Put the Hydra that runs this process's job aside: there can be one at a time."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running


def _call(flags: list[str]) -> Call:
    """Return the call that these flags of its configs' places make."""
    given = dict(zip(flags[::2], flags[1::2], strict=False))
    own = given.get("--config-dir")
    return Call(
        command="train",
        conf=Path(given.get("--config-path", conf_dir())),
        config_name=given.get("--config-name", "train"),
        config_dir=Path(own) if own else None,
        multirun=False,
    )
