"""The one exception type for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake in the user's input: shown on one screen without a stack trace, exit status 2.

    Args:
        what: what is wrong and where (file, key, value).
        hint: what to do about it; may be empty.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(f"{what}\n{hint}" if hint else what)
        self.what = what
        self.hint = hint
