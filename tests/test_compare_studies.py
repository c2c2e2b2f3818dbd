"""Studies: curves through a comparison's entries, held against numbers worked out elsewhere."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_folders import make_run, tiny_config
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from test_compare import CALL, config
from test_report import assert_self_contained, make_report

from trm_lightning.errors import UserError
from trm_lightning.studies import session, summary
from trm_lightning.studies.cost import count_parameters
from trm_lightning.studies.entries import Entry
from trm_lightning.studies.frontier import Envelope
from trm_lightning.studies.plan import make_plan
from trm_lightning.studies.record import Group, Record, read_record
from trm_lightning.studies.studies import make_study
from trm_lightning.studies.study_table import study_parts

# Planning.


@pytest.mark.parametrize(
    ("study", "entries", "said"),
    [
        ("fronteir", "[{name: a, series: ar}]", "did you mean `frontier`"),
        ("frontier", "[{name: a, series: ar}, {name: b}, {name: c}]", "no `series`: b, c"),
        ("recurrence", "null", "no `series`: ar, trm"),
        ("frontier", "[{name: a, series: ar}, {name: b, series: ar}]", "every entry is of .* ar"),
        ("frontier", "[{name: a, serie: ar}]", "`serie`; did you mean `series`"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(
    tmp_path: Path, study: str, entries: str, said: str
) -> None:
    cfg = config(f"study={study}")
    cfg.entries = OmegaConf.create(entries) if entries != "null" else None
    with pytest.raises(UserError, match=said):
        make_plan(cfg, tmp_path, [], CALL)


VOCABULARY = {
    "frontier_char": ("shakespeare_char", 65),
    "frontier_word": ("shakespeare_word", 5000),
    "frontier_wikitext2": ("wikitext2_word", 10_000),
    "recurrence_char": ("shakespeare_char", 65),
    "recurrence_word": ("shakespeare_word", 5000),
}


@pytest.mark.parametrize("name", VOCABULARY)
def test_the_studies_of_conf_compose(tmp_path: Path, name: str) -> None:
    data, vocab_size = VOCABULARY[name]
    cfg = config(f"compare={name}")
    made = make_plan(cfg, tmp_path, [f"data={data}"], CALL)
    series = {entry.name: entry.series for entry in made.entries}
    assert series[made.baseline] == "ar"
    assert all(not run.overrides.count("study") for run in made.runs)
    sizes = {entry: count_parameters(c, vocab_size) for entry, c in made.configs.items()}
    if cfg.study == "recurrence":
        widths = {made.configs[entry].model.width for entry in sizes}
        assert widths == {64 if vocab_size == 65 else 128}
        assert set(series.values()) == {"ar", "trm", "truncated"}
        return
    assert set(series.values()) == {"ar", "trm"}
    ar, trm = ([size for e, size in sizes.items() if series[e] == kind] for kind in ("ar", "trm"))
    # WikiText-2's baseline goes further: the equal of its largest recursive net is up there.
    most = 3_000_000 if name == "frontier_wikitext2" else 2_000_000
    assert min(ar) < 100_000 and 1_500_000 < max(ar) < most and max(trm) < 2_000_000
    for entry, size in sizes.items():
        assert min(abs(size / other - 1) for other in ar) < 0.25, entry


# The frontier: points are parameters, perplexity, tokens (in proportion to FLOPs) and seconds.

Point = tuple[str, int, float, int, float]


@pytest.fixture(autouse=True)
def counted_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "training_flops_per_token", lambda *_: 1e6)


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
    study = make_study("frontier", groups, summary.summarise_entries(groups, groups[0].entry.name))
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
        study = make_study(kind, groups, summary.summarise_entries(groups, "small"))
        assert study is not None
        assert [point["name"] for point in study["points"]] == ["small", "large", "trm"]
        assert any(note.startswith("warm: left out") for note in study["notes"])
    nothing = [Group(g.entry, [read_record(tmp_path / "none", 1)]) for g in groups]
    for kind in ("frontier", "recurrence"):
        study = make_study(kind, nothing, summary.summarise_entries(nothing, "small"))
        assert study is not None and study["points"] == []
        assert len(study_parts(study)) == 3
    assert make_study(None, groups, []) is None


# Recurrence.

Shape = tuple[str, int, int]  # series, blocks, loops
SHAPES: list[Shape] = [("ar", n, 1) for n in (1, 2, 4, 8)] + [("trm", 1, r) for r in (1, 2, 4, 8)]


def recurrence_of(nats: Mapping[Shape, Sequence[float]], width: int = 64) -> dict[str, Any]:
    """Make the study of runs with these nats per token, one for each seed."""
    groups, entries = [], []
    for i, ((series, blocks, loops), values) in enumerate(nats.items()):
        net = {"width": width, "n_layers": blocks}
        if series != "ar":  # half of the passes are recursions, where that can be
            recursions = 1 - loops % 2
            net |= {"n_refinements": loops // (recursions + 1), "n_recursions": recursions}
        results = {"config": {"model": {"net": net}}}
        name = f"{series}_{blocks}x{loops}"
        records = [Record(Path("run"), seed, results, []) for seed in range(len(values))]
        groups.append(Group(Entry(name, series=series), records))
        runs = [
            {"seed": seed, "status": "completed", "best": math.exp(value), "final": 99.0}
            for seed, value in enumerate(values)
        ]
        entries.append(
            {"name": name, "series": series, "is_baseline": i == 0, "comparable": True,
             "metric": "val/ppl", "runs": runs}
        )  # fmt: skip
    study = make_study("recurrence", groups, entries)
    assert study is not None
    return study


def law(shape: Shape, phi: float, alpha: float = 0.6, floor: float = 1.3, size: float = 0.4) -> Any:
    _, blocks, loops = shape
    return floor + size / (blocks * loops**phi) ** alpha


def noisy(random: np.random.Generator, phi: float, seeds: int) -> dict[Shape, Sequence[float]]:
    return {shape: law(shape, phi) + random.normal(0, 0.01, seeds) for shape in SHAPES}


# 0: loops bring nothing. 1: each loop is as good as a block. Below 0: loops do harm.
@pytest.mark.parametrize("phi", [0.0, 0.46, 1.0, 1.3, -0.3])
@pytest.mark.parametrize("alpha", [0.07, 0.6, 2.0])
def test_a_known_exponent_is_recovered(phi: float, alpha: float) -> None:
    study = recurrence_of({shape: [law(shape, phi, alpha)] for shape in SHAPES})
    (found,) = study["exponents"]
    assert found["phi"] == pytest.approx(phi, abs=1e-5)
    assert found["alpha"] == pytest.approx(alpha, rel=1e-4)
    assert found["floor"] == pytest.approx(1.3, rel=1e-4) and found["residual"] < 1e-6
    assert found["low"] is None and "no interval" in study["notes"][0]
    table = study_parts(study)[2]
    assert f"| {phi:.2f} |" in " ".join(table.split())
    assert all(re.fullmatch("-+:?", cell.strip()) for cell in table.split("\n")[1].split("|")[1:-1])


def test_each_series_has_an_exponent_of_its_own() -> None:
    shapes = {shape: [law(shape, 0.7)] for shape in SHAPES}
    shapes |= {("truncated", 2, r): [law(("", 2, r), 0.2)] for r in (1, 2, 4)}
    found = {e["series"]: e["phi"] for e in recurrence_of(shapes)["exponents"]}
    assert found == {"trm": pytest.approx(0.7, abs=1e-5), "truncated": pytest.approx(0.2, abs=1e-5)}


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of three seeds, where quantiles of resamples would cover it in 70 of 100 cases."""
    random = np.random.default_rng(3)
    found = [recurrence_of(noisy(random, 0.5, seeds=3))["exponents"][0] for _ in range(60)]
    covered = sum(e["low"] <= 0.5 <= e["high"] for e in found)
    assert 54 <= covered <= 60
    assert not any(e["low"] <= 0.0 or e["high"] >= 1.0 for e in found)


