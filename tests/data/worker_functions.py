"""What workers are asked to do in the tests: apart, so that they import nothing large."""

import os
import signal

from trm_lightning.errors import UserError


class UnreadableError(Exception):
    """Cannot be unpickled: pickle knows nothing of keywords."""

    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


def first_letter(block: str) -> str:
    if block == "bad":
        raise UserError("A bad block.", "Mend it.")
    if block == "odd":
        raise UnreadableError(code=1)
    if block == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return block[0]
