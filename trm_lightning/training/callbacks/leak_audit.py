"""The leak audit of every training run, before its first validation."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L

from trm_lightning.data import TextDataModule
from trm_lightning.files import write_json
from trm_lightning.leakage.audit import Audit
from trm_lightning.leakage.verdict import GIVEN_THE_ANSWER, audit_scores, verdict
from trm_lightning.training import TrainingModule

RULE = "=" * 88
_log = logging.getLogger(__name__)


class LeakAudit(L.Callback):
    """Audits the model, in the cheap form, with the weights that are validated.

    A model that leaks trains on, but none of its numbers is called a perplexity from then on:
    ``model.leaks`` is set. No random generator and no weight is touched, so a run trains the same,
    bit for bit, with and without it. In a distributed run every process audits, since all of them
    must call the numbers the same.

    Args:
        facts: of the run, see :func:`describe_run`; ``audit`` is added: the verdict, None where
            the audit is off. Checkpoints and ``results.json`` take it from there.
        path: where the outcome of every check goes, as JSON.
        enabled: False only says that nothing was checked.
    """

    def __init__(self, facts: dict[str, Any], path: Path, enabled: bool = True) -> None:
        self.facts = facts
        self.path = path
        self.enabled = enabled
        self._done = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Audit before the first validation of the run, or after it was resumed."""
        if self._done:
            return
        self._done = True
        self.facts["audit"] = None
        if not self.enabled:
            self._tell(trainer, "leak audit: off. Nothing has checked what this model can see.")
            return
        assert isinstance(pl_module, TrainingModule)
        data: TextDataModule = trainer.datamodule  # type: ignore[attr-defined]
        start = time.perf_counter()
        with pl_module.scoring() as model:
            audits = audit_scores(model, data, thorough=False)
            is_likelihood = model.is_likelihood
        self.facts["audit"] = verdict(audits)
        pl_module.model.leaks = self.facts["audit"]["leaks"]
        if trainer.is_global_zero:
            scores = {name: audit.as_dict() for name, audit in audits.items()}
            write_json(self.path, {**self.facts["audit"], "scores": scores})
        self._tell(trainer, report(audits, is_likelihood, time.perf_counter() - start))

    def _tell(self, trainer: L.Trainer, text: str) -> None:
        if trainer.is_global_zero:
            _log.info("%s", text)


def report(audits: dict[str, Audit], is_likelihood: bool, seconds: float) -> str:
    """Return one line where all is well, a banner where it is not."""
    n_passed = sum(check.passed is True for audit in audits.values() for check in audit.checks)
    if all(audit.passed for audit in audits.values()):
        return f"leak audit: {n_passed} checks passed ({seconds:.1f} s)"
    lines = [RULE]
    if not is_likelihood:
        lines.append(GIVEN_THE_ANSWER)
    for name, audit in audits.items():
        failed = [f"  {check}" for check in audit.checks if check.passed is False]
        outcome = f"{len(failed)} checks FAILED:" if failed else "all checks passed"
        lines += [f"leak audit of {name}: {outcome}", *failed]
        if failed and name.startswith("ppl"):
            lines.append("This model sees what it is scored on: its numbers are no perplexities.")
    return "\n".join([*lines, RULE])
