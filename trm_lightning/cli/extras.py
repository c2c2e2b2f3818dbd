"""Libraries that only some commands need, which come with an extra of the package."""

import importlib.util

from trm_lightning.errors import UserError


def need(module: str, extra: str) -> None:
    """Check that a module is installed.

    Raises:
        UserError: with the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise UserError(f"This needs {module}.", f"pip install 'trm-lightning[{extra}]'")
