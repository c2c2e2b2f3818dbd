"""The project's own files agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def test_locked_versions_are_in_the_ranges() -> None:
    """Of all that is needed, and of the tools; what other extras need is not locked."""
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    locked = {canonicalize_name(name): version for name, version in pairs}
    for text in [*PROJECT["dependencies"], *EXTRAS["dev"]]:
        wanted = Requirement(text)
        version = locked[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{text}, but {version} is locked"


def test_extras_that_errors_name_are_there() -> None:
    """Each ``need(module, extra)`` of the package, and the module is one that the extra brings."""
    found = {
        match.groups()
        for file in (REPOSITORY / "trm_lightning").rglob("*.py")
        for match in re.finditer(r'need\("(\w+)", "([\w-]+)"\)', file.read_text(encoding="utf-8"))
    }
    assert ("pyarrow", "parquet") in found
    for module, extra in found:
        assert module in {Requirement(text).name for text in EXTRAS[extra]}


@pytest.mark.parametrize("name", ["CITATION.cff", "CHANGELOG.md"])
def test_the_version_is_the_same_everywhere(name: str) -> None:
    assert PROJECT["version"] in (REPOSITORY / name).read_text(encoding="utf-8")
