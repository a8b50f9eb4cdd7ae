from __future__ import annotations

import pytest

from tests.benchmarks.stats import Spread, added, quantile, ratios


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_quantile_is_one_of_the_samples(q: float, expected: float) -> None:
    assert quantile(list(range(100, 0, -1)), q) == expected


def test_ratios_are_formed_within_a_round() -> None:
    # The machine was ten times slower in the second round, for both.
    assert ratios([1.2, 15.0, 1.4], [1.0, 10.0, 1.0]) == Spread(1.4, 1.2, 1.5)


def test_the_added_median_is_the_median_of_the_rounds_differences() -> None:
    through, direct = [[3.0], [40.0], [5.0]], [[1.0], [10.0], [2.0]]
    assert added(through, direct, 0.5) == 3.0


def test_an_added_p99_of_a_hundred_samples_a_round_stays_within_rounds() -> None:
    direct = [[1.0] * 100, [1.0] * 100, [9.0] * 100]
    through = [[2.0] * 100, [2.0] * 100, [90.0] * 100]
    assert added(through, direct, 0.99) == 1.0


def test_an_added_p99_of_fewer_samples_is_pooled_over_the_rounds() -> None:
    direct, through = [[1.0] * 50] * 2, [[2.0] * 50, [2.0] * 48 + [7.0] * 2]
    assert added(through, direct, 0.99) == 6.0


def test_there_is_no_p99_of_less_than_a_hundred_samples() -> None:
    assert added([[2.0] * 49] * 2, [[1.0] * 49] * 2, 0.99) is None
