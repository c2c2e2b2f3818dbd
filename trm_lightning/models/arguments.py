"""Checks of a net's arguments that find every problem before one error names them all."""

from trm_lightning.errors import UserError


def raise_problems(problems: list[str]) -> None:
    """Raise one UserError that names all ``problems``; none, no error."""
    if problems:
        raise UserError("The model's settings do not fit: " + "; ".join(problems) + ".")


def shape_problems(
    window_size: int, width: int, n_layers: int, n_heads: int, dropout: float
) -> list[str]:
    """Return what is wrong with a net's sizes."""
    problems = [
        f"{name} must be at least 1 (is {value})"
        for name, value in (
            ("window_size", window_size),
            ("width", width),
            ("n_layers", n_layers),
            ("n_heads", n_heads),
        )
        if value < 1
    ]
    if n_heads >= 1 and width % n_heads:
        problems.append(f"n_heads ({n_heads}) must divide width ({width})")
    if not 0 <= dropout < 1:
        problems.append(f"dropout must lie in [0, 1) (is {dropout})")
    return problems


def chunk_problems(window_size: int, context_size: int, chunk_size: int) -> list[str]:
    """Return what is wrong with chunks and context in a window."""
    problems = []
    if chunk_size < 1:
        return [f"chunk_size must be at least 1 (is {chunk_size})"]
    if window_size % chunk_size:
        problems.append(f"chunk_size ({chunk_size}) must divide the window ({window_size})")
    if context_size < 1 or context_size + chunk_size > window_size:
        problems.append(
            f"context_size ({context_size}) and chunk_size ({chunk_size}) must fit into the "
            f"window ({window_size})"
        )
    return problems


def recursion_problems(
    n_refinements: int,
    n_recursions: int,
    n_supervision: int,
    grad_refinements: int,
    halt_below: float | None,
) -> list[str]:
    """Return what is wrong with the depth of a recursion."""
    problems = [
        f"{name} must be at least {least} (is {value})"
        for name, value, least in (
            ("n_refinements", n_refinements, 1),
            ("n_recursions", n_recursions, 0),
            ("n_supervision", n_supervision, 1),
            ("grad_refinements", grad_refinements, 1),
        )
        if value < least
    ]
    if grad_refinements > n_refinements:
        problems.append(
            f"grad_refinements ({grad_refinements}) cannot exceed n_refinements ({n_refinements})"
        )
    if halt_below is not None and n_supervision > 1:
        problems.append(
            "halt_below needs n_supervision=1 in training: the next supervision step would refine "
            "what has stopped"
        )
    return problems + halting_problems(halt_below)


def halting_problems(halt_below: float | None) -> list[str]:
    """Return what is wrong with a halting bound."""
    if halt_below is None or halt_below > 0:
        return []
    return [f"halt_below must be over 0, or null for the full depth (is {halt_below})"]


def combination_problems(chunk_start: str, attention: str, factorization: str) -> list[str]:
    """Return which choices of a recursive net exclude each other."""
    problems = []
    if chunk_start == "draft" and attention == "joint":
        problems.append("chunk_start=draft needs attention=cached (joint encodes no chunk)")
    if chunk_start != "query" and attention == "recursive":
        problems.append("attention=recursive needs chunk_start=query (its states look ahead)")
    if chunk_start == "target" and factorization == "left_to_right":
        problems.append("chunk_start=target needs factorization=parallel (nothing to reveal)")
    return problems
