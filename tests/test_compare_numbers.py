"""Statistics, costs and tables of a comparison, on numbers worked out elsewhere."""

from pathlib import Path
from typing import Any

import pytest
from compare_folders import make_run, make_summary, score
from conftest import Configure
from omegaconf import OmegaConf

from trm_lightning.reports.comparison import markdown_tables
from trm_lightning.studies.cost import count_parameters, training_flops_per_token
from trm_lightning.studies.entries import Entry
from trm_lightning.studies.notes import notes_on
from trm_lightning.studies.record import Group, read_record
from trm_lightning.studies.statistics import estimate, t_quantile
from trm_lightning.studies.summary import summarise_entries
from trm_lightning.studies.table import render

# Two-sided 95 % points from printed tables of Student's t.
PRINTED = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 9: 2.2622, 10: 2.2281, 30: 2.0423}


@pytest.mark.parametrize(("freedom", "printed"), PRINTED.items())
def test_t_quantiles_are_those_of_the_printed_tables(freedom: int, printed: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(printed, abs=1e-4)


def test_quantiles_at_other_probabilities_and_the_normal_limit() -> None:
    assert t_quantile(0.95, 5) == pytest.approx(2.0150, abs=1e-4)
    assert t_quantile(0.975, 100_000) == pytest.approx(1.95996, abs=1e-4)


def test_an_interval_worked_out_by_hand() -> None:
    found = estimate([10.0, 12.0, 14.0])  # standard deviation 2, t 4.3027
    assert found is not None
    assert (found.mean, found.n) == (12.0, 3)
    assert found.half_width == pytest.approx(4.3027 * 2 / 3**0.5, abs=1e-3)


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    single = estimate([3.0])
    assert single is not None and single.half_width is None
    assert single.as_dict()["low"] is None
    assert estimate([]) is None


# Costs: the counter against sums written down from the architecture.

WIDTH, WINDOW, LAYERS = 16, 16, 2


def linear(rows: int) -> int:
    """Projections and MLP of one block: 3 + 1 + 4 + 4 squares of the width."""
    return 2 * rows * 12 * WIDTH**2


def attention(queries: int, keys: int) -> int:
    return 2 * 2 * queries * keys * WIDTH


def plain(configure: Configure, *overrides: str) -> Any:
    return OmegaConf.to_container(configure("logger=none", *overrides), resolve=True)


@pytest.mark.parametrize("supervised", [WINDOW, 2])
def test_flops_of_a_causal_model(configure: Configure, supervised: int) -> None:
    vocabulary = 100
    config = plain(configure, "model=ar", f"data.supervised_tokens={supervised}")
    forward = LAYERS * (linear(WINDOW) + attention(WINDOW, WINDOW))
    forward += 2 * supervised * WIDTH * vocabulary
    # Backwards, each product becomes two: for its input and for its weights or other input.
    assert training_flops_per_token(config, vocabulary) == 3 * forward / WINDOW


def test_flops_of_a_recursive_model(configure: Configure) -> None:
    vocabulary, refinements, recursions = 100, 3, 2
    config = plain(
        configure, "model=trm_cached", "model.factorization=parallel",
        f"model.n_refinements={refinements}", f"model.n_recursions={recursions}",
        "model.backprop_depth=1",
    )  # fmt: skip
    passes = recursions + 1
    encode = LAYERS * (linear(WINDOW) + attention(WINDOW, WINDOW))
    refine = passes * LAYERS * (linear(WINDOW) + attention(WINDOW, WINDOW + 8))  # 8: a group's
    heads = 2 * (2 * WINDOW * WIDTH * vocabulary)  # of the answer and of the draft
    forward_only = (refinements - 1) * refine
    expected = (3 * (encode + refine + heads) + forward_only) / WINDOW
    assert training_flops_per_token(config, vocabulary) == pytest.approx(expected, rel=0.02)


def test_supervision_steps_multiply_the_cost(configure: Configure) -> None:
    once = training_flops_per_token(plain(configure, "model=trm"), 50)
    four = training_flops_per_token(plain(configure, "model=trm", "model.n_supervision=4"), 50)
    # Later steps go on from a detached state, which saves a little of the way back.
    assert four == pytest.approx(4 * once, rel=0.01)


def test_counting_leaves_random_numbers_alone(configure: Configure) -> None:
    import torch

    config = plain(configure, "model=trm")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    training_flops_per_token(config, 50)
    assert torch.equal(torch.rand(2), expected)


def test_parameters_are_the_sources(configure: Configure) -> None:
    config = plain(
        configure, "model=ar", "model.norm=pre", "model.positions=learned",
        "data.window_size=66",
    )  # fmt: skip
    config["model"]["net"] |= {"width": 64, "n_heads": 4}
    assert count_parameters(config, 65) == 108_480  # published for the character models


# Figures, from prepared folders.


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
        for number in ("1.30", "1.40", "1.33"):
            assert line.count(number) <= line.count("not a likelihood") * line.count(number)
    assert table.count("not a likelihood") >= 4
    assert "not a likelihood" not in next(x for x in table.splitlines() if x.startswith("| ar"))
    assert "500.00" in next(x for x in table.splitlines() if x.startswith("| blind"))


def test_scores_of_another_text_get_no_difference(tmp_path: Path) -> None:
    make_run(tmp_path / "ar_1", 1, (100.0, 110.0), scrambled=55.0)
    entries = [Entry("ar"), Entry("scrambled", same_runs_as="ar", metric="val_scrambled/ppl")]
    _, scrambled = make_summary(tmp_path, entries, [1])
    assert not scrambled["comparable"]
    assert scrambled["figures"]["final_difference"] is None
    assert "55.00 (of val_scrambled)" in rendered([_, scrambled])


def test_a_name_with_a_bar_stays_in_its_cell(tmp_path: Path) -> None:
    make_run(tmp_path / "a | b_1", 1, (100.0, 110.0))
    entries = make_summary(tmp_path, [Entry("a | b")], [1])
    scores, *_ = markdown_tables(rendered(entries))
    assert [row[:2] for row in scores.rows] == [["a | b", "100.00"]]


def test_notes_tell_of_parity_scale_and_unfinished_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "ar_1", 1, (100.0, 110.0), seconds=10)
    make_run(tmp_path / "trm_1", 1, (80.0, 90.0), seconds=40, parameters=1030)
    make_run(tmp_path / "trm_2", 2, (80.0, 90.0), finished=False)
    groups = [
        Group(Entry("ar"), [read_record(tmp_path / "ar_1")]),
        Group(Entry("trm"), [read_record(tmp_path / "trm_1"), read_record(tmp_path / "trm_2", 2)]),
    ]
    entries = summarise_entries(groups, "ar")
    notes = "\n".join(notes_on(groups, entries, "parameters", scale=0.04))
    assert "NOT AT PARITY in parameters, as was asked: trm +3.0 %" in notes
    assert "Not equal in seconds: trm +300.0 %" in notes
    assert "REDUCED BUDGET" in notes and "0.04" in notes
    assert "trm, seed 2: unfinished at step 20" in notes
    notes = "\n".join(notes_on(groups, entries, "tokens", scale=1.0))
    assert "At parity in tokens" in notes and "REDUCED" not in notes


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
    assert ["", "trm", "150.00", "-50.00", "+25.0 %", ""] in rows


def make_summary_of(root: Path, *tests: float | None) -> list[dict[str, Any]]:
    for name, perplexity in zip(("ar", "trm"), tests, strict=True):
        found = {} if perplexity is None else {"test/ppl": score(perplexity, "test/ppl")}
        make_run(root / f"{name}_1", 1, (100.0, 110.0), test=found)
    return make_summary(root, ["ar", "trm"], [1])
