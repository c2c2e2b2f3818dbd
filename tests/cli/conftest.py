"""The small command of ``cli_toy``, run without waiting for its imports."""

from functools import partial

import pytest
from cli_toy import Run, run_toy
from warm import WarmProcess


@pytest.fixture(scope="session")
def run(warm: WarmProcess) -> Run:
    """Run it in a folder, with its arguments and, by name, environment variables."""
    return partial(run_toy, warm)