def test_seeds_that_some_entries_lack_are_told() -> None:
    runs = noisy(np.random.default_rng(0), 0.5, 3)
    assert not recurrence_of(runs)["notes"]
    first = next(iter(runs))
    assert "different seeds" in recurrence_of(runs | {first: runs[first][:2]})["notes"][0]


def test_the_interval_is_the_same_each_time() -> None:
    runs = noisy(np.random.default_rng(0), 0.5, 4)
    assert recurrence_of(runs)["exponents"] == recurrence_of(runs)["exponents"]


def test_no_pair_of_exponents_fits_better() -> None:
    """A plain search with numpy's own least squares, on runs that no law fits exactly."""
    runs = noisy(np.random.default_rng(5), 0.3, 2)
    (found,) = recurrence_of(runs)["exponents"]
    y = np.concatenate([np.asarray(values) for values in runs.values()])
    n, r = np.array([shape[1:] for shape in runs for _ in range(2)], dtype=float).T
    for alpha in np.geomspace(0.05, 4, 60):
        for phi in np.linspace(-1, 2, 61):
            x = np.stack([np.ones_like(n), (n * r**phi) ** -alpha], axis=1)
            solution = np.linalg.lstsq(x, y, rcond=None)[0]
            residual = np.sqrt(np.mean((x @ solution - y) ** 2))
            assert residual >= found["residual"] or solution.min() < 0


