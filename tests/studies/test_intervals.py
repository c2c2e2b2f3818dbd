"""Student's t intervals, against printed tables and numbers worked out by hand."""

import pytest

from trm_lightning.studies.intervals import estimate, t_quantile

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
