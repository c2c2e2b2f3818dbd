"""Checks of a model's arguments that find every problem before one error names them all."""

from trm_lightning.errors import UserError

MOST_LAYERS = 1_000
MOST_PASSES = 10_000


def raise_problems(problems: list[str], settings: str = "model") -> None:
    """Raise one UserError that names all ``problems``; none, no error."""
    if problems:
        raise UserError(f"The {settings} settings do not fit: " + "; ".join(problems) + ".")


def least_problems(given: dict[str, tuple[int, int]]) -> list[str]:
    """Return which of the values, each with its least allowed one, are too small."""
    return [
        f"{name} must be at least {least} (is {value})"
        for name, (value, least) in given.items()
        if value < least
    ]


def most_problems(given: dict[str, int], most: int) -> list[str]:
    """Return which of the values are larger than any that could be meant."""
    return [f"{name} must be at most {most} (is {v})" for name, v in given.items() if v > most]


def shape_problems(
    window_size: int, width: int, n_layers: int, n_heads: int, dropout: float
) -> list[str]:
    """Return what is wrong with a Transformer's sizes."""
    problems = least_problems(
        {
            "window_size": (window_size, 1),
            "width": (width, 1),
            "n_layers": (n_layers, 1),
            "n_heads": (n_heads, 1),
        }
    )
    problems += most_problems({"n_layers": n_layers}, MOST_LAYERS)
    if n_heads >= 1 and width % n_heads:
        problems.append(f"n_heads ({n_heads}) must divide width ({width})")
    if not 0 <= dropout < 1:
        problems.append(f"dropout must lie in [0, 1) (is {dropout})")
    return problems


def frozen_problems(frozen_layers: int, n_layers: int, tied_head: bool) -> list[str]:
    """Return what is wrong with the number of blocks that are not trained."""
    if not 0 <= frozen_layers <= n_layers:
        return [f"frozen_layers must be 0 to n_layers={n_layers} (is {frozen_layers})"]
    if frozen_layers and tied_head:
        return ["frozen_layers needs tied_head=false: the head would be frozen with the embedding"]
    return []


def chunk_problems(window_size: int, chunk_size: int) -> list[str]:
    """Return what is wrong with the chunks of a window."""
    if chunk_size < 1:
        return [f"chunk_size must be at least 1 (is {chunk_size})"]
    if window_size % chunk_size:
        return [f"chunk_size ({chunk_size}) must divide the window ({window_size})"]
    return []


def puzzle_problems(
    puzzle_size: int | None,
    window_size: int,
    chunk_size: int,
    factorization: str,
    chunk_visibility: bool,
) -> list[str]:
    """Return what is wrong with a puzzle's window, and which settings are of text alone."""
    if puzzle_size is None:
        return []
    given = {
        f"chunk_size={chunk_size}": chunk_size != 1,
        f"factorization={factorization}": factorization != "left_to_right",
        "chunk_visibility=false": not chunk_visibility,
    }
    problems = [
        f"{name} is of text, and on a puzzle the whole answer is one chunk"
        for name, is_set in given.items()
        if is_set
    ]
    if window_size != 2 * puzzle_size:
        problems.append(
            f"window_size must be twice puzzle_size={puzzle_size}, question and answer (is "
            f"{window_size})"
        )
    return problems


def mixing_problems(mixing: str, puzzle_size: int | None, puzzle_columns: int | None) -> list[str]:
    """Return what is wrong with how positions see each other, and with the board's shape."""
    if mixing not in ("attention", "mlp", "convolution"):
        return [f"mixing must be attention, mlp or convolution (is {mixing})"]
    if mixing != "attention" and puzzle_size is None:
        return [f"mixing={mixing} is of puzzles; text has attention"]
    if puzzle_size and puzzle_columns and puzzle_size % puzzle_columns:
        return [f"puzzle_columns={puzzle_columns} must divide puzzle_size={puzzle_size}"]
    return []


def recursion_problems(
    n_refinements: int, n_supervision: int, backprop_depth: int, exit_threshold: float | None
) -> list[str]:
    """Return what is wrong with the depth of a recursion."""
    problems = least_problems(
        {
            "n_refinements": (n_refinements, 1),
            "n_supervision": (n_supervision, 1),
            "backprop_depth": (backprop_depth, 1),
        }
    )
    depths = {"n_refinements": n_refinements, "n_supervision": n_supervision}
    problems += most_problems(depths, MOST_PASSES)
    if backprop_depth > n_refinements:
        problems.append(
            f"backprop_depth ({backprop_depth}) cannot exceed n_refinements ({n_refinements})"
        )
    if exit_threshold is not None and n_supervision > 1:
        problems.append(
            "exit_threshold needs n_supervision=1 in training: the next supervision step would "
            "refine what has exited"
        )
    return problems + exit_problems(exit_threshold)


def exit_problems(exit_threshold: float | None) -> list[str]:
    """Return what is wrong with an early-exit threshold."""
    if exit_threshold is None or exit_threshold > 0:
        return []
    return [f"exit_threshold must be over 0, or null for the full depth (is {exit_threshold})"]
