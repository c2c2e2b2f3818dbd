"""What workers are asked to do in the tests: apart, so that they import nothing large."""

import os
import signal

from trm_lightning.errors import UserError


def first_letter(block: str) -> str:
    if block == "bad":
        raise UserError("A bad block.", "Mend it.")
    if block == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return block[0]
