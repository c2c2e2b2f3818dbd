"""The leak audit of every training run on puzzles, before its first validation and at its end."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L

from trm_lightning.data import TextDataModule
from trm_lightning.files import write_json
from trm_lightning.leakage.outcome import Audit
from trm_lightning.leakage.verdict import audit_scores, verdict
from trm_lightning.training import TrainingModule
from trm_lightning.training.callbacks.leak_audit import RULE

_log = logging.getLogger(__name__)


class PuzzleAudit(L.Callback):
    """Audits a model with the weights that are validated, and its puzzles.

    What :class:`LeakAudit` is for text. A run that leaks trains on, but none of its puzzles counts
    as solved from then on: ``model.leaks`` is set. No random generator and no weight is touched.
    In a distributed run every process audits, on the same puzzles.

    Args:
        facts: of the run, see :func:`describe_run`; ``audit`` is added: the verdict, None where
            the audit is off.
        path: where the outcome of every check goes, as JSON.
        enabled: False only says that nothing was checked.
    """

    def __init__(self, facts: dict[str, Any], path: Path, enabled: bool = True) -> None:
        self.facts = facts
        self.path = path
        self.enabled = enabled
        self.known = Audit([])
        self._begun = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Audit before the first validation of the run, or after it was resumed."""
        if self._begun:
            return
        self._begun = True
        self.facts["audit"] = None
        if self.enabled:
            self._audit(trainer, pl_module)
        elif trainer.is_global_zero:
            _log.info("leak audit: off. Nothing has checked what this model can see.")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Audit what was trained, before its numbers are told as results."""
        if self._begun and self.enabled:
            self._audit(trainer, pl_module)

    def _audit(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        assert isinstance(module, TrainingModule)
        data: TextDataModule = trainer.datamodule  # type: ignore[attr-defined]
        start, failed = time.perf_counter(), set(self.known.failed)
        with module.scoring() as model:
            (name, audit), *_ = audit_scores(model, data).items()
        self.known = self.known.joined(audit.checks)
        self.facts["audit"] = verdict({name: self.known})
        module.model.leaks = self.facts["audit"]["leaks"]
        if module.model.leaks:
            module.renamed = {"copied": "solved"}
            module.scores = {
                key.replace("/solved", "/copied"): score for key, score in module.scores.items()
            }
        if not trainer.is_global_zero:
            return
        write_json(self.path, {**self.facts["audit"], "scores": {name: self.known.as_dict()}})
        new = [check for check in self.known.checks if check.name in {*self.known.failed} - failed]
        if new:
            lines = [f"leak audit: {len(new)} checks FAILED", *(f"  {check}" for check in new)]
            told = "What this run solves it is shown, or was trained on: its numbers say nothing."
            _log.info("%s", "\n".join([RULE, *lines, told, RULE]))
        elif not self.known.failed:
            n_passed = sum(check.passed is True for check in audit.checks)
            seconds = time.perf_counter() - start
            _log.info("leak audit: %d checks passed (%.1f s)", n_passed, seconds)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been found: a resumed run does not forget it."""
        return {"audit": self.known.as_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint's run had found."""
        self.known = Audit.from_dict(state_dict["audit"])
