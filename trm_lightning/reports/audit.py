"""The report of an audit: the verdict, what moved where, and how to see it again."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from trm_lightning.leakage.command import finding_lines, first_example
from trm_lightning.leakage.example import Example
from trm_lightning.leakage.outcome import CONDITIONS, Audit
from trm_lightning.leakage.subjects import Audited
from trm_lightning.reports.colors import FAMILIES, INK
from trm_lightning.reports.document import Listing, Number, Picture, Report, Section, Table
from trm_lightning.reports.page import write_report
from trm_lightning.reports.plots import new_axes
from trm_lightning.reports.sections import PASSED, environment_table
from trm_lightning.runs.environment import environment

FAILED = (
    "A check FAILED: the scores are no likelihoods, and an exponential of their mean is no "
    "perplexity."
)
CAPTION = (
    "By how much the score of each token moves when a token behind the dotted line is changed. "
    "Scores before the line may not move at all, nor that of the token itself."
)
SMALLEST = 1e-9  # nats that are drawn


def write_audit(audited: Audited, folder: Path, command: str) -> list[Path]:
    """Write the report of an audit into ``folder``; return the two pages.

    Args:
        audited: what was found.
        folder: is made.
        command: that repeats it.
    """
    return write_report(audit_report(audited, command), folder)


def audit_report(audited: Audited, command: str) -> Report:
    """Return the report of an audit."""
    checks = [check for audit in audited.audits.values() for check in audit.checks]
    return Report(
        title="Leak audit",
        subtitle=audited.title,
        numbers=[
            Number("failed", str(audited.n_failed)),
            Number("passed", str(sum(check.passed is True for check in checks))),
            Number("suspicions", str(sum(check.suspicious for check in checks))),
        ],
        sections=[
            *(_section(audited, name, audit) for name, audit in audited.audits.items()),
            Section(
                "To repeat it",
                tables=[environment_table(environment())],
                listings=[Listing("Command", command)],
            ),
        ],
        verdict=[audited.outcome],
        warning=audited.warning or (FAILED if audited.n_failed else ""),
    )


def _section(audited: Audited, name: str, audit: Audit) -> Section:
    """Tell the checks of one score by condition, and show its first finding."""
    tables = []
    for condition, meaning in CONDITIONS.items():
        own = [check for check in audit.checks if check.condition == condition]
        rows = [
            [
                check.name.replace("_", " "),
                "suspicious" if check.suspicious else PASSED[check.passed],
                "–" if check.position is None else str(check.position),
                check.detail,
            ]
            for check in own
        ]
        if rows:
            header = ["Check", "Outcome", "First token", "What was found, or what a pass means"]
            tables.append(Table(f"{condition}: {meaning}", header, rows, n_text=4))
    found = first_example(audit)
    pictures, listings = [], []
    if found is not None:
        check, example = found
        listings.append(
            Listing(check.replace("_", " "), "\n".join(finding_lines(audited, name)[2:]))
        )
        if example.kind == "moves":
            pictures.append(Picture(f"moves {name}", CAPTION, moves_figure(example)))
    return Section(name, pictures=pictures, tables=tables, listings=listings)


def moves_figure(example: Example) -> Figure:
    """Draw by how much each score moves, on a logarithmic axis, and where tokens are changed."""
    figure, axes = new_axes("What moves", "token", "nats")
    n, color = len(example.profile), FAMILIES["trm"].color
    moved = [max(difference, SMALLEST) for difference in example.profile]
    axes.vlines(range(n), SMALLEST, moved, color=color, linewidth=1.2)
    axes.plot(range(n), moved, "o", color=color, markersize=3)
    axes.axvline(example.changed_at - 0.5, color=INK, linestyle=":", linewidth=1)
    axes.set_yscale("log")
    axes.set_ylim(SMALLEST / 2, max(*moved, 1.0) * 2)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