def test_floor_and_amplitude_are_never_negative() -> None:
    (found,) = recurrence_of({s: [1.0 - 0.1 * math.log(s[1] * s[2])] for s in SHAPES})["exponents"]
    assert found["floor"] == 0 and found["phi"] == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([s for s in SHAPES if s[1] in (1, 2)], "needs 3 numbers of blocks in ar, and 2"),
        ([s for s in SHAPES if s[2] == 1], "needs 2 numbers of loops in trm, and 1"),
    ],
)
def test_too_few_points_are_told(shapes: list[Shape], said: str) -> None:
    study = recurrence_of({shape: [law(shape, 0.5)] for shape in shapes})
    assert study["exponents"][0]["phi"] is None and said in study["notes"][0]
    assert "not identified" in study_parts(study)[2]


def test_what_cannot_be_identified_is_told() -> None:
    flat = recurrence_of({shape: [2.0] for shape in SHAPES})
    worse = recurrence_of({shape: [2.0 + 0.01 * shape[1] - 0.1 * shape[2]] for shape in SHAPES})
    for study in (flat, worse):
        assert study["exponents"][0]["phi"] is None
        assert study["notes"][0].startswith("No exponent for trm: ")
    assert "blocks have no worth" in flat["notes"][0]
    # Loops that do what only thousands of blocks could.
    strong = {s: [law(s, 5.0)] for s in SHAPES}
    assert "no minimum with phi" in recurrence_of(strong)["notes"][0]


# The whole.


def with_net(**net: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(tiny_config())
    content["model"]["net"] |= net
    return content


@pytest.mark.parametrize("kind", ["frontier", "recurrence"])
def test_a_study_from_run_folders_to_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stored = OmegaConf.create({"overrides": {"task": [f"study={kind}"]}})
    monkeypatch.setattr(HydraConfig, "get", lambda: stored)
    groups = []
    for series, blocks, loops in SHAPES:
        name, records = f"{series}_{blocks}x{loops}", []
        for seed in (1, 2):
            ppl = math.exp(law((series, blocks, loops), 0.5) + 0.001 * seed)
            net = {"n_layers": blocks} | ({"n_refinements": loops} if series == "trm" else {})
            run = make_run(
                tmp_path / "runs" / f"{name}_seed{seed}", seed, (ppl, ppl),
                config=with_net(**net) | {"seed": seed}, parameters=1000 * blocks,
                seconds=blocks * loops,
            )  # fmt: skip
            records.append(read_record(run))
        groups.append(Group(Entry(name, series=series), records))
    session.write_comparison(config("name=test", f"study={kind}"), tmp_path, groups, "ar_1x1")
    study = json.loads((tmp_path / "comparison.json").read_text())["study"]
    html, markdown = make_report(tmp_path)
    assert_self_contained(html)
    drawn = (tmp_path / "figures" / f"{kind}.svg").read_text()
    for text in (markdown, (tmp_path / "table.md").read_text()):
        if kind == "frontier":
            assert "Parameter efficiency" in text and text.count("| trm_1x8 ") >= 2
        else:
            assert "Recurrence exponent" in text and "0.50" in text
    assert "trm" in drawn and "ar" in drawn
    if kind == "frontier":
        # 8 loops are sqrt(8) blocks, which lie on the line from 2 to 4.
        two, four, loops = (law(("", n, 1), 0.5) for n in (2, 4, 8**0.5))
        equal = 2 * 2 ** ((two - loops) / (two - four))
        assert f"- trm_1x8 equals: **{equal:.2f} (" in markdown
        for label in ("parameters", "training FLOPs", "seconds of training"):
            assert f"Over {label}" in drawn
    else:
        assert study["exponents"][0]["phi"] == pytest.approx(0.5, abs=0.02)
        assert "φ = 0.50" in drawn and "- φ of trm: **0.50" in markdown
