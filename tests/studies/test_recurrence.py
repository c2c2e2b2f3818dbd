"""The recurrence exponent: known ones are recovered, and intervals cover them."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_folders import asking, config, make_run
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from trm_lightning.reports.command import report
from trm_lightning.studies import comparison
from trm_lightning.studies.entries import Entry
from trm_lightning.studies.fits import study_of
from trm_lightning.studies.run_records import Group, Record, read_record
from trm_lightning.studies.study_table import study_parts

Shape = tuple[str, int, int]  # series, blocks, loops
SHAPES: list[Shape] = [("ar", n, 1) for n in (1, 2, 4, 8)] + [("trm", 1, r) for r in (1, 2, 4, 8)]


def recurrence_of(nats: Mapping[Shape, Sequence[float]], width: int = 64) -> dict[str, Any]:
    """Make the study of runs with these nats per token, one for each seed."""
    groups, entries = [], []
    for i, ((series, blocks, loops), values) in enumerate(nats.items()):
        results = {"width": width, "n_layers": blocks, "n_passes": loops}
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
    study = study_of(asking("recurrence"), groups, entries)
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
    assert "without a gain from blocks" in flat["notes"][0]
    # Loops that do what only thousands of blocks could.
    strong = {s: [law(s, 5.0)] for s in SHAPES}
    assert "no minimum with phi" in recurrence_of(strong)["notes"][0]


# The whole.


@pytest.mark.parametrize("kind", ["frontier", "recurrence"])
def test_a_study_from_run_folders_to_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stored = OmegaConf.create({"overrides": {"task": [f"fit={kind}"]}})
    monkeypatch.setattr(HydraConfig, "get", lambda: stored)
    groups = []
    for series, blocks, loops in SHAPES:
        name, records = f"{series}_{blocks}x{loops}", []
        for seed in (1, 2):
            ppl = math.exp(law((series, blocks, loops), 0.5) + 0.001 * seed)
            run = make_run(
                tmp_path / "runs" / f"{name}_seed{seed}", seed, (ppl, ppl),
                n_layers=blocks, n_passes=loops, parameters=1000 * blocks, seconds=blocks * loops,
            )  # fmt: skip
            records.append(read_record(run))
        groups.append(Group(Entry(name, series=series), records))
    comparison.write_comparison(config("name=test", f"fit={kind}"), tmp_path, groups, "ar_1x1")
    study = json.loads((tmp_path / "comparison.json").read_text())["study"]
    report(OmegaConf.create({"path": str(tmp_path), "trust": [], "check": False}))
    markdown = (tmp_path / "report.md").read_text()
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
