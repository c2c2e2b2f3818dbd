"""The exceptions for what the user can mend."""


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


class TrainingError(UserError):
    """What only training could find out, such as a loss that is no number: exit status 1."""

    exit_status = 1
