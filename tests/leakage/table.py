"""Print what the audit says of every offender and every honest model of the tests, as a table.

Usage: PYTHONPATH=tests:tests/leakage python tests/leakage/table.py
"""

import time
from collections.abc import Callable

import numpy as np
import test_text_audit as functions
import torch
from honest import HONEST
from offenders import OFFENDERS, L, V

from trm_lightning import audit as audit_function
from trm_lightning.data import EvalWindows
from trm_lightning.leakage.audit import audit
from trm_lightning.leakage.held_out import HeldOut
from trm_lightning.leakage.outcome import Audit
from trm_lightning.leakage.verdict import decoder
from trm_lightning.models import LanguageModel

TEXT = np.random.default_rng(0).integers(1, V, size=400).astype(np.uint16)
HELD_OUT = HeldOut(TEXT, EvalWindows(TEXT, L, L // 2, batch_size=16))


def of_model(build: Callable[[], LanguageModel]) -> Audit:
    """Audit a model as ``trm-audit`` does, without training a copy."""
    model = build()
    return audit(model, held_out=HELD_OUT, decode=decoder(model))


def of_function(build: Callable[[], functions.Scorer]) -> Audit:
    """Audit a scoring function."""
    return audit_function(build(), vocab_size=functions.V, text=functions.TEXT)


def row(kind: str, name: str, meant: str, result: Audit, seconds: float) -> str:
    """Return a line of the table."""
    failed = ", ".join(result.failed).replace("_", " ") or "none"
    return f"| {kind} | {name} | {meant.replace('_', ' ')} | {failed} | {seconds:.1f} |"


def main() -> None:
    """Print both tables, with CPU seconds."""
    torch.set_num_threads(1)
    print("| | what it does | meant for it | checks that fail | CPU s |\n|---|---|---|---|---|")
    n_caught, n_silent = 0, 0
    for kind, offenders, try_it in (
        ("model", OFFENDERS, of_model),
        ("function", functions.OFFENDERS, of_function),
    ):
        for name, (build, meant) in offenders.items():
            start = time.process_time()
            result = try_it(build)  # type: ignore[operator]
            n_caught += meant in result.failed
            print(row(kind, name, meant, result, time.process_time() - start), flush=True)
    for kind, honest, try_it in (
        ("model", HONEST, of_model),
        ("function", functions.HONEST, of_function),
    ):
        for name, build in honest.items():
            start = time.process_time()
            result = try_it(build)  # type: ignore[operator]
            n_silent += result.passed
            print(row(kind, name, "–", result, time.process_time() - start), flush=True)
    n_offenders = len(OFFENDERS) + len(functions.OFFENDERS)
    n_honest = len(HONEST) + len(functions.HONEST)
    print(f"\n{n_caught} of {n_offenders} offenders caught by the check meant for them;")
    print(f"{n_silent} of {n_honest} honest ones pass every check.")


if __name__ == "__main__":
    main()
