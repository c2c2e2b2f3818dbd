"""The model card: what a model is, what its numbers mean, how to load it."""

from typing import Any

from trm_lightning.data import Tokenizer
from trm_lightning.evaluation.rounding import NONE, number, percent
from trm_lightning.leakage.verdict import GIVEN_THE_ANSWER
from trm_lightning.reports.page import templates
from trm_lightning.runs.exported import HF_TOKENIZER
from trm_lightning.studies.cells import Table, markdown_table


def model_card(
    config: dict[str, Any],
    tokenizer: Tokenizer,
    license_name: str | None,
    has_hf_tokenizer: bool,
    graphs: list[str],
) -> str:
    """Return ``README.md`` as Hugging Face's hub shows it.

    Args:
        config: the content of ``config.json``.
        tokenizer: the model's own.
        license_name: of the weights; None where none was given.
        has_hf_tokenizer: whether ``tokenizer.json`` is there.
        graphs: names of the files with scoring as a graph.
    """
    module, _, name = config["model"]["class"].rpartition(".")
    template = templates("trm_lightning.exporting", autoescape=False).get_template("card.md.j2")
    text = template.render(
        config=config,
        module=module,
        name=name,
        license=license_name,
        warning=warning_of(config),
        verdict=verdict_of(config),
        table=score_table(config["scores"]),
        tokenizer=tokenizer,
        graphs=graphs,
        hf_tokenizer=HF_TOKENIZER if has_hf_tokenizer else None,
    )
    return text.rstrip() + "\n"


def warning_of(config: dict[str, Any]) -> str | None:
    """Return why a model's first number is no perplexity; None where it is one."""
    if (config["audit"] or {}).get("leaks"):
        return "NOT A LIKELIHOOD: the leak audit failed. This model sees what it is scored on."
    return None if config["is_likelihood"] else " ".join(GIVEN_THE_ANSWER.split())


def verdict_of(config: dict[str, Any]) -> str:
    """Return the outcome of the leak audit as a sentence."""
    audit = config["audit"]
    if audit is None:
        return (
            "The leak audit was off: nothing has checked that this model does not see the tokens "
            "that it is scored on."
        )
    if audit["passed"]:
        return (
            "The leak audit passed: no prediction was found to depend on the token that it "
            "scores, and probabilities sum to one."
        )
    failed = {name: checks for name, checks in audit["failed"].items() if checks}
    told = "; ".join(f"{name}: {', '.join(checks)}" for name, checks in failed.items())
    return f"The leak audit failed ({told})."


def score_table(scores: dict[str, dict[str, Any]]) -> str | None:
    """Return the scores as a table with what each number means; None without any."""
    if not scores:
        return None
    header = ["split", "number", "value", "bits per character", "tokens", "unknown", "meaning"]
    rows = [_score_row(name, score) for name, score in scores.items()]
    return markdown_table(Table("", header, rows, n_text=2))


def _score_row(name: str, score: dict[str, Any]) -> list[str]:
    split, _, kind = name.partition("/")
    bits, tokens = score.get("bits_per_character"), score.get("tokens")
    return [
        split,
        kind,
        number(score["perplexity"], digits=5),
        number(bits) if score["is_likelihood"] else NONE,
        NONE if tokens is None else f"{tokens:,}",
        percent(score.get("unknown_share")),
        score["meaning"],
    ]
