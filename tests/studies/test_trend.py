"""Trends and breaks against curves whose slope and break are known, and entries' own baselines."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_folders import CALL, asking, config, make_run
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from trm_lightning.errors import UserError
from trm_lightning.reports.colors import series_styles
from trm_lightning.reports.studies import study_section
from trm_lightning.studies.breaks import breaks, curve_point
from trm_lightning.studies.entries import Entry
from trm_lightning.studies.fits import study_of
from trm_lightning.studies.paired_statistics import summarise_entries
from trm_lightning.studies.plan import make_plan
from trm_lightning.studies.run_records import Group, check_comparable, read_record
from trm_lightning.studies.study_table import study_parts
from trm_lightning.studies.verdict import verdict

AT = (1, 2, 4, 8)
SEEDS = (1, 2, 3)


def group(root: Path, entry: Entry, score: Callable[[int], float], **facts: Any) -> Group:
    """Write one run per seed."""
    records = []
    for seed in SEEDS:
        folder = make_run(
            root / f"{entry.name}_{seed}", seed, (score(seed), 2 * score(seed)), **facts
        )
        records.append(read_record(folder))
    return Group(entry, records)


def asked(fit: str, groups: list[Group], baseline: str) -> dict[str, Any]:
    entries = summarise_entries(groups, baseline)
    study = study_of(asking(fit, "chunk size"), groups, entries)
    assert study is not None
    assert verdict({"study": study, "entries": entries}) == study["verdict"]
    names = {entry["series"]: entry["series"] for entry in entries}
    [picture] = study_section(study, series_styles(names)).pictures
    assert isinstance(picture.source, Figure)
    picture.source.draw_without_rendering()
    return study


def test_the_change_per_doubling_is_that_of_the_curve(tmp_path: Path) -> None:
    groups = [
        group(
            tmp_path, Entry(f"e{at}", series="trm", at=at),
            lambda seed, at=at: 50 * seed * at**0.1,
        )
        for at in AT
    ]  # fmt: skip
    study = asked("trend", groups, "e1")
    (slope,) = study["slopes"]
    assert slope["per_doubling"]["mean"] == pytest.approx(100 * (2**0.1 - 1))
    assert slope["per_doubling"]["half_width"] == pytest.approx(0, abs=1e-9)
    assert slope["best"]["at"] == 1
    (sentence,) = study["verdict"]
    assert "excludes zero" in sentence and "best at 1" in sentence
    assert "| e8 " in "\n".join(study_parts(study))


def test_a_slope_that_differs_by_seed_is_told_to_be_uncertain(tmp_path: Path) -> None:
    signs = {1: 0.1, 2: -0.1, 3: 0.02}
    groups = [
        group(
            tmp_path, Entry(f"e{at}", series="trm", at=at),
            lambda seed, at=at: 50 * at ** signs[seed],
        )
        for at in AT
    ]  # fmt: skip
    (sentence,) = asked("trend", groups, "e1")["verdict"]
    assert "no trend can be told" in sentence


def test_a_gain_is_over_each_entrys_own_baseline(tmp_path: Path) -> None:
    """The second pair is of another vocabulary, whose perplexities do not compare."""
    groups = [
        group(tmp_path, Entry("ar_5", series="ar", at=5, against="ar_5"), lambda seed: 100.0),
        group(tmp_path, Entry("trm_5", series="trm", at=5, against="ar_5"), lambda seed: 90.0),
        group(
            tmp_path, Entry("ar_10", series="ar", at=10, against="ar_10"), lambda seed: 200.0,
            vocab_size=99, data_fingerprint="other",
        ),
        group(
            tmp_path, Entry("trm_10", series="trm", at=10, against="ar_10"), lambda seed: 190.0,
            vocab_size=99, data_fingerprint="other",
        ),
    ]  # fmt: skip
    check_comparable(groups, "ar_5")
    study = asked("gain", groups, "ar_5")
    gains = {point["name"]: point["value"]["mean"] for point in study["points"]}
    assert gains == {"trm_5": pytest.approx(10), "trm_10": pytest.approx(5)}
    assert "percentage points per doubling" in study["verdict"][0]
    alone = [Group(Entry(g.entry.name), g.records) for g in groups]
    with pytest.raises(UserError, match="cannot be compared"):
        check_comparable(alone, "ar_5")


def curve(score: Callable[[float], float], noise: float, seed: int = 0) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    places = (0.05, 0.1, 0.2, 0.5, 1, 2, 5)
    return [
        curve_point(
            f"e{at}", "trm", at, {s: score(at) + float(noise * random.normal()) for s in SEEDS}
        )
        for at in places
    ]


def test_a_break_is_found_where_it_is() -> None:
    points = curve(lambda at: 2 - 0.1 * math.log(at) - 0.8 * max(0.0, math.log(at)), 0.02)
    study = breaks(points, "examples")
    (found,) = study["breaks"]
    assert found["low"] <= found["at"] <= found["high"] and 0.7 < found["at"] < 1.5
    assert found["p"] < 0.01
    assert found["slopes"] == [pytest.approx(-0.1, abs=0.05), pytest.approx(-0.9, abs=0.1)]
    assert "the curve bends at" in study["verdict"][0]


def test_a_break_elsewhere_is_not_said_to_be_at_one() -> None:
    points = curve(lambda at: 2 - 0.8 * max(0.0, math.log(at / 0.2)), 0.02)
    assert "excludes 1" in breaks(points, "examples")["verdict"][0]


def test_straight_lines_have_no_break_but_for_the_chance_that_is_told() -> None:
    lines = [curve(lambda at: 2 - 0.3 * math.log(at), 0.05, seed) for seed in range(30)]
    found = [breaks(points, "examples") for points in lines]
    p = [study["breaks"][0]["p"] for study in found]
    assert sum(value < 0.05 for value in p) <= 5 and 0.3 < float(np.mean(p)) < 0.7
    for study, value in zip(found, p, strict=True):
        assert ("no break" in study["verdict"][0]) == (value >= 0.05)


def test_too_few_places_are_said_to_be() -> None:
    points = curve(lambda at: 2 - 0.3 * math.log(at), 0.01)[:4]
    assert "fewer than 5 places" in breaks(points, "examples")["verdict"][0]


def test_a_run_that_starts_from_another_comes_after_it(tmp_path: Path) -> None:
    cfg = config("budget.steps=10", "seeds=[7]")
    cfg.entries = OmegaConf.create(
        "[{name: a, overrides: [model=ar]}, "
        "{name: b, starts_from: a, budget_share: 2, overrides: [model=ar]}]"
    )
    first, second = make_plan(cfg, tmp_path, [], CALL).runs
    assert first.after is None and second.after == first.folder
    assert f"init_from='{first.folder.resolve()}'" in second.overrides
    assert "budget.steps=20" in second.overrides


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ("[{name: a, starts_from: b}, {name: b}]", "no such entry before it"),
        (
            "[{name: a}, {name: b, same_runs_as: a}, {name: c, starts_from: b}]",
            "no runs of its own",
        ),
        ("[{name: a, against: c}]", "against=c: there is no such entry"),
    ],
)
def test_references_that_lead_nowhere_are_refused(tmp_path: Path, entries: str, said: str) -> None:
    cfg = config()
    cfg.entries = OmegaConf.create(entries)
    with pytest.raises(UserError, match=said):
        make_plan(cfg, tmp_path, [], CALL)
