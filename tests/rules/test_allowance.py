"""How many retries there may be, by any clock and in any ten seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxyy_proxy.rules.allowance import FLOOR, WINDOW_S, Allowance


def retried(allowance: Allowance, percent: int, now: float, wanted: int = 1000) -> int:
    """How many of so many retries there is room for."""
    made = 0
    while made < wanted and allowance.has_room(percent, now):
        allowance.retry(now)
        made += 1
    return made


def asked(allowance: Allowance, count: int, now: float) -> None:
    for _ in range(count):
        allowance.request(now)


def test_a_few_are_allowed_in_any_case() -> None:
    assert retried(Allowance(), 20, 5.0) == FLOOR == 3


@pytest.mark.parametrize(
    ("percent", "requests", "allowed"), [(20, 100, 23), (20, 4, 3), (20, 5, 4), (0, 1000, 3), (100, 50, 53), (1, 99, 3)]
)
def test_they_are_a_share_of_the_requests(percent: int, requests: int, allowed: int) -> None:
    allowance = Allowance()
    asked(allowance, requests, 5.0)
    assert retried(allowance, percent, 5.0) == allowed


def test_requests_and_retries_are_forgotten_by_the_second() -> None:
    allowance = Allowance()
    asked(allowance, 50, 100.5)
    asked(allowance, 50, 103.5)
    assert retried(allowance, 20, 103.9) == 23
    assert retried(allowance, 20, 110.9) == 0  # all hundred count
    assert retried(allowance, 20, 111.0) == 0  # fifty do, and all the retries
    assert retried(allowance, 20, 114.0) == 3  # none do


def test_a_long_silence_forgets_all() -> None:
    allowance = Allowance()
    asked(allowance, 1000, 1.0)
    assert retried(allowance, 20, 1.0) == 203
    assert retried(allowance, 20, 1e6) == 3
    assert len(allowance._seconds) == 1


def test_it_keeps_a_figure_for_each_second_and_no_more() -> None:
    allowance = Allowance()
    for n in range(5000):
        allowance.request(n / 7)
        allowance.has_room(20, n / 7)
    assert len(allowance._seconds) == WINDOW_S + 1


MOVES = st.lists(st.tuples(st.floats(0, 4), st.integers(0, 30), st.integers(0, 30)), max_size=40)


@given(st.integers(0, 100), MOVES)
def test_no_ten_seconds_see_more_retries_than_their_share_and_the_floor(
    percent: int, moves: list[tuple[float, int, int]]
) -> None:
    allowance, now = Allowance(), 0.0
    requests: list[float] = []
    retries: list[float] = []
    for passed, arrive, fail in moves:
        now += passed
        asked(allowance, arrive, now)
        requests += [now] * arrive
        made = retried(allowance, percent, now, fail)
        if not made:
            continue
        retries += [now] * made
        recent = sum(at > now - WINDOW_S for at in retries)
        # The requests of the window, and those of the second in which it began.
        assert recent <= FLOOR + percent * sum(at > now - WINDOW_S - 1 for at in requests) // 100


def test_three_before_a_second_ends_and_three_after_the_tenth_are_not_six_in_ten_seconds() -> None:
    allowance = Allowance()
    assert retried(allowance, 20, 0.95) == 3
    assert retried(allowance, 20, 10.0) == 0
    assert retried(allowance, 20, 10.94) == 0
    assert retried(allowance, 20, 11.0) == 3
