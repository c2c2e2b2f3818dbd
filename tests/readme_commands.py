"""Run the commands of a README, so that none of them is wrong.

Each ```bash block is run as it stands, in the order of the file, in a scratch folder that has the
repository's files but outputs/ of its own. A comment on the line before a block changes that:

    <!-- long -->   too long to run here: commands of this package are composed and checked, make
                    targets are looked up (make -n), and nothing is run
    <!-- skip -->   not touched: what cannot work here, such as cloning the repository

Usage: python tests/readme_commands.py README.md
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hydra._internal.utils import get_args_parser

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import Call, check_call
from trm_lightning.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(?:<!-- (?P<mark>\w+) -->\n)?```bash\n(?P<text>.*?)```", re.DOTALL)
COMMAND = re.compile(r"^(?:python -m trm_lightning\.|trm-)(?P<name>\w+)(?P<arguments>.*)")


def check(readme: Path) -> int:
    """Run or check all blocks; the number of those that failed."""
    failures = 0
    text = readme.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        for entry in REPOSITORY.iterdir():
            if entry.name not in ("outputs", ".git"):
                (Path(scratch) / entry.name).symlink_to(entry)
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start("text")) + 1
            failures += not _check_block(
                f"{readme.name}:{line}", block["mark"], block["text"], scratch
            )
    return failures


def _check_block(place: str, mark: str | None, text: str, scratch: str) -> bool:
    if mark == "skip":
        print(f"{place} skipped")
        return True
    start = time.monotonic()
    wrong = _run(text, scratch) if mark is None else _compose_all(text, scratch)
    verdict = "ok" if wrong is None else "FAILED"
    print(f"{place} {mark or 'run'}: {verdict} ({time.monotonic() - start:.1f} s)", flush=True)
    if wrong is not None:
        print(f"{text}\n{wrong}")
    return wrong is None


def _run(script: str, folder: str) -> str | None:
    """Run a script; None, or how it ended and the last of what it said."""
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode == 0:
        return None
    return f"{result.stdout[-3000:]}\nstatus {result.returncode}"


def _compose_all(text: str, folder: str) -> str | None:
    """Check a long block's commands without running them; None, or what is wrong with them.

    All in this process: importing the package takes longer than composing a config.
    """
    wrong = []
    for line in text.replace("\\\n", " ").splitlines():
        command = COMMAND.match(line.strip())
        if command:
            arguments = shlex.split(command["arguments"], comments=True)
            with contextlib.chdir(folder):
                wrong.append(_check_command(command["name"], arguments))
        elif line.startswith("make "):
            wrong.append(_run(line.replace("make ", "make -n ", 1), folder))
    return "\n".join(found for found in wrong if found is not None) or None


def _check_command(name: str, arguments: list[str]) -> str | None:
    """Compose and check what a command would run with; None, or what is wrong with it."""
    try:
        args = get_args_parser().parse_args(arguments)
        check_call(Call.parse(name, args), args.overrides)
    except UserError as error:
        return f"trm-{name}: {error}"
    except SystemExit:
        return f"trm-{name}: its flags cannot be read: {arguments}"
    return None


if __name__ == "__main__":
    resolvers.register()
    sys.exit(check(Path(sys.argv[1])) > 0)
