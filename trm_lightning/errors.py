"""The exceptions for what the user can mend, and for a process that is asked to end."""

import importlib.util
import signal


class UserError(Exception):
    """A mistake in the user's input: shown on one screen without a stack trace, exit status 2.

    Args:
        what: what is wrong and where (file, key, value).
        hint: what to do about it; may be empty.
    """

    exit_status = 2

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(f"{what}\n{hint}" if hint else what)
        self.what = what
        self.hint = hint


def need(module: str, extra: str) -> None:
    """Check that a library is installed that an extra of the package brings.

    Raises:
        UserError: with the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise UserError(f"This needs {module}.", f"pip install 'trm-lightning[{extra}]'")


class TrainingError(UserError):
    """What only training could find out, such as a loss that is no number: exit status 1."""

    exit_status = 1


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end, like Ctrl-C.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_status(self) -> int:
        """What shells report for a process that this signal ended."""
        return 128 + self.number


# Ctrl-C, an eviction, warnings before one, a closed terminal; those that this system has.
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
    if hasattr(signal, name)
)


def raise_stopped(number: int, frame: object) -> None:
    """Handle a signal by raising :class:`Stopped`."""
    raise Stopped(number)
