"""The picture of how a model refines its guesses; drawn without pyplot, which keeps state."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from trm_lightning.data.tokenizer import Tokenizer
from trm_lightning.models import LanguageModel
from trm_lightning.printable import printable

MAX_ROWS = 12
FONT_SIZE = 10
DPI = 150  # of the picture in TensorBoard
VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"})


@torch.no_grad()
def refinement_figure(
    model: LanguageModel,
    tokenizer: Tokenizer,
    tokens: Tensor,
    n_columns: int = 10,
    with_scale: bool = True,
) -> Figure:
    """Draw how the top guess for the last tokens of a window changes from refinement to refinement.

    Rows are refinements: 0 is what a chunk starts from, the last one is what is scored (at most
    12, evenly spaced). Columns are tokens; below them stands the actual text. A cell holds the top
    guess and is as dark as it is probable; a right guess has a frame. With
    ``factorization=left_to_right`` a guess knows the tokens before it in its chunk, as its score
    does.

    Args:
        model: in evaluation mode.
        tokenizer: names the tokens.
        tokens: (T,) ids of one window.
        n_columns: as many of the last chunks are drawn as fit, at least one.
        with_scale: draw the scale of probabilities; without it the picture is narrower.
    """
    n_rows = min(model.scoring_depth + 1, MAX_ROWS)
    depths = np.linspace(0, model.scoring_depth, n_rows).round().astype(int).tolist()
    size = model.chunk_size
    n_chunks = -(-len(tokens) // size)
    first = max(n_chunks - max(n_columns // size, 1), 0) * size
    window = tokens.to(next(model.parameters()).device)
    scores = torch.cat(model.log_probs_at(window[None], depths, first)).exp()  # (rows, columns, V)
    probs, guesses = (x.cpu().numpy() for x in scores.max(dim=-1))
    actual = tokens[first:].tolist()

    # Fixed margins, in inches: a layout engine would double the time that a picture takes.
    right = 0.9 if with_scale else 0.1
    width, height = 0.7 + 0.95 * len(actual) + right, 1.3 + 0.36 * n_rows
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    bottom, tall = 0.65 / height, 1 - 1.25 / height
    axes = figure.add_axes((0.7 / width, bottom, 0.95 * len(actual) / width, tall), label="guesses")
    shading = axes.imshow(probs, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if with_scale:
        bar = figure.add_axes((1 - 0.75 / width, bottom, 0.14 / width, tall))
        figure.colorbar(shading, cax=bar, ticks=[0, 0.5, 1])
        bar.set_title("probability", fontsize=FONT_SIZE, loc="center", pad=6)
        bar.tick_params(labelsize=FONT_SIZE, length=2)
    for (row, column), guess in np.ndenumerate(guesses):
        _write_guess(
            axes, row, column, visible(tokenizer.token(int(guess))), float(probs[row, column])
        )
        if guess == actual[column]:
            _frame(axes, row, column)
    for edge in range(size, len(actual), size):
        axes.axvline(edge - 0.5, color="black", linewidth=0.8)
    _label(axes, depths, [visible(tokenizer.token(token)) for token in actual])
    given = "" if model.is_likelihood else "; chunks start from the answer"
    title = f"Top guess after each refinement{given}\nframed: right, darker: more probable"
    axes.set_title(title, fontsize=11, loc="left")
    return figure


def visible(token: str, width: int = 10) -> str:
    """Return a token with its blanks and line ends as signs, cut to ``width`` characters."""
    text = printable(token.translate(VISIBLE))
    return text if len(text) <= width else text[: width - 1] + "…"


def _write_guess(axes: Axes, row: int, column: int, guess: str, prob: float) -> None:
    color = "white" if prob > 0.5 else "black"
    axes.text(
        column,
        row,
        guess,
        ha="center",
        va="center",
        color=color,
        fontsize=FONT_SIZE,
        parse_math=False,
    )


def _frame(axes: Axes, row: int, column: int) -> None:
    corner = (column - 0.46, row - 0.42)
    axes.add_patch(Rectangle(corner, 0.92, 0.84, fill=False, edgecolor="darkorange", linewidth=2))


def _label(axes: Axes, depths: Sequence[int], actual: Sequence[str]) -> None:
    axes.set_ylabel("refinement", fontsize=FONT_SIZE)
    axes.set_yticks(range(len(depths)), [str(depth) for depth in depths])
    axes.set_xlabel("actual next token", fontsize=FONT_SIZE)
    axes.set_xticks(range(len(actual)), actual, parse_math=False)
    axes.tick_params(length=0, labelsize=FONT_SIZE)
