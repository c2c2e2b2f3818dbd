"""Run the commands of a README, so that none of them is wrong.

Each ```bash block is run as it stands, in the order of the file, in a scratch folder that has the
repository's files but outputs/ of its own. A comment on the line before a block changes that:

    <!-- long -->   too long to run here: commands of this package are composed and checked, make
                    targets are looked up (make -n), and nothing is run
    <!-- skip -->   not touched: what cannot work here, such as cloning the repository

Usage: python tests/readme_commands.py README.md
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    script = text if mark is None else "\n".join(_checks(text))
    start = time.monotonic()
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=scratch,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    verdict = "ok" if result.returncode == 0 else f"FAILED with status {result.returncode}"
    print(f"{place} {mark or 'run'}: {verdict} ({time.monotonic() - start:.1f} s)")
    if result.returncode != 0:
        print(f"{text}\n{result.stdout[-3000:]}")
    return result.returncode == 0


def _checks(text: str) -> list[str]:
    """For each command of a long block the quick command that checks it."""
    checks = []
    for line in text.replace("\\\n", " ").splitlines():
        command = COMMAND.match(line.strip())
        if command:
            arguments = [command["name"], *shlex.split(command["arguments"], comments=True)]
            checks.append(f"python {shlex.quote(__file__)} --check {shlex.join(arguments)}")
        elif line.startswith("make "):
            checks.append(line.replace("make ", "make -n ", 1))
    return checks


def check_command(name: str, arguments: list[str]) -> None:
    """Compose and check what a command would run with."""
    from hydra._internal.utils import get_args_parser

    from trm_lightning.cli import resolvers
    from trm_lightning.cli.compose import Call, check_call

    resolvers.register()
    args = get_args_parser().parse_args(arguments)
    check_call(Call.parse(name, args), args.overrides)


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check_command(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(check(Path(sys.argv[1])) > 0)
