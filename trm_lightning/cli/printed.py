"""Commands as they are printed: they run as pasted, whatever the shell's state."""

import shlex
import shutil
import sys
from pathlib import Path


def shell_command(command: str, *arguments: str) -> str:
    """Return a command of the package as text for a shell.

    It names the interpreter that is running, relative to the working directory where it lies in
    it, so that no environment needs to be active.

    Args:
        command: such as ``train``, or another module to run such as ``tensorboard.main``.
        arguments: overrides and flags, unquoted.
    """
    module = command if "." in command else f"trm_lightning.{command}"
    return f"{_interpreter()} -m {shlex.join([module, *arguments])}"


def _interpreter() -> str:
    """Return the shortest name of this process's interpreter that a shell here understands."""
    own = Path(sys.executable)
    found = shutil.which("python")
    if found is not None and Path(found).absolute() == own.absolute():
        return "python"
    if own.is_relative_to(Path.cwd()):
        own = own.relative_to(Path.cwd())
    return shlex.quote(str(own))
