"""The two-way variance: its formula by hand, its reduction to one way, and that it holds its level
where seeds and families vary alike.
"""

import math

import numpy as np
import pytest
from scipy import stats

from husai.statistics import crossed_interval
from husai.statistics.two_way import two_way


def test_variance_and_degrees_of_freedom_by_hand():
    """Rows (1, 3), (2, 8): grand mean 3.5, row means 2, 5, column means 1.5, 5.5. MS_seed = 2 *
    (2.25 + 2.25) = 9, MS_family = 2 * (4 + 4) = 16, residuals +-1: MS_error = 4.
    """
    found = two_way(np.array([[1.0, 3.0], [2.0, 8.0]]))
    assert float(found.value) == 3.5
    assert float(found.se) == pytest.approx(math.sqrt((9 + 16 - 4) / 4), abs=1e-12)
    assert float(found.df) == pytest.approx(21**2 / (81 + 256 + 16), abs=1e-12)


def test_without_differences_between_families_it_is_the_t_of_the_seed_means():
    seeds = np.random.default_rng(0).normal(size=8)
    found = two_way(np.repeat(seeds[:, None], 5, axis=1))
    assert float(found.se) == pytest.approx(seeds.std(ddof=1) / math.sqrt(8), rel=1e-12)
    assert float(found.df) == pytest.approx(7.0)


def test_unequal_families_count_by_their_effective_number():
    """Sizes 3, 3, 2 count as 64 / 22 families; where families alone vary, df is that less one."""
    families = np.random.default_rng(1).normal(size=3)
    found = two_way(np.repeat(families[None, :], 4, axis=0), np.array([3, 3, 2]))
    assert float(found.df) == pytest.approx(64 / 22 - 1)


def test_a_stack_of_tables_is_each_table_alone():
    tables = np.random.default_rng(2).normal(size=(4, 6, 5))
    stacked = two_way(tables)
    for k in range(4):
        assert np.allclose([part[k] for part in stacked], [float(p) for p in two_way(tables[k])])


def test_equal_values_have_no_variance_and_finite_degrees_of_freedom():
    found = two_way(np.full((3, 4), 0.2))
    assert float(found.se) == pytest.approx(0.0, abs=1e-15) and float(found.df) == 2.0


@pytest.mark.parametrize("sd_family", [0.5, 1.0, 1.5])
def test_a_bound_of_2_5_percent_passes_a_null_in_2_to_3_percent(sd_family):
    rng = np.random.default_rng(3)
    runs = 20000
    table = rng.normal(size=(runs, 8, 1)) + sd_family * rng.normal(size=(runs, 1, 8))
    table = table + 0.2 * rng.normal(size=(runs, 8, 8))
    found = two_way(table)
    rate = (found.value > stats.t.ppf(0.975, found.df) * found.se).mean()
    assert 0.02 <= rate <= 0.03


def test_the_crossed_interval_takes_the_two_way_t_where_it_is_the_widest():
    rng = np.random.default_rng(4)
    table = rng.normal(size=(8, 1)) + rng.normal(size=(1, 8)) + 0.1 * rng.normal(size=(8, 8))
    found, both = crossed_interval(table, range(8)), two_way(table)
    half = stats.t.ppf(0.975, float(both.df)) * float(both.se)
    assert found.method == "two-way-t"
    assert found.lcb == pytest.approx(table.mean() - half, abs=1e-6)
