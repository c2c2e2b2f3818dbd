"""How mistakes are told: one screen on stderr, in the same form for every command."""

import difflib
import sys
from collections.abc import Iterable

from trm_lightning.cli import launch
from trm_lightning.errors import UserError
from trm_lightning.files import told_by_system
from trm_lightning.printable import printable


def show(command: str, mistake: UserError) -> None:
    """Print what is wrong and what to do; only the first of several processes speaks."""
    if launch.rank() > 0:
        return
    lines = [f"{command}: this cannot run.", "", *_indent(mistake.what)]
    if mistake.hint:
        lines += ["", *_indent(mistake.hint)]
    print("\n".join(lines), file=sys.stderr)


def _indent(text: str) -> list[str]:
    return [f"  {line}" for line in printable(text).splitlines()]


def cause_of(error: BaseException) -> UserError | None:
    """The UserError that `error` is or was raised from (Hydra wraps what a constructor raises).

    A disk that is full or takes nothing is one too, whoever met it.
    """
    current: BaseException | None = error
    while current is not None and not isinstance(current, UserError):
        current = current.__cause__
    return told_by_system(error) if current is None else current


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` with the known words nearest to `word`, or nothing.

    A dotted key is compared by its last part too: `lr` suggests `optimizer.lr`.
    """
    known = [key for key in known if not word.startswith(f"{key}.")]  # parents: no typo
    last = word.rsplit(".", 1)[-1]
    matches = [key for key in known if key.rsplit(".", 1)[-1] == last and key != word][:3]
    cutoff = 0.6 if len(word) < 5 else 0.7  # two letters changed over make 0.67 of `tmr`
    matches = matches or difflib.get_close_matches(word, known, n=1, cutoff=cutoff)
    if not matches:
        tails = {key.rsplit(".", 1)[-1]: key for key in known}
        matches = [tails[tail] for tail in difflib.get_close_matches(last, tails, n=1, cutoff=0.75)]
    return f"; did you mean {' or '.join(f'`{match}`' for match in matches)}?" if matches else ""


def combine(problems: list[str], hint: str) -> UserError:
    """One UserError for all problems found."""
    if len(problems) == 1:
        return UserError(problems[0], hint)
    listed = "\n".join(f"- {problem}" for problem in problems)
    return UserError(f"{len(problems)} problems:\n{listed}", hint)
