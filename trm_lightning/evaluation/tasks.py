"""How a data set says what its scores are: perplexities of a text, or puzzles solved."""

from trm_lightning.data import TextDataModule
from trm_lightning.errors import UserError
from trm_lightning.evaluation.likelihood import LikelihoodSum
from trm_lightning.evaluation.metrics import Score
from trm_lightning.evaluation.puzzles import PuzzleScore, PuzzleSum
from trm_lightning.models import LanguageModel
from trm_lightning.models.base import LogProbs

AnyScore = Score | PuzzleScore


def scorers_of(model: LanguageModel, is_puzzle: bool) -> dict[str, LogProbs]:
    """Return what scores a model, by the name of the metric; the first is what it trains for."""
    if not is_puzzle:
        return model.scorers()
    return {"copied" if model.leaks else "solved": model.log_probs}


def new_sum(is_puzzle: bool) -> LikelihoodSum | PuzzleSum:
    """Return an empty sum of scores."""
    return PuzzleSum() if is_puzzle else LikelihoodSum()


def check_task(model: LanguageModel, data: TextDataModule) -> None:
    """Refuse a model on data that it makes no sense on.

    Raises:
        UserError: naming the model or its setting.
    """
    if data.is_puzzle and model.text_only:
        raise UserError(
            f"{type(model).__name__} is a model of text, and data={data.name} are puzzles.",
            "Choose model=trm, looped or ar, or a text such as data=builtin_word.",
        )
    if model.puzzle_size is not None and not data.is_puzzle:
        raise UserError(
            f"model.puzzle_size={model.puzzle_size} is for puzzles, and data={data.name} is text.",
            "Leave it out, or choose puzzles such as data=sudoku4.",
        )
