"""The table that `make test-faults` ends with: each test says what it tried and what held."""

from collections.abc import Callable

import pytest

Tell = Callable[[str, int, int], None]


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Add a row to the table: what was tried, how many tries held, of how many."""

    def told(what: str, held: int, tried: int) -> None:
        record_property("row", (what, held, tried))

    return told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a line per row, in the order of their names."""
    rows = {
        tuple(value)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        for name, value in report.user_properties
        if name == "row"
    }
    if not rows:
        return
    terminalreporter.section("what was tried, and how often it held")
    width = max(len(what) for what, _, _ in rows)
    for what, held, tried in sorted(rows):
        terminalreporter.write_line(f"{what:<{width}}  {held:4d} of {tried:4d}")
