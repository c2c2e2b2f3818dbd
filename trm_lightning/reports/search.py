"""The report of a search for settings."""

from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from trm_lightning.cli.overrides import merge
from trm_lightning.cli.printed import shell_command
from trm_lightning.evaluation.metrics import safe_exp
from trm_lightning.evaluation.rounding import NONE, number
from trm_lightning.files import write_json
from trm_lightning.reports.colors import FAINT, FAMILIES
from trm_lightning.reports.document import Listing, Number, Picture, Report, Section
from trm_lightning.reports.page import write_report
from trm_lightning.reports.plots import new_axes, whole_numbers
from trm_lightning.studies.cells import Table
from trm_lightning.studies.search import Search

STATES = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "unfinished",
}


def write_search(search: Search) -> None:
    """Write the report of a search, finished or not, and print what it says."""
    if not search.study.get_trials(deepcopy=False):
        return
    found = report_of(search)
    pages = write_report(found, search.folder)
    print("\n".join([*found.verdict, *(f"Written to {page}" for page in pages)]))


def report_of(search: Search) -> Report:
    """Return a search's report, finished or not."""
    trials = search.study.get_trials(deepcopy=False)
    done = [t for t in trials if t.state == TrialState.COMPLETE]
    importances = importances_of(search.study)
    command = best_command(search)
    numbers = [Number(STATES[state], str(sum(t.state == state for t in trials)), "trials")
               for state in STATES]  # fmt: skip
    sections = [Section("Trials", tables=[_table(search, trials)])]
    if done:
        value = search.study.best_value
        numbers.insert(0, Number("best", number(safe_exp(value)), "validation perplexity"))
        pictures = [Picture("history", "Each trial, and the best so far.", history_figure(trials))]
        if importances:
            caption = "Shares of the variance of the score that a setting explains (PED-ANOVA)."
            pictures.append(Picture("importances", caption, importance_figure(importances)))
        listing = Listing("Command of the best trial", command)
        sections.insert(0, Section("Search", pictures=pictures, listings=[listing]))
    write_json(
        search.folder / "search.json",
        {
            "name": search.study.study_name,
            "trials": [_as_dict(trial) for trial in trials],
            "best": _as_dict(search.study.best_trial) if done else None,
            "importances": importances,
            "command": command,
        },
    )
    return Report(
        title=f"Search {search.study.study_name}",
        subtitle=f"{len(trials)} of {search.trials} trials; lowest validation nats per token",
        numbers=numbers,
        sections=sections,
        verdict=_verdict(search, done, command),
    )


def _verdict(search: Search, done: list[FrozenTrial], command: str) -> list[str]:
    if not done:
        return ["No trial has been completed yet."]
    best = search.study.best_trial
    settings = ", ".join(f"{key}={_shown(value)}" for key, value in best.params.items())
    return [
        f"Best of {len(done)} completed trials: {settings}, validation perplexity "
        f"{number(safe_exp(search.study.best_value))} (trial {best.number}). One seed per trial: "
        "compare it with others over seeds before you believe it.",
        f"To train it: {command}",
    ]


def best_command(search: Search) -> str:
    """Return the training command of the best trial; empty before there is one."""
    trials = search.study.get_trials(deepcopy=False)
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        return ""
    best = search.study.best_trial
    given = [setting.override(best.params[setting.key]) for setting in search.space]
    return shell_command("train", *search.call.flags(), *merge([*search.fixed, *given]))


def importances_of(study: optuna.Study) -> dict[str, float]:
    """Return how much of the score's variance each setting explains; empty for too few trials."""
    try:
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (ValueError, RuntimeError):  # fewer than two trials, or all of one value
        return {}
    return {key: float(value) for key, value in found.items()}


def _as_dict(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": STATES.get(trial.state, "waiting"),
        "nats_per_token": trial.value if trial.state == TrialState.COMPLETE else None,
        "settings": dict(trial.params),
        "folder": trial.user_attrs.get("folder"),
        "failure": trial.user_attrs.get("failure"),
    }


def _table(search: Search, trials: list[FrozenTrial]) -> Table:
    keys = [setting.key for setting in search.space]
    ended = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    ranked = sorted(ended, key=lambda trial: float(trial.value or 0))
    rows = [
        [
            str(trial.number),
            STATES.get(trial.state, "waiting"),
            number(safe_exp(float(trial.value or 0))) if trial in ended else NONE,
            *(_shown(trial.params.get(key)) for key in keys),
        ]
        for trial in [*ranked, *(t for t in trials if t not in ranked)]
    ]
    return Table("", ["Trial", "State", "Validation perplexity", *keys], rows, n_text=2)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else NONE if value is None else str(value)


def history_figure(trials: list[FrozenTrial]) -> Figure:
    """Draw the score of each trial, and the best so far."""
    figure, axes = new_axes("History", "trial", "validation perplexity")
    done = [(t.number, safe_exp(float(t.value or 0))) for t in trials
            if t.state == TrialState.COMPLETE]  # fmt: skip
    best = [min(score for _, score in done[: i + 1]) for i in range(len(done))]
    axes.plot([n for n, _ in done], [score for _, score in done], "o", color=FAINT, markersize=4)
    axes.step([n for n, _ in done], best, where="post", color=FAMILIES["trm"].color, linewidth=1.4)
    whole_numbers(axes)
    return figure


def importance_figure(importances: dict[str, float]) -> Figure:
    """Draw the settings' importances, the largest on top."""
    figure, axes = new_axes("Importance", "share of the variance", "")
    names = sorted(importances, key=importances.__getitem__)
    axes.barh(names, [importances[name] for name in names], color=FAMILIES["ar"].color, height=0.5)
    axes.grid(False)
    return figure
