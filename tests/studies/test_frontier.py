"""The frontier, held against numbers worked out elsewhere."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_folders import asking, make_run

from trm_lightning.studies.entries import Entry
from trm_lightning.studies.fits import study_of
from trm_lightning.studies.frontier import Envelope
from trm_lightning.studies.paired_statistics import summarise_entries
from trm_lightning.studies.run_records import Group, Record, read_record
from trm_lightning.studies.study_table import study_parts

# Points are parameters, perplexity, tokens (in proportion to FLOPs) and seconds.
Point = tuple[str, int, float, int, float]


def make_groups(root: Path, seeds: Mapping[int, Mapping[str, Point]]) -> list[Group]:
    """Write runs of each seed's entries; an entry's name is the same for all seeds."""
    names: dict[str, str] = {}
    for seed, points in seeds.items():
        for name, (series, parameters, perplexity, tokens, seconds) in points.items():
            names[name] = series
            make_run(
                root / f"{name}_{seed}", seed, (perplexity, 2 * perplexity),
                parameters=parameters, tokens_seen=tokens, seconds=seconds,
            )  # fmt: skip
    return [
        Group(Entry(name, series=series), [read_record(root / f"{name}_{s}", s) for s in seeds])
        for name, series in names.items()
    ]


def frontier_of(root: Path, seeds: Mapping[int, Mapping[str, Point]]) -> dict[str, Any]:
    groups = make_groups(root, seeds)
    study = study_of(asking("frontier"), groups, summarise_entries(groups, groups[0].entry.name))
    assert study is not None
    return study


def ratios(study: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [point["ratios"] for point in study["points"] if point["name"] == name]
    assert isinstance(found, dict)
    return found


AR: dict[str, Point] = {"small": ("ar", 1000, 100.0, 1000, 10), "large": ("ar", 4000, 50, 4000, 40)}


def test_an_equal_halfway_between_two_sizes(tmp_path: Path) -> None:
    halfway = math.sqrt(100 * 50)  # hence equal to 2,000 parameters, tokens, and 20 seconds
    study = frontier_of(tmp_path, {1: {**AR, "trm": ("trm", 500, halfway, 3000, 100)}})
    found = ratios(study, "trm")
    told = {cost: (r["relation"], pytest.approx(r["ratio"])) for cost, r in found.items()}
    assert told == {"parameters": ("equal", 4), "flops": ("equal", 1.5), "seconds": ("equal", 5)}
    assert found["parameters"]["low"] is None  # of one seed
    points = {point["name"]: point for point in study["points"]}
    assert points["small"]["ratios"] is None
    assert points["trm"]["flops"]["mean"] == 3e9 and points["trm"]["perplexity"]["n"] == 1
    _, text, table = study_parts(study)
    assert "| trm " in table and " 4.00 " in table and " 1.50 " in table and " 5.00 |" in table
    assert "ar with its perplexity" in text


def test_seeds_are_averaged_as_logarithms_each_with_its_own_curve(tmp_path: Path) -> None:
    scaled = {name: (s, n, 3 * ppl, t, sec) for name, (s, n, ppl, t, sec) in AR.items()}
    study = frontier_of(
        tmp_path,
        {
            1: {**AR, "trm": ("trm", 1000, 100.0, 1000, 10)},
            2: {**scaled, "trm": ("trm", 1000, 150.0, 1000, 10)},
        },
    )
    found = ratios(study, "trm")["parameters"]  # 1 and 4
    assert found["ratio"] == pytest.approx(2) and found["n"] == 2
    half = 12.7062 * math.log(4) / 2  # printed t, times the standard error of two logarithms
    assert found["low"] == pytest.approx(2 * math.exp(-half), rel=1e-3)
    assert found["high"] == pytest.approx(2 * math.exp(half), rel=1e-3)


def test_a_net_that_is_of_the_baselines_is_worth_itself(tmp_path: Path) -> None:
    study = frontier_of(tmp_path, {1: {**AR, "same": ("trm", *AR["large"][1:])}})
    assert [r["ratio"] for r in ratios(study, "same").values()] == pytest.approx([1, 1, 1])
    assert {r["relation"] for r in ratios(study, "same").values()} == {"equal"}


def test_what_lies_beyond_the_curve_is_a_bound(tmp_path: Path) -> None:
    study = frontier_of(
        tmp_path,
        {
            1: {**AR, "good": ("trm", 1000, 40.0, 2000, 80), "bad": ("trm", 2000, 120.0, 500, 5),
                "near": ("trm", 1000, 50.0, 1, 1), "torn": ("trm", 1000, 40.0, 1, 1)},
            2: {**AR, "good": ("trm", 1000, 40.0, 2000, 80), "bad": ("trm", 2000, 120.0, 500, 5),
                "near": ("trm", 1000, 40.0, 1, 1), "torn": ("trm", 1000, 120.0, 1, 1)},
        },
    )  # fmt: skip
    good, bad, near = (ratios(study, name) for name in ("good", "bad", "near"))
    told = [(r["relation"], pytest.approx(r["ratio"])) for r in (*good.values(), *bad.values())]
    assert told == [
        ("more than", 4), ("less than", 0.5), ("less than", 2),
        ("less than", 0.5), ("more than", 0.5), ("more than", 0.5),
    ]  # fmt: skip
    assert good["parameters"]["low"] is None and good["parameters"]["n_beyond"] == 2
    assert (near["parameters"]["relation"], near["parameters"]["n_beyond"]) == ("more than", 1)
    assert ratios(study, "torn")["parameters"] is None  # above with one seed, below with another
    assert "more than 4.00" in study_parts(study)[2]
    assert "near (parameters, flops, seconds)" in "".join(study["notes"])


def test_the_envelope_against_a_scan_of_all_costs() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        points = [(float(c), float(p)) for c, p in np.exp(random.normal(3, 1, (6, 2)))]
        envelope = Envelope.of(points)
        scanned = np.geomspace(min(points)[0], max(points)[0], 20_001)
        corners = sorted(points)
        best = [min(p for other, p in points if other <= cost) for cost, _ in corners]
        curve = np.exp(np.interp(np.log(scanned), np.log([c for c, _ in corners]), np.log(best)))
        for perplexity in np.exp(random.normal(3, 1, 5)):
            cost, side = envelope.cost_of(float(perplexity))
            reached = scanned[curve <= perplexity]
            if side == 1:
                assert perplexity < min(p for _, p in points) and not reached.size
            elif side == -1:
                assert perplexity > corners[0][1] and cost == corners[0][0]
            else:
                assert cost == pytest.approx(reached[0], rel=1e-3)


def test_a_larger_net_that_is_worse_does_not_bend_the_curve_up(tmp_path: Path) -> None:
    worse: Point = ("ar", 2000, 130.0, 2000, 20)
    study = frontier_of(
        tmp_path, {1: {**AR, "worse": worse, "trm": ("trm", 1000, 100.0, 1000, 10)}}
    )
    assert ratios(study, "trm")["parameters"]["ratio"] == pytest.approx(1)
    # Beyond it, the line goes from 2,000 parameters, at the 100 that 1,000 reach, to 4,000.
    root = tmp_path / "better"
    study = frontier_of(root, {1: {**AR, "worse": worse, "trm": ("trm", 1000, 5000**0.5, 1, 1)}})
    assert ratios(study, "trm")["parameters"]["ratio"] == pytest.approx(8**0.5)


def test_a_study_of_runs_that_are_missing_or_no_likelihood(tmp_path: Path) -> None:
    groups = make_groups(tmp_path, {1: {**AR, "trm": ("trm", 500, 70.0, 1, 1)}})
    make_run(tmp_path / "warm_1", 1, (1.3, 1.4), metric="warm_start_ppl")
    groups.append(Group(Entry("warm", series="trm"), [read_record(tmp_path / "warm_1", 1)]))
    groups.append(Group(Entry("later", series="trm"), [read_record(tmp_path / "later_1", 1)]))
    trm = groups[2].records
    trm[0] = Record(trm[0].folder, 7, trm[0].results, trm[0].history)  # a seed without baseline
    for kind in ("frontier", "recurrence"):
        study = study_of(asking(kind), groups, summarise_entries(groups, "small"))
        assert study is not None
        assert [point["name"] for point in study["points"]] == ["small", "large", "trm"]
        assert any(note.startswith("warm: left out") for note in study["notes"])
    nothing = [Group(g.entry, [read_record(tmp_path / "none", 1)]) for g in groups]
    for kind in ("frontier", "recurrence"):
        study = study_of(asking(kind), nothing, summarise_entries(nothing, "small"))
        assert study is not None and study["points"] == []
        assert len(study_parts(study)) == 3
    assert study_of(asking(None), groups, []) is None
