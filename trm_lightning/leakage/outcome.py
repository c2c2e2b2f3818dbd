"""What an audit checks, and how its outcome is kept, joined and told."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from trm_lightning.leakage.example import Example
from trm_lightning.leakage.window import Finding

# What makes a number a perplexity, and what each condition means.
CONDITIONS = {
    "causal": "a score depends on earlier tokens only",
    "normalised": "probabilities over one vocabulary sum to one",
    "scored before learned": "a token is learned from, if at all, after it was scored",
    "counted once": "each token of the text counts, and counts once",
    "same score": "whatever the batch, the order and the calls before",
    "plausible": "no text costs less than it can",
}
# Each check: its condition, and what it means that it has passed.
CHECKS = {
    "printed_scores": ("causal", "in the very calls whose sum is printed, no token from t on moves"
                       " a score up to t"),
    "suffix_perturbation": ("causal", "no token from t on moves a score of the tokens up to t"),
    "gradient": ("causal", "scores depend on tokens before them, and on no other"),
    "target_swap": ("causal", "the scored token alone moves nothing, wherever scoring begins"),
    "blind_halting": ("causal", "the number of passes does not depend on the scored token"),
    "random_tokens": ("causal", "random tokens cost log V nats or more"),
    "normalised": ("normalised", "probabilities sum to one"),
    "incremental": ("scored before learned", "growing prefixes and written text score as the whole"
                    " window does"),
    "history": ("scored before learned", "the same call scores the same again, and changes no"
                " weight or buffer"),
    "each_token_once": ("counted once", "evaluation windows score each token of the split once"),
    "batch_neighbours": ("same score", "other rows of a batch move nothing"),
    "batch_size": ("same score", "a row scores the same alone and among others, in any order"),
    "entropy_floor": ("plausible", "the held-out text costs no fewer nats than its own entropy"),
    "training_gap": ("plausible", "the held-out text does not cost far less than training text"),
}  # fmt: skip
# Those of puzzles, beside the checks above that are asked of them too.
PUZZLE_CHECKS = {
    "answer_swap": ("causal", "no score of a cell moves with that cell of the answer or a later"
                    " one"),
    "question_read": ("causal", "scores depend on the question"),
    "held_out_differs": ("scored before learned", "no held-out puzzle counts as one that is trained"
                         " on"),
    "each_puzzle_once": ("counted once", "evaluation shows each puzzle of the split once"),
}  # fmt: skip
# Those of masked models, beside the checks above that are asked of them too.
MASKED_CHECKS = {
    "hidden_tokens": ("causal", "no prediction of a hidden token moves with a hidden token"),
    "claimed_bound": ("plausible", "the nats that are claimed are no fewer than those of the tokens"
                      " revealed in random orders"),
}  # fmt: skip
_ALL = CHECKS | PUZZLE_CHECKS | MASKED_CHECKS
SUSPICIONS = {"training_gap", "claimed_bound"}  # what these find may have an innocent reason


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: a key of CHECKS, PUZZLE_CHECKS or MASKED_CHECKS.
        passed: None where the check does not apply to the model, or has a suspicion only.
        detail: what was found wrong, or why it does not apply; else what passing means.
        position: of the first offending token of its window; of the split for
            ``each_token_once``.
        suspicious: something looks too good to be true, and nothing is proven.
        example: a short text that shows what was found, where there is one.
    """

    name: str
    passed: bool | None
    detail: str
    position: int | None = None
    suspicious: bool = False
    example: Example | None = None

    @classmethod
    def of(cls, name: str, finding: Finding | None) -> "Check":
        """Return the outcome of a check that was made."""
        if finding is None:
            return cls(name, True, _ALL[name][1])
        if name in SUSPICIONS:
            return cls(name, None, finding.detail, finding.position, suspicious=True)
        return cls(name, False, finding.detail, finding.position, example=finding.example)

    @property
    def condition(self) -> str:
        """The condition that the check belongs to."""
        return _ALL[self.name][0]

    @property
    def weight(self) -> int:
        """How much the outcome says: a failure most, a check that was not made nothing."""
        return 3 if self.passed is False else 2 if self.suspicious else int(self.passed is True)

    def __str__(self) -> str:
        """One line of a table."""
        mark = "?" if self.suspicious else {True: "✓", False: "✗", None: "–"}[self.passed]
        place = "" if self.position is None else f"token {self.position}: "
        return f"{mark} {self.name:20s} {place}{self.detail}"


@dataclass(frozen=True)
class Audit:
    """The outcomes of all checks of one scorer."""

    checks: list[Check]

    @classmethod
    def of(cls, made: Mapping[str, Callable[[], Finding | None] | str]) -> "Audit":
        """Make checks, or say why one does not apply; in the order of CHECKS."""
        return cls(
            [
                Check(name, None, find) if isinstance(find, str) else Check.of(name, find())
                for name, find in ((name, made[name]) for name in _ALL if name in made)
            ]
        )

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [check.name for check in self.checks if check.passed is False]

    @property
    def suspicious(self) -> list[str]:
        """Names of the checks that are left with a suspicion."""
        return [check.name for check in self.checks if check.suspicious]

    def joined(self, others: Iterable[Check]) -> "Audit":
        """Return this audit with more outcomes; of each check the weightiest counts."""
        best = {check.name: check for check in self.checks}
        for check in others:
            if check.name not in best or check.weight > best[check.name].weight:
                best[check.name] = check
        return Audit([best[name] for name in _ALL if name in best])

    def told(self, tried: Mapping[str, str]) -> "Audit":
        """Return this audit with how far the checks went that passed."""
        return Audit(
            [
                replace(check, detail=f"{check.detail} ({tried[check.name]})")
                if check.passed and check.name in tried
                else check
                for check in self.checks
            ]
        )

    def __str__(self) -> str:
        """A table: each condition, and a line for each of its checks."""
        lines = []
        for condition, meaning in CONDITIONS.items():
            own = [check for check in self.checks if check.condition == condition]
            if own:
                failed = any(check.passed is False for check in own)
                lines.append(f"{condition}{' FAILED' if failed else ''}: {meaning}")
                lines += [f"  {check}" for check in own]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON and checkpoints."""
        checks = [{**asdict(check), "condition": check.condition} for check in self.checks]
        return {"passed": self.passed, "checks": checks}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Audit":
        """Return what :meth:`as_dict` was made of."""
        keys = ("name", "passed", "detail", "position", "suspicious")
        checks = [
            Check(
                **{key: check[key] for key in keys},
                example=Example.from_dict(check.get("example")),
            )
            for check in stored["checks"]
        ]
        return cls([check for check in checks if check.name in _ALL])
