"""The leak audit of every training run: of the model, and of the calls that are printed."""

import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from trm_lightning.data import TextDataModule
from trm_lightning.evaluation import Score
from trm_lightning.files import write_json
from trm_lightning.leakage.held_out import below_floor, far_below_training
from trm_lightning.leakage.outcome import Audit, Check
from trm_lightning.leakage.printed import CallWatch
from trm_lightning.leakage.verdict import GIVEN_THE_ANSWER, audit_scores, verdict
from trm_lightning.models import LanguageModel
from trm_lightning.training import TrainingModule

RULE = "=" * 88
_log = logging.getLogger(__name__)


class LeakAudit(L.Callback):
    """Audits what is printed, with the weights that are validated.

    Before the first validation the model is tried in the cheap form. In every validation and test,
    some of the very calls whose sum is printed are tried with other tokens (:class:`CallWatch`),
    and the sum is compared with what the text must cost. When training ends, the audit is made
    in its thorough form.

    A model that leaks trains on, but none of its numbers is called a perplexity from then on:
    ``model.leaks`` is set. No random generator, weight or buffer is touched, so a run trains the
    same, bit for bit, with and without it. Processes of a distributed run share what they find.

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
        self.audits: dict[str, Audit] = {}
        self._watch: CallWatch | None = None
        self._begun = False

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Audit before the first validation of the run, or after it was resumed; watch each."""
        self._begin(trainer, _training_module(pl_module), trainer.num_val_batches)

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Watch the test as well."""
        self._begin(trainer, _training_module(pl_module), trainer.num_test_batches)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Conclude from the calls that were tried, and from their sum."""
        self._conclude(trainer, _training_module(pl_module))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """As after a validation."""
        self._conclude(trainer, _training_module(pl_module))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Audit thoroughly what was trained, before its numbers are told as results."""
        if self._begun and self.enabled:
            self._audit(trainer, _training_module(pl_module), thorough=True)

    def _begin(
        self, trainer: L.Trainer, module: TrainingModule, n_batches: list[int | float]
    ) -> None:
        if not self._begun:
            self._begun = True
            self.facts["audit"] = None
            if not self.enabled:
                _tell(trainer, "leak audit: off. Nothing has checked what this model can see.")
            else:
                self._audit(trainer, module, thorough=False)
        if self.enabled:
            n = int(sum(n_batches))
            turn = module.batches_seen // max(1, int(trainer.val_check_batch or 1))
            self._watch = CallWatch(module.model)
            self._watch.begin({0, 1 + turn % max(1, n - 2), n - 1}, turn)
            module.scorers = self._watch.scorers

    def _audit(self, trainer: L.Trainer, module: TrainingModule, thorough: bool) -> None:
        """Try the model, and the calls of the validation where ``thorough``."""
        data: TextDataModule = trainer.datamodule  # type: ignore[attr-defined]
        start = time.perf_counter()
        with module.scoring() as model:
            claimed = _claimed_names(model)
            audits = audit_scores(model, data, trained=False, thorough=thorough)
        found = {claimed[name]: audit.checks for name, audit in audits.items()}
        if self._add(trainer, module, found) and not self._failed:
            form = "thorough leak audit" if thorough else "leak audit"
            n_passed = sum(check.passed is True for checks in found.values() for check in checks)
            _tell(
                trainer, f"{form}: {n_passed} checks passed ({time.perf_counter() - start:.1f} s)"
            )

    def _conclude(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Add what the watched calls of a text showed, and what their sum shows."""
        if self._watch is None:
            return
        claimed = _claimed_names(module.model)
        found: dict[str, list[Check]] = {name: [] for name in claimed.values()}
        for name, findings in self._watch.findings.items():
            tried = dict.fromkeys(("printed_scores", "normalised")) | findings
            found[claimed[name]] += [Check.of(check, finding) for check, finding in tried.items()]
        for key, score in module.scores.items():
            split, _, name = key.partition("/")
            assert isinstance(score, Score)  # of puzzles: see PuzzleAudit
            found[claimed[name]] += _plausibility(trainer, module, split, score)
        self._watch = None
        module.scorers = module.model.scorers
        self._add(trainer, module, found)

    def _add(
        self, trainer: L.Trainer, module: TrainingModule, found: dict[str, list[Check]]
    ) -> bool:
        """Join what was found with what is known, and act on it; return whether it was told."""
        before = {name: set(audit.failed + audit.suspicious) for name, audit in self.audits.items()}
        known = self.audits
        for part in _shared(trainer, found):
            for name, checks in part.items():
                known[name] = known.get(name, Audit([])).joined(checks)
        self.facts["audit"] = verdict(known)
        _set_leaks(module, self.facts["audit"]["leaks"])
        if trainer.is_global_zero:
            scores = {name: audit.as_dict() for name, audit in known.items()}
            write_json(self.path, {**self.facts["audit"], "scores": scores})
        new = {
            name: [
                check
                for check in audit.checks
                if (check.passed is False or check.suspicious)
                and check.name not in before.get(name, ())
            ]
            for name, audit in known.items()
        }
        if any(new.values()):
            _tell(trainer, report(new, module.model.is_likelihood))
            return False
        return True

    @property
    def _failed(self) -> bool:
        return any(audit.failed for audit in self.audits.values())

    def state_dict(self) -> dict[str, Any]:
        """Return what has been found: a resumed run does not forget it."""
        return {"audits": {name: audit.as_dict() for name, audit in self.audits.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what a checkpoint's run had found."""
        for name, stored in state_dict["audits"].items():
            known = self.audits.get(name, Audit([]))
            self.audits[name] = known.joined(Audit.from_dict(stored).checks)


def report(found: dict[str, list[Check]], is_likelihood: bool) -> str:
    """Return a banner of what was found, by the name of the score."""
    lines = [RULE]
    if not is_likelihood:
        lines.append(GIVEN_THE_ANSWER)
    for name, checks in found.items():
        n_failed = sum(check.passed is False for check in checks)
        outcome = f"{n_failed} checks FAILED" if n_failed else "a suspicion" if checks else "passed"
        lines += [f"leak audit of {name}: {outcome}", *(f"  {check}" for check in checks)]
        if n_failed and name.startswith("ppl"):
            lines.append("This model sees what it is scored on: its numbers are no perplexities.")
    return "\n".join([*lines, RULE])


def _plausibility(
    trainer: L.Trainer, module: TrainingModule, split: str, score: Score
) -> list[Check]:
    """Compare a score with the entropy of its text, and with the loss of training."""
    checks, n = [], score.counts.tokens
    data: TextDataModule = trainer.datamodule  # type: ignore[attr-defined]
    floor = data.splits[split].entropy_floor_nats
    if floor is not None:
        checks.append(Check.of("entropy_floor", below_floor(score.nats, n, n * floor)))
    if trainer.state.fn == TrainerFn.FITTING and module.record and module.record.nats:
        # A loss above that of guessing says that training fails, not what text is worth.
        trained = min(float(module.record.nats[0]), math.log(module.model.vocab_size))
        finding = far_below_training(score.nats_per_token, trained)
        checks.append(Check.of("training_gap", finding))
    return checks


def _claimed_names(model: LanguageModel) -> dict[str, str]:
    """Return the names that the model's scorers claim, by the names that they go by now."""
    leaks, now = model.leaks, list(model.scorers())
    model.leaks = False
    claimed = list(model.scorers())
    model.leaks = leaks
    return dict(zip(now, claimed, strict=True))


def _set_leaks(module: TrainingModule, leaks: bool) -> None:
    """Say whether the model leaks, and name the last scores accordingly."""
    before = list(module.model.scorers())
    module.model.leaks = leaks
    names = dict(zip(before, module.model.scorers(), strict=True))
    module.renamed |= {now: then for then, now in names.items() if now != then}
    renamed = {}
    for key, score in module.scores.items():
        split, _, name = key.partition("/")
        renamed[f"{split}/{names[name]}"] = score
    module.scores = renamed


def _shared(trainer: L.Trainer, found: dict[str, list[Check]]) -> list[dict[str, list[Check]]]:
    """Return what every process has found; all must call the numbers the same."""
    if trainer.world_size == 1:
        return [found]
    parts: list[Any] = [None] * trainer.world_size
    own = {name: Audit(checks).as_dict() for name, checks in found.items()}
    torch.distributed.all_gather_object(parts, own)
    return [
        {name: Audit.from_dict(stored).checks for name, stored in part.items()} for part in parts
    ]


def _tell(trainer: L.Trainer, text: str) -> None:
    if trainer.is_global_zero:
        _log.info("%s", text)


def _training_module(module: L.LightningModule) -> TrainingModule:
    assert isinstance(module, TrainingModule)
    return module
