"""Which of a run's recorded scores belong to the weights of a checkpoint."""

from pathlib import Path
from typing import Any

from trm_lightning.evaluation.metrics import MEANINGS
from trm_lightning.runs import history, results_file
from trm_lightning.runs.load import LoadedRun

NUMBERS = ("meaning", "is_likelihood", "perplexity", "nats_per_token", "bits_per_character")
OF_THE_SPLIT = ("tokens", "unknown_share")  # whatever the weights

Scores = dict[str, dict[str, Any]]


def recorded_scores(run: LoadedRun) -> Scores:
    """Return the scores that were recorded for the run's weights, by names such as ``val/ppl``.

    A validation counts if it was made at the optimizer step of these weights; the test if the
    weights are those with the best validation, which are tested. Other numbers of the run belong
    to other weights.

    Raises:
        UserError: when the run's history or results are damaged.
    """
    if "scores" in run.facts:  # of an exported model, which brings its own
        exported: Scores = run.facts["scores"]
        return exported
    scores = _validation(run.folder / history.FILE, run.optimizer_steps)
    if not (run.folder / results_file.FILE).is_file():
        return scores
    results = results_file.read_results(run.folder)
    for name in scores.keys() & results["final"].keys():
        scores[name] |= {key: results["final"][name][key] for key in OF_THE_SPLIT}
    if _is_best(results, run.optimizer_steps):
        for name, tested in results["test"].items():
            scores[name] = {key: tested[key] for key in (*NUMBERS, *OF_THE_SPLIT)}
    return scores


def _validation(file: Path, step: int) -> Scores:
    """Return the scores of the validation at an optimizer step; none where there was none."""
    lines = history.read_lines(file) if file.is_file() else []
    found = [line for line in lines if line["step"] == step]
    return {
        name: _score(name.partition("/")[2], name, line)
        for line in found
        for name in line
        if not name.startswith("train/") and name.partition("/")[2] in MEANINGS
    }


def _score(kind: str, name: str, line: dict[str, float]) -> dict[str, Any]:
    values = (
        MEANINGS[kind],
        kind.startswith("ppl"),
        line[name],
        line[f"{name}_nats_per_token"],
        line[f"{name}_bits_per_character"],
    )
    return dict(zip(NUMBERS, values, strict=True))


def _is_best(results: dict[str, Any], step: int) -> bool:
    """Say whether the weights of a step are those with the best validation."""
    trained_for = next((name for name in results["final"] if name.startswith("val/")), None)
    best = results["best"].get(trained_for)
    return best is not None and best["step"] == step
