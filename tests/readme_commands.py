"""Check the documentation: its commands run, and its links lead somewhere.

Each block of ```bash or ```python is run as it stands, in the order of its page, in a scratch
folder of the page's own that has the repository's files but not its outputs/; two pages at a time.
A comment on the line before a block changes that:

    <!-- long -->   too long to run here: commands of this package are composed and checked, make
                    targets are looked up (make -n), Python is compiled, and nothing is run
    <!-- skip -->   not touched: what cannot work here, such as cloning the repository

Relative links and pictures must exist, with their anchors.

Usage: python tests/readme_commands.py README.md docs
"""

import contextlib
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from hydra._internal.utils import get_args_parser

from trm_lightning.cli import resolvers
from trm_lightning.cli.compose import Call, check_call
from trm_lightning.errors import UserError

N_PAGES = 2  # checked at a time
REPOSITORY = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:<!-- (?P<mark>\w+) -->\n)?```(?P<language>bash|python)\n(?P<text>.*?)```", re.DOTALL
)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^(?:python -m trm_lightning\.|trm-)(?P<name>\w+)(?P<arguments>.*)")
LINK = re.compile(r"\]\((?P<link>[^)\s]+)\)|(?:src|href)=\"(?P<html>[^\"]+)\"")
HEADING = re.compile(r"^#{1,6} +(?P<title>.+?) *$", re.MULTILINE)


def pages(given: Iterable[str]) -> list[Path]:
    """Return the Markdown files among the paths and in the folders among them."""
    found: list[Path] = []
    for path in map(Path, given):
        found += sorted(path.rglob("*.md")) if path.is_dir() else [path]
    return found


def check(page: Path) -> int:
    """Check a page; return how many of its links and blocks are wrong."""
    text = page.read_text(encoding="utf-8")
    wrong = broken_links(page, text)
    for problem in wrong:
        print(f"{page}: FAILED: {problem}")
    return len(wrong) + _check_blocks(page, text)


def broken_links(page: Path, text: str) -> list[str]:
    """Return what is wrong with the relative links of a page."""
    problems = []
    for match in LINK.finditer(FENCED.sub("", text)):
        link = match["link"] or match["html"]
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists():
            problems.append(f"{link}: there is no {target}")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            problems.append(f"{link}: {target} has no such heading")
    return problems


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in HEADING.finditer(FENCED.sub("", text)):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["title"]).lower()
        slug = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def _check_blocks(page: Path, text: str) -> int:
    """Run or check a page's blocks in order; return how many failed."""
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        for entry in REPOSITORY.iterdir():
            if entry.name not in ("outputs", ".git"):
                (Path(scratch) / entry.name).symlink_to(entry)
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start("text")) + 1
            failures += not _check_block(f"{page}:{line}", block, scratch)
    return failures


def _check_block(place: str, block: re.Match[str], folder: str) -> bool:
    """Check one block and say how it went; return whether it is right."""
    mark, text = block["mark"], block["text"]
    if mark == "skip":
        print(f"{place} skipped")
        return True
    start = time.monotonic()
    if block["language"] == "python":
        wrong = _run_python(text, folder) if mark is None else _compile(text)
    else:
        wrong = _run_bash(text, folder) if mark is None else _compose_all(text, folder)
    verdict = "ok" if wrong is None else "FAILED"
    print(f"{place} {mark or 'run'}: {verdict} ({time.monotonic() - start:.1f} s)", flush=True)
    if wrong is not None:
        print(f"{text}\n{wrong}")
    return wrong is None


def _run_bash(script: str, folder: str) -> str | None:
    return _run(["bash", "-euo", "pipefail", "-c", script], folder)


def _run_python(script: str, folder: str) -> str | None:
    return _run([sys.executable, "-c", script], folder)


def _run(command: list[str], folder: str) -> str | None:
    """Run a command; return None, or how it ended and the last of what it said."""
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode == 0:
        return None
    return f"{result.stdout[-3000:]}\nstatus {result.returncode}"


def _compile(script: str) -> str | None:
    try:
        compile(script, "block", "exec")
    except SyntaxError as error:
        return str(error)
    return None


def _compose_all(text: str, folder: str) -> str | None:
    """Check a long block's commands without running them; return None, or what is wrong.

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
            wrong.append(_run_bash(line.replace("make ", "make -n ", 1), folder))
    return "\n".join(found for found in wrong if found is not None) or None


def _check_command(name: str, arguments: list[str]) -> str | None:
    """Compose and check what a command would run with; return None, or what is wrong."""
    try:
        args = get_args_parser().parse_args(arguments)
        check_call(Call.parse(name, args), args.overrides)
    except UserError as error:
        return f"trm-{name}: {error}"
    except SystemExit:
        return f"trm-{name}: its flags cannot be read: {arguments}"
    return None


def main(given: Iterable[str]) -> int:
    """Check pages; return the exit status: 1 where anything is wrong."""
    longest_first = sorted(pages(given), key=_n_run, reverse=True)
    with multiprocessing.Pool(N_PAGES, resolvers.register) as pool:
        return int(sum(pool.imap_unordered(check, longest_first)) > 0)


def _n_run(page: Path) -> int:
    """Return how many blocks of a page are run."""
    blocks = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return sum(block["mark"] is None for block in blocks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
