"""Sections that several kinds of report share."""

from pathlib import Path
from typing import Any

import yaml

from trm_lightning.cli.printed import shell_command
from trm_lightning.reports.document import Listing, Section, Table
from trm_lightning.reports.folders import read_stored
from trm_lightning.runs.results_file import VERDICT
from trm_lightning.runs.shapes import COUNT, FLAG, TEXT, Maybe, Shape
from trm_lightning.runs.stored_text import read_yaml_list

AUDIT = "audit.json"
PASSED = {True: "passed", False: "FAILED", None: "does not apply"}
_CHECK: Shape = {
    "name": TEXT, "passed": Maybe(FLAG), "detail": TEXT, "position": Maybe(COUNT),
    "condition?": TEXT, "suspicious?": FLAG,
}  # fmt: skip
_AUDIT: Shape = {**VERDICT, "scores": {"*": {"checks": [_CHECK]}}}
LEAKS = (
    "THIS MODEL SEES WHAT IT IS SCORED ON: it failed the leak audit, so none of its numbers is a "
    "perplexity."
)


def audit_section(folder: Path, verdict: dict[str, Any] | None, known: bool) -> Section:
    """Tell what the leak audit of a run found.

    Args:
        folder: of the run; the outcome of each check is in its ``audit.json``.
        verdict: what the run's results keep of it; None where it was off.
        known: whether the results say anything about an audit.
    """
    if not (folder / AUDIT).is_file():
        if verdict is not None:
            return Section("Leak audit", verdict_text(verdict))
        off = "It was switched off for this run." if known else "This run has not been audited."
        how = shell_command("audit", f"run={folder}", f"json={folder / AUDIT}")
        return Section("Leak audit", f"{off} Make up for it:", listings=[Listing("", how)])
    content = read_stored(folder / AUDIT, _AUDIT)
    tables = [
        Table(
            name,
            ["Check", "Outcome", "First token", "What it means"],
            [
                [
                    check["name"].replace("_", " "),
                    "suspicious" if check.get("suspicious") else PASSED[check["passed"]],
                    "–" if check["position"] is None else str(check["position"]),
                    check["detail"],
                ]
                for check in audit["checks"]
            ],
            n_text=4,
        )
        for name, audit in content["scores"].items()
    ]
    return Section("Leak audit", verdict_text(content), tables=tables)


def verdict_text(verdict: dict[str, Any]) -> str:
    """Return the outcome of an audit in a line."""
    if verdict["passed"]:
        suspicious = {name for names in verdict.get("suspicious", {}).values() for name in names}
        told = ", ".join(sorted(suspicious)).replace("_", " ")
        return f"No check failed; a suspicion is left ({told})." if told else "All checks passed."
    failed = [
        f"{name}: {', '.join(checks).replace('_', ' ')}"
        for name, checks in verdict["failed"].items()
        if checks
    ]
    return f"Checks FAILED ({'; '.join(failed)})."


def repeat_section(
    command: str, environment: dict[str, Any], config: dict[str, Any] | None
) -> Section:
    """Tell how to get the same again: command, surroundings and config."""
    listings = [Listing("Command", command)]
    if config is not None:
        text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
        listings.append(Listing("Config", text.rstrip(), folded=True))
    return Section("To repeat it", tables=[environment_table(environment)], listings=listings)


def environment_table(environment: dict[str, Any]) -> Table:
    """Tell on what the numbers were made."""
    packages = ", ".join(f"{k} {v}" for k, v in environment["packages"].items())
    rows = [
        ["Code", environment["git_commit"] or "not from a git checkout"],
        ["Python", environment["python"]],
        ["Packages", packages],
        ["Processor", f"{environment['cpu']}, threads: {environment['threads']}"],
        ["GPU", environment["gpu"] or "none"],
        ["System", environment["platform"]],
    ]
    return Table("Environment", ["", ""], rows, n_text=2)


def training_command(folder: Path, environment: dict[str, Any]) -> str:
    """Return the command that a run was started with, less what resumed it.

    Hydra's record is preferred: for a job of a sweep, the command line was that of the sweep.
    """
    record = folder / ".hydra" / "overrides.yaml"
    given = read_yaml_list(record) if record.is_file() else environment["command"][1:]
    overrides = [word for word in given if not word.startswith("resume=")]
    return shell_command("train", *overrides)
