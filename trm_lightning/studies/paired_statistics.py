"""The numbers of ``comparison.json``: per run, then means over seeds with their intervals.

Differences to the baseline are paired by seed.
"""

import math
from typing import Any

from trm_lightning.evaluation.metrics import headline_of, is_puzzle_score, is_sound
from trm_lightning.evaluation.puzzles import is_share
from trm_lightning.studies.intervals import estimate
from trm_lightning.studies.run_records import Group, Record

Values = dict[str, Any]
# Figures of single runs that are averaged over seeds.
_AVERAGED = (
    "best", "final", "bits_per_character", "degradation_percent",
    "tokens", "seconds", "tokens_per_second", "time_ratio",
    "best_difference", "best_perplexity_improvement_percent", "best_loss_improvement_percent",
    "final_difference", "final_perplexity_improvement_percent", "final_loss_improvement_percent",
    "tokens_to_baseline", "seconds_to_baseline",
    "test", "test_difference", "test_perplexity_improvement_percent",
    "test_loss_improvement_percent", "floor_gap_closed_percent", "best_points", "final_points",
    "test_points",
)  # fmt: skip


def summarise_entries(groups: list[Group], baseline: str) -> list[dict[str, Any]]:
    """Return one plain container per entry, in the order given.

    An entry whose number is not a likelihood, or belongs to another text, gets no difference to
    what it is compared with (``baseline``, or the entry's own ``against``).
    """
    runs = {g.entry.name: [_values(g, record) for record in g.records] for g in groups}
    by_name = {group.entry.name: group for group in groups}
    described = []
    for group in groups:
        name = group.entry.name
        base = by_name[group.entry.against or baseline]
        base_runs = {r["seed"]: r for r in runs[base.entry.name] if r["status"] == "completed"}
        meaning = _meaning(group)
        comparable = _comparable(meaning, base)
        for run, record in zip(runs[name], group.records, strict=True):
            against = base_runs.get(run["seed"])
            if run["status"] == "completed" and against is not None:
                run["time_ratio"] = against["tokens_per_second"] / run["tokens_per_second"]
                if comparable:
                    _add_differences(run, record, against, meaning["metric"])
        described.append(
            {
                "name": name,
                "note": group.entry.note,
                "published": group.entry.published,
                "series": group.entry.series,
                "at": group.entry.at,
                "against": base.entry.name,
                "budget_share": group.entry.budget_share,
                "overrides": list(group.entry.overrides),
                "is_baseline": name == base.entry.name,
                **meaning,
                "comparable": comparable,
                "figures": _figures(runs[name]),
                "runs": runs[name],
            }
        )
    return described


def _meaning(group: Group) -> Values:
    """Return what an entry's number means and what its model is; Nones before a run has ended."""
    facts = ("family", "parameters", "flops_per_token")
    if not group.completed:
        return dict.fromkeys(("metric", "meaning", "is_likelihood", *facts))
    results = group.completed[0].results
    assert results is not None
    score = results["final"][group.metric]
    return {
        "metric": group.metric,
        "meaning": score["meaning"],
        # Of puzzles solved this is None: the number is what it says, and no likelihood.
        "is_likelihood": score.get("is_likelihood", None if is_sound(score) else False),
        **{name: results[name] for name in facts},
    }


def _comparable(meaning: Values, base: Group) -> bool:
    """Say whether an entry's number is of the baseline's text or puzzles, and both are sound."""
    if meaning["metric"] is None or meaning["is_likelihood"] is False or not base.completed:
        return False
    same_split = meaning["metric"].partition("/")[0] == base.metric.partition("/")[0]
    same_kind = is_share(meaning["metric"]) == is_share(base.metric)
    return same_split and same_kind and is_sound(_meaning_of_score(base))


def _meaning_of_score(group: Group) -> Values:
    results = group.completed[0].results
    assert results is not None
    score: Values = results["final"][group.metric]
    return score


