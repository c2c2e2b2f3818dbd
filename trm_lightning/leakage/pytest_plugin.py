"""A fixture for the tests of a project of yours: ``leak_audit``. Installed with the package."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def leak_audit() -> Callable[..., Any]:
    """Give a function that audits a scoring function, and fails the test where a check fails.

    It takes what :func:`trm_lightning.audit` takes, and returns the audit. A suspicion does not
    fail.

    Example::

        def test_no_leak(leak_audit):
            leak_audit(my_model.score, vocab_size=65, text=ids)
    """
    from trm_lightning import audit

    def check(log_probs: Any, **settings: Any) -> Any:
        found = audit(log_probs, **settings)
        if not found.passed:
            pytest.fail(f"the scores leak, or are no probabilities\n{found}", pytrace=False)
        return found

    return check
