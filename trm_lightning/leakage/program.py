"""A program, in any language, that scores texts: ids on its standard input, numbers on its output.

Each line that it reads is a text, ids with blanks between them; each line that it writes has the
nats (or the log-probability) of every token of that text.
"""

import shlex
import subprocess
import threading
from types import TracebackType

import torch
from torch import Tensor

from trm_lightning.errors import UserError

SECONDS = 60.0  # until a program that does not answer is given up
SHOWN = 200  # characters of an answer that is shown


class ProgramScorer:
    """Scores texts by a program that stays open between them.

    A program that scores one text and ends can be called in a loop:
    ``sh -c 'while read -r ids; do echo "$ids" | ./score; done'``.

    Args:
        command: the program and its arguments, as in a shell; it is started when a text is scored.
        seconds: to wait for an answer.
    """

    def __init__(self, command: str, seconds: float = SECONDS) -> None:
        self.command = command
        self.seconds = seconds
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, ids: Tensor) -> Tensor:
        """Score ids (N,); return as many numbers as the program wrote, in float64.

        Raises:
            UserError: where the program cannot be started, ends, takes too long, or writes
                something else than numbers.
        """
        process = self._open()
        assert process.stdin is not None and process.stdout is not None
        late = threading.Timer(self.seconds, process.kill)
        late.start()
        try:
            process.stdin.write(" ".join(map(str, ids.tolist())) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            in_time = late.is_alive()
            late.cancel()
        if not answer:
            raise UserError(self._silent(in_time), "It must answer each line that it reads by one.")
        try:
            return torch.tensor([float(word) for word in answer.split()], dtype=torch.float64)
        except ValueError as error:
            raise UserError(
                f"program={self.command} wrote something else than numbers: "
                f"{answer[:SHOWN].rstrip()!r}",
                "It must write the nats of each token, with blanks between them.",
            ) from error

    def _open(self) -> "subprocess.Popen[str]":
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    shlex.split(self.command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            except (OSError, ValueError) as error:
                raise UserError(f"program={self.command} cannot be started: {error}") from error
        return self._process

    def _silent(self, in_time: bool) -> str:
        """Say why there is no answer."""
        assert self._process is not None
        if not in_time:
            return f"program={self.command} gave no answer in {self.seconds:.0f} s."
        status = self._process.wait()
        return f"program={self.command} ended without an answer (exit status {status})."

    def __enter__(self) -> "ProgramScorer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the program."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
