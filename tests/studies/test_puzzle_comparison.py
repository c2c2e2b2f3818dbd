"""Comparisons on puzzles: percent and points, more is better, never called a perplexity."""

import json
from pathlib import Path
from typing import Any

import pytest
from compare_folders import make_run, make_summary

from trm_lightning.studies.table import render
from trm_lightning.studies.verdict import verdict


def score(solved: float, kind: str = "solved") -> dict[str, Any]:
    return {
        "meaning": kind, "sees_answers": kind == "copied", "solved": solved, "cells_right": 0.99,
        "nats_per_cell": 0.1, "puzzles": 1000, "cells": 16_000,
    }  # fmt: skip


def solved_run(
    folder: Path, seed: int, solved: tuple[float, float], kind: str = "solved", seconds: float = 10
) -> None:
    """Write a run that was validated twice, after 500 and 1,000 tokens."""
    facts = {
        "final": {f"val/{kind}": score(solved[1], kind)},
        "test": {f"test/{kind}": score(solved[1] - 0.1, kind)},
        "best": {f"val/{kind}": {"solved": max(solved), "step": 10}},
    }
    make_run(folder, seed, (2.0, 2.0), seconds=seconds, **facts)
    lines = [
        {"step": 10 * k, "tokens": 500 * k, "seconds": 5.0 * k, f"val/{kind}": solved[k - 1]}
        for k in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_differences_are_points_and_more_is_better(tmp_path: Path) -> None:
    for seed, base, other in ((1, (0.2, 0.5), (0.7, 0.9)), (2, (0.3, 0.6), (0.5, 0.9))):
        solved_run(tmp_path / f"one_{seed}", seed, base)
        solved_run(tmp_path / f"trm_{seed}", seed, other, seconds=40)
    one, trm = make_summary(tmp_path, ["one", "trm"], [1, 2])
    assert one["figures"]["best"]["mean"] == pytest.approx(55)
    figures = trm["figures"]
    assert figures["best_points"]["mean"] == pytest.approx(35)  # 40 and 30
    assert figures["best_points"]["half_width"] == pytest.approx(12.7062 * 5, rel=1e-4)
    assert figures["test_points"]["mean"] == pytest.approx(35)
    assert figures["best_perplexity_improvement_percent"] is None
    # The first seed is there at its first validation, the second at its last.
    assert figures["tokens_to_baseline"]["mean"] == 750 and figures["reached_baseline"] == 2
    content = {
        "name": "test", "data": "sudoku4", "baseline": "one", "entries": [one, trm], "notes": [],
        "command": ["compare"],
    }  # fmt: skip
    assert verdict(content) == [
        "trm cannot be told apart from one in share of solved validation puzzles (+35 ± 64 points; "
        "the 95 % interval over 2 seeds includes zero); it cannot be told apart from one in share "
        "of solved test puzzles (+35 ± 64 points; the 95 % interval over 2 seeds includes zero)."
    ]
    table = render(content)
    assert "Solved validation puzzles, %" in table and "erplexity" not in table
    assert "likelihood" not in table


def test_a_model_that_copies_is_not_compared(tmp_path: Path) -> None:
    solved_run(tmp_path / "one_1", 1, (0.2, 0.5))
    solved_run(tmp_path / "leaky_1", 1, (1.0, 1.0), kind="copied")
    make_run(tmp_path / "text_1", 1, (100.0, 90.0))
    _, leaky, text = make_summary(tmp_path, ["one", "leaky", "text"], [1])
    assert not leaky["comparable"] and leaky["is_likelihood"] is False
    assert not text["comparable"] and text["figures"].get("best_points") is None
