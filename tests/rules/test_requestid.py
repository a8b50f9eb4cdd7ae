"""Ids sort as time goes, so that a span of time is a span of ids."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.rules.requestid import first_id_at, made_at, request_id

NOW = st.floats(0, 2**34, allow_nan=False)
ENTROPY = st.text("0123456789abcdef", min_size=16, max_size=16)


@given(now=NOW, entropy=ENTROPY, at=st.integers(0, 2**34))
@settings(deadline=None, max_examples=200)
def test_ids_of_a_second_and_later_sort_from_its_first_id(now: float, entropy: str, at: int) -> None:
    made = request_id(now, entropy)
    assert (made >= first_id_at(at)) == (now >= at)
    assert (made >= first_id_at(int(now))) is True
    assert made < first_id_at(int(now) + 1)


@given(first=NOW, second=NOW, entropy=st.tuples(ENTROPY, ENTROPY))
@settings(deadline=None, max_examples=200)
def test_ids_sort_by_the_millisecond(first: float, second: float, entropy: tuple[str, str]) -> None:
    one, other = request_id(first, entropy[0]), request_id(second, entropy[1])
    assert len(one) == len(other)
    if int(first * 1000) != int(second * 1000):
        assert (one < other) == (first < second)


@given(now=NOW, entropy=ENTROPY)
@settings(deadline=None, max_examples=200)
def test_an_id_tells_when_it_was_made(now: float, entropy: str) -> None:
    assert made_at(request_id(now, entropy)) == int(now * 1000) / 1000


@pytest.mark.parametrize("other", ["", "req", "job_18bcfe569f4", "req_xyz"])
def test_what_is_no_id_tells_nothing(other: str) -> None:
    with pytest.raises(ValueError, match=r"request id|invalid literal"):
        made_at(other)


def test_an_id_shows_its_prefix_time_and_entropy() -> None:
    assert request_id(1_700_000_000.5, "ab" * 8) == "req_18bcfe569f4" + "ab" * 8
    assert request_id(1.0, "x") != request_id(1.0, "y")
