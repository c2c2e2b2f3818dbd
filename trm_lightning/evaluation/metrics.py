"""The scores of ``results.json``: their names, what each means, and how each is computed.

To add a number, add it to ``Score.as_dict``. If it needs a new count of the text, such as its
syllables, add that to ``trm_lightning.data.text_counts``.
"""

import math
from dataclasses import dataclass
from typing import Any

from trm_lightning.data import TextCounts
from trm_lightning.evaluation.puzzles import PUZZLE_MEANINGS, PuzzleScore

NOT_A_LIKELIHOOD = (
    "NOT A LIKELIHOOD: the chunk starts at the embedding of the answer, so this number measures "
    "copying. It is not a perplexity and cannot be compared with one."
)
# Names of exp(nats per token), by how the nats were obtained: none can be mistaken for another.
MEANINGS = {
    "ppl": "exact perplexity",
    "warm_start_ppl": NOT_A_LIKELIHOOD,
    "not_a_perplexity": "NOT A LIKELIHOOD: the model sees the tokens that it is scored on.",
    "ppl_without_answer": "exact perplexity of the same weights started without the answer",
}
ALL_MEANINGS = MEANINGS | PUZZLE_MEANINGS


@dataclass(frozen=True)
class Score:
    """The negative log-likelihood of a split.

    Attributes:
        nats: -log p of all tokens together.
        counts: sizes of the text.
    """

    nats: float
    counts: TextCounts

    @property
    def nats_per_token(self) -> float:
        """Mean negative log-likelihood of a token, in nats."""
        return self.nats / self.counts.tokens

    @property
    def perplexity(self) -> float:
        """exp(total nats / tokens scored); infinite where it overflows."""
        return safe_exp(self.nats_per_token)

    @property
    def headline(self) -> float:
        """The number that a run is told by: the perplexity."""
        return self.perplexity

    @property
    def cost(self) -> float:
        """What the best checkpoint has least of: the perplexity."""
        return self.perplexity

    def logged(self, name: str) -> dict[str, float]:
        """Return the numbers of the log, by name; ``name`` is such as ``val/ppl``."""
        return {
            name: self.perplexity,
            f"{name}_nats_per_token": self.nats_per_token,
            f"{name}_bits_per_character": self.bits_per_character,
        }

    @property
    def bits_per_character(self) -> float:
        """Negative log-likelihood of the text per Unicode character, in bits."""
        return self._bits / self.counts.characters

    @property
    def _bits(self) -> float:
        return self.nats / math.log(2)

    def as_dict(self) -> dict[str, float | int]:
        """Return the numbers of ``results.json``, with the counts needed to compare them."""
        return {
            "perplexity": self.perplexity,
            "nats_per_token": self.nats_per_token,
            "bits_per_character": self.bits_per_character,
            "bits_per_byte": self._bits / self.counts.bytes,
            "word_perplexity": safe_exp(self.nats / max(1, self.counts.words)),
            "total_nats": self.nats,
            "tokens": self.counts.tokens,
            "words": self.counts.words,
            "characters": self.counts.characters,
            "bytes": self.counts.bytes,
            "unknown_share": self.counts.unknown / self.counts.tokens,
        }


def described(name: str, score: Score | PuzzleScore) -> dict[str, Any]:
    """Return a score's numbers with what they mean; ``name`` is such as ``val/ppl``."""
    kind = name.partition("/")[2]
    if isinstance(score, PuzzleScore):
        return {
            "meaning": PUZZLE_MEANINGS[kind],
            "sees_answers": kind == "copied",
            **score.as_dict(),
        }
    return {"meaning": MEANINGS[kind], "is_likelihood": kind.startswith("ppl"), **score.as_dict()}


def is_puzzle_score(score: dict[str, Any]) -> bool:
    """Say whether a described score is of puzzles."""
    return "solved" in score


def headline_of(score: dict[str, Any]) -> float:
    """Return the number that a described score, or a run's best one, is told by."""
    return float(score["solved"] if is_puzzle_score(score) else score["perplexity"])


def cost_of(score: dict[str, Any]) -> float:
    """Return what a search makes small: the perplexity, or the share of unsolved puzzles."""
    return 1 - score["solved"] if is_puzzle_score(score) else float(score["perplexity"])


def is_sound(score: dict[str, Any]) -> bool:
    """Say whether a described score is what its data set asks for, and was made without answers."""
    return not score["sees_answers"] if is_puzzle_score(score) else bool(score["is_likelihood"])


def score_lines(name: str, score: dict[str, Any]) -> list[str]:
    """Return a described score as lines for the terminal."""
    split, _, kind = name.partition("/")
    if is_puzzle_score(score):
        line = (
            f"  {split + ' puzzles ' + kind:27s} {100 * score['solved']:8.2f} %   "
            f"({score['puzzles']:,} puzzles, {100 * score['cells_right']:.2f} % of "
            f"{score['cells']:,} cells right)"
        )
        return [line] if is_sound(score) else [line, f"      {PUZZLE_MEANINGS[kind]}"]
    label = {"ppl": "perplexity"}.get(kind, kind)
    line = (
        f"  {split + ' ' + label:27s} {score['perplexity']:10.3f}   "
        f"({score['tokens']:,} tokens, {score['bits_per_character']:.3f} bits per character, "
        f"{100 * score['unknown_share']:.1f} % unknown)"
    )
    return [line] if kind == "ppl" else [line, f"      {MEANINGS[kind]}"]


def safe_exp(x: float) -> float:
    """Return e to the x, infinity where a float cannot hold it."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf
