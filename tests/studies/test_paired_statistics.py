"""Figures, notes and tables of a comparison, from prepared run folders."""

import re
from pathlib import Path
from typing import Any

import pytest
from compare_folders import make_run, make_summary, score

from trm_lightning.studies.entries import Entry
from trm_lightning.studies.notes import notes_on
from trm_lightning.studies.paired_statistics import summarise_entries
from trm_lightning.studies.run_records import Group, read_record
from trm_lightning.studies.table import render


def test_figures_of_two_seeds_worked_out_by_hand(tmp_path: Path) -> None:
    for seed, base, other in (
        (1, (100.0, 110.0), (80.0, 90.0)),
        (2, (120.0, 126.0), (110.0, 120.0)),
    ):
        make_run(tmp_path / f"ar_{seed}", seed, base, seconds=10)
        make_run(tmp_path / f"trm_{seed}", seed, other, seconds=40)
    baseline, model = make_summary(tmp_path, ["ar", "trm"], [1, 2])
    figures = model["figures"]
    assert baseline["figures"]["best"]["mean"] == 110
    assert baseline["figures"]["degradation_percent"]["mean"] == pytest.approx(7.5)
    assert figures["best_difference"]["mean"] == -15  # -20 and -10
    assert figures["best_difference"]["half_width"] == pytest.approx(12.7062 * 5, rel=1e-4)
    assert figures["best_perplexity_improvement_percent"]["mean"] == pytest.approx(
        14.1667, abs=1e-3
    )
    assert figures["time_ratio"]["mean"] == pytest.approx(4)
    # A split of 1,000 tokens in 4,000 characters: a quarter of the bits per token.
    assert figures["bits_per_character"]["mean"] == pytest.approx((6.32193 + 6.78136) / 8, abs=1e-4)


def test_the_share_of_the_gap_to_a_known_floor_that_an_entry_closes(tmp_path: Path) -> None:
    for name, best in (("ar", 40.0), ("trm", 20.0), ("worse", 80.0)):
        make_run(tmp_path / f"{name}_1", 1, (best, best), entropy_floor_perplexity=10.0)
    make_run(tmp_path / "ar_2", 2, (40.0, 40.0))
    make_run(tmp_path / "trm_2", 2, (20.0, 20.0))  # of text whose floor is not known
    found = make_summary(tmp_path, ["ar", "trm", "worse"], [1])
    closed = [entry["figures"]["floor_gap_closed_percent"]["mean"] for entry in found]
    assert closed == pytest.approx([0, 50, -50])
    rows = [[cell.strip() for cell in line.split("|")] for line in rendered(found).splitlines()]
    column = next(row for row in rows if "Best" in row).index("Gap to the floor closed")
    assert next(row for row in rows if "trm" in row)[column].startswith("+50")
    unknown = make_summary(tmp_path, ["ar", "trm"], [2])
    assert unknown[1]["figures"]["floor_gap_closed_percent"] is None
    assert "Gap to the floor" not in rendered(unknown)


def test_tokens_and_seconds_to_the_baselines_best(tmp_path: Path) -> None:
    make_run(tmp_path / "ar_1", 1, (100.0, 110.0), seconds=10)
    make_run(tmp_path / "trm_1", 1, (80.0, 90.0), seconds=40)
    make_run(tmp_path / "worse_1", 1, (130.0, 140.0), seconds=40)
    _, model, worse = make_summary(tmp_path, ["ar", "trm", "worse"], [1])
    assert model["figures"]["tokens_to_baseline"]["mean"] == 500  # the first of two validations
    assert model["figures"]["seconds_to_baseline"]["mean"] == 20
    assert worse["figures"]["reached_baseline"] == 0
    assert worse["figures"]["tokens_to_baseline"] is None


def test_a_warm_start_is_never_shown_as_a_perplexity(tmp_path: Path) -> None:
    make_run(tmp_path / "ar_1", 1, (100.0, 110.0))
    make_run(tmp_path / "warm_1", 1, (1.3, 1.4), metric="warm_start_ppl", ending=500.0)
    entries = [
        Entry("warm", published=1.33),
        Entry("blind", same_runs_as="warm", metric="val/ppl_without_answer"),
        Entry("ar", published=159.06),
    ]
    warm, blind, _ = make_summary(tmp_path, entries, [1], baseline="ar")
    assert not warm["comparable"] and "best_difference" not in warm["runs"][0]
    assert blind["comparable"] and blind["figures"]["best"] is None  # scored at the end alone
    assert blind["figures"]["final_difference"]["mean"] == 390
    table = rendered([warm, blind, _])
    for line in table.splitlines():
        for cell in line.split("|"):
            if any(f" {number} " in f" {cell} " for number in ("1.3", "1.4", "1.33")):
                assert "not a likelihood" in cell
    assert table.count("not a likelihood") >= 4
    assert "not a likelihood" not in next(x for x in table.splitlines() if x.startswith("| ar"))
    blind = next(x for x in table.splitlines() if x.startswith("| blind"))
    assert "500" in [cell.strip() for cell in blind.split("|")]


def test_scores_of_another_text_get_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path / "ar_1", 1, (100.0, 110.0), scrambled=55.0)
    entries = [Entry("ar"), Entry("scrambled", same_runs_as="ar", metric="val_scrambled/ppl")]
    _, scrambled = make_summary(tmp_path, entries, [1])
    assert not scrambled["comparable"]
    assert scrambled["figures"]["final_difference"] is None
    assert "55 (of val_scrambled)" in rendered([_, scrambled])


def test_a_name_with_a_bar_stays_in_its_cell(tmp_path: Path) -> None:
    make_run(tmp_path / "a | b_1", 1, (100.0, 110.0))
    entries = make_summary(tmp_path, [Entry("a | b")], [1])
    line = next(line for line in rendered(entries).splitlines() if "b |" in line and "100" in line)
    assert [cell.strip() for cell in re.split(r"(?<!\\)\|", line)][1] == r"a \| b"


def test_notes_tell_of_parity_budget_and_unfinished_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "ar_1", 1, (100.0, 110.0), seconds=10)
    make_run(tmp_path / "trm_1", 1, (80.0, 90.0), seconds=40, parameters=1030)
    make_run(tmp_path / "trm_2", 2, (80.0, 90.0), finished=False)
    groups = [
        Group(Entry("ar"), [read_record(tmp_path / "ar_1")]),
        Group(Entry("trm"), [read_record(tmp_path / "trm_1"), read_record(tmp_path / "trm_2", 2)]),
    ]
    entries = summarise_entries(groups, "ar")
    notes = "\n".join(notes_on(groups, entries, "parameters", "smoke"))
    assert "NOT AT PARITY in parameters, as was asked: trm +3.0 %" in notes
    assert "Not equal in seconds: trm +300.0 %" in notes
    assert "SMOKE BUDGET" in notes
    assert "trm, seed 2: unfinished at step 20" in notes
    notes = "\n".join(notes_on(groups, entries, "tokens", None))
    assert "At parity in tokens" in notes and "BUDGET" not in notes


def rendered(entries: list[dict[str, Any]]) -> str:
    return render(
        {"name": "test", "data": "toy", "baseline": "ar", "entries": entries, "notes": [],
         "command": ["compare"]}
    )  # fmt: skip


def test_test_scores_have_a_table_of_their_own(tmp_path: Path) -> None:
    """They are of the best weights, differ by seed, and are absent without a test split."""
    assert "test text" not in rendered(make_summary_of(tmp_path / "without", None, None))
    entries = make_summary_of(tmp_path / "with", 200.0, 150.0)
    figures = entries[1]["figures"]
    assert figures["test"]["mean"] == 150
    assert figures["test_difference"]["mean"] == -50
    assert figures["test_perplexity_improvement_percent"]["mean"] == pytest.approx(25)
    assert "## Perplexity on test text" in rendered(entries)
    rows = [[cell.strip() for cell in line.split("|")] for line in rendered(entries).splitlines()]
    assert ["", "trm", "150", "-50", "+25 %", "+5.4 %", ""] in rows


def make_summary_of(root: Path, *tests: float | None) -> list[dict[str, Any]]:
    for name, perplexity in zip(("ar", "trm"), tests, strict=True):
        found = {} if perplexity is None else {"test/ppl": score(perplexity, "test/ppl")}
        make_run(root / f"{name}_1", 1, (100.0, 110.0), test=found)
    return make_summary(root, ["ar", "trm"], [1])