def _values(group: Group, record: Record) -> Values:
    """Return a run's own numbers."""
    values: Values = {
        "seed": record.seed,
        "folder": str(record.folder),
        "status": record.status,
        "failure": record.failure,
    }
    if record.results is None:
        return values
    results, metric = record.results, group.metric
    final = results["final"][metric]
    best = results["best"].get(metric) if _is_followed(record, metric) else None
    return values | {
        "best": None if best is None else _told(best),
        "best_step": None if best is None else best["step"],
        "final": _told(final),
        "test": _test(results, metric),
        "floor": results.get("entropy_floor_perplexity") if metric.startswith("val/") else None,
        **({} if is_puzzle_score(final) else _of_text(final, best)),
        "optimizer_steps": results["optimizer_steps"],
        "seconds": results["seconds"],
        "tokens": results["tokens_seen"],
        "tokens_per_second": results["tokens_seen"] / max(results["seconds"], 1e-9),
    }


def _told(score: dict[str, Any]) -> float:
    """Return the number that is compared: a perplexity, or the percentage of solved puzzles."""
    return headline_of(score) * (100 if is_puzzle_score(score) else 1)


def _of_text(final: dict[str, Any], best: dict[str, Any] | None) -> Values:
    """Return the numbers that only a score of text has."""
    lowest = final["perplexity"] if best is None else best["perplexity"]
    return {
        "bits_per_character": math.log2(lowest) * final["tokens"] / final["characters"],
        "degradation_percent": None if best is None else 100 * (final["perplexity"] / lowest - 1),
    }


def _test(results: dict[str, Any], metric: str) -> float | None:
    """Return the same score of the test split by the best weights; None without such a split."""
    score = results["test"].get(f"test/{metric.partition('/')[2]}")
    return None if score is None or not metric.startswith("val/") else _told(score)


def _is_followed(record: Record, metric: str) -> bool:
    """Say whether a score was taken at every validation, so that its lowest value is its best."""
    assert record.results is not None
    first = next(iter(record.results["final"]))

    def count(name: str) -> int:
        return len({line["step"] for line in record.history if name in line})

    return count(metric) >= count(first)


def _add_differences(run: Values, record: Record, base: Values, metric: str) -> None:
    """Add the differences to the baseline's run with the same seed."""
    for kind in ("best", "final", "test"):
        ours, theirs = run[kind], base[kind]
        if ours is None or theirs is None:
            continue
        run[f"{kind}_difference"] = ours - theirs
        if is_share(metric):
            run[f"{kind}_points"] = ours - theirs
            continue
        run[f"{kind}_perplexity_improvement_percent"] = 100 * (1 - ours / theirs)
        run[f"{kind}_loss_improvement_percent"] = 100 * (1 - math.log(ours) / math.log(theirs))
    goal = base["final"] if base["best"] is None else base["best"]
    if run["floor"] is not None and not is_share(metric):
        ours = run["final"] if run["best"] is None else run["best"]
        gap = math.log(goal / run["floor"])
        run["floor_gap_closed_percent"] = 100 * math.log(goal / ours) / gap if gap > 0 else None
    lines = [line for line in record.history if metric in line]
    if is_share(metric):
        reached = next((line for line in lines if 100 * line[metric] >= goal), None)
    else:
        reached = next((line for line in lines if line[metric] <= goal), None)
    run["reached_baseline"] = reached is not None
    if reached is not None:
        run["tokens_to_baseline"] = reached["tokens"]
        run["seconds_to_baseline"] = reached["seconds"]


def _figures(runs: list[Values]) -> Values:
    """Return means over seeds with intervals, by the figure's name; None without any value.

    A figure that some seeds lack is a mean over the others; ``n`` says how many.
    """
    done = [run for run in runs if run["status"] == "completed"]
    figures: Values = {}
    for name in _AVERAGED:
        found = estimate([run[name] for run in done if run.get(name) is not None])
        figures[name] = None if found is None else found.as_dict()
    figures["reached_baseline"] = sum(run.get("reached_baseline", False) for run in done)
    return figures
