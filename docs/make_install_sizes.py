"""Print what the package's dependencies take on disk, as the table of installation.md.

    python docs/make_install_sizes.py

Measured are the files of the distributions that are installed beside this interpreter; an extra
that is not there is said to be.
"""

import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def closure(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Return the distributions that requirements bring, by name, with all that those need.

    Raises:
        PackageNotFoundError: where one is not installed.
    """
    found: dict[str, Distribution] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        seen = name in found
        found[name] = distribution(wanted.name)
        if seen and not wanted.extras:
            continue
        needed = [Requirement(text) for text in found[name].requires or []]
        for extra in ("", *wanted.extras):
            waiting += [n for n in needed if not n.marker or n.marker.evaluate({"extra": extra})]
    return found


def megabytes(distributions: Iterable[Distribution]) -> float:
    """Return what the files of distributions take, without compiled bytecode."""
    files = (
        Path(str(part.locate_file(file)))
        for part in distributions
        for file in part.files or ()
        if file.suffix != ".pyc"
    )
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def main() -> None:
    """Print the table."""
    base = closure(PROJECT["dependencies"])
    print("| what | packages | MB |\n|---|--:|--:|")
    print(f"| all installations | {len(base)} | {megabytes(base.values()):,.0f} |")
    for name in ("torch", "numpy", "matplotlib", "grpcio", "lightning"):
        print(f"| of these, {name} itself | 1 | {megabytes([base[name]]):,.0f} |")
    for extra, requirements in PROJECT["optional-dependencies"].items():
        try:
            more = closure([*PROJECT["dependencies"], *requirements])
        except PackageNotFoundError as error:
            print(f"| `{extra}` | not measured: {error.name} is not installed | |")
            continue
        added = [part for name, part in more.items() if name not in base]
        print(f"| `{extra}` adds | {len(added)} | {megabytes(added):,.1f} |")


if __name__ == "__main__":
    main()
