"""Windows tile the calendar, caps decide to the unit, and refusals say what to do."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oxyy_proxy.errors import QuotaExceeded, RateLimited
from oxyy_proxy.rules import budget
from oxyy_proxy.rules.budget import (
    ALWAYS,
    Standing,
    Window,
    covers,
    duration,
    is_quota,
    left_lines,
    refusal,
    reservations,
    watching,
    window,
)
from oxyy_proxy.rules.types import Limit, Meter, Per, Plan, Target
from tests.rules.policies import limit, model, policy, principal, team

WHOLE_HOURS = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Africa/Cairo", "America/Havana", "Pacific/Apia"]
ZONES = [*WHOLE_HOURS, "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe", "America/Nuuk", "Africa/Casablanca"]
HOUR, DAY = 3600, 86400


def epoch(year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, tzinfo=UTC).timestamp())


def walked(per: Per, zone: str, start: int, end: int) -> list[Window]:
    """Each window from `start` to `end`, found by asking at the end of the one before; each is checked."""
    of, found, now = limit(per=per, zone=ZoneInfo(zone)), [], start
    while now < end:
        span = window(of, now)
        assert span.start <= now < span.end
        assert not found or span.start == found[-1].end, datetime.fromtimestamp(now, ZoneInfo(zone))
        assert window(of, span.start) == window(of, span.end - 0.001) == span
        found.append(span)
        now = span.end
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_days_tile_time(zone: str) -> None:
    here = ZoneInfo(zone)
    for span in walked("day", zone, epoch(2010, 6, 1), epoch(2020, 1, 1)):
        first, last = (datetime.fromtimestamp(at, here) for at in (span.start, span.end - 1))
        assert first.date() == last.date()
        assert datetime.fromtimestamp(span.start - 1, here).date() < first.date()
        assert 22 * HOUR <= span.end - span.start <= 26 * HOUR


@pytest.mark.parametrize("zone", ZONES)
def test_days_tile_the_years_to_come(zone: str) -> None:
    walked("day", zone, epoch(2024, 1, 1), epoch(2030, 1, 1))


@pytest.mark.parametrize("zone", ZONES)
def test_months_tile_time(zone: str) -> None:
    here = ZoneInfo(zone)
    spans = walked("month", zone, epoch(1984, 1, 15), epoch(2040, 1, 15))
    assert len(spans) == 56 * 12 + 1
    for span in spans:
        first, last = (datetime.fromtimestamp(at, here) for at in (span.start, span.end - 1))
        assert (first.year, first.month, first.day) == (last.year, last.month, 1)


@pytest.mark.parametrize("zone", WHOLE_HOURS)
@pytest.mark.parametrize("year", [2011, 2018, 2024])
def test_hours_tile_time_where_clocks_shift_by_whole_hours(zone: str, year: int) -> None:
    spans = walked("hour", zone, epoch(year, 1, 1), epoch(year + 1, 1, 1))
    assert {span.end - span.start for span in spans} == {HOUR}


def test_an_hour_begins_with_the_local_hour() -> None:
    kathmandu = limit(per="hour", zone=ZoneInfo("Asia/Kathmandu"))  # 5:45 ahead of UTC
    assert window(kathmandu, epoch(2026, 5, 1, 10, 20)) == Window(epoch(2026, 5, 1, 10, 15), epoch(2026, 5, 1, 11, 15))


@given(st.floats(0, epoch(2100, 1, 1)), st.sampled_from(ZONES), st.sampled_from(["minute", "day", "month"]))
@example(epoch(2011, 12, 30, 10), "Pacific/Apia", "day")
@example(epoch(1985, 12, 31, 18, 30), "Asia/Kathmandu", "month")
@settings(deadline=None, max_examples=500)
def test_a_window_holds_its_instant_and_meets_the_next(now: float, zone: str, per: Per) -> None:
    of = limit(per=per, zone=ZoneInfo(zone))
    span = window(of, now)
    assert span.start <= now < span.end
    assert window(of, span.end).start == span.end
    assert window(of, span.start - 1).end == span.start
    if per == "minute":
        assert span.end - span.start == 60


@pytest.mark.parametrize(
    ("zone", "per", "now", "start", "end"),
    [
        # A month in Berlin starts at local midnight: summer time begins within this one.
        ("Europe/Berlin", "month", epoch(2026, 3, 10), epoch(2026, 2, 28, 23), epoch(2026, 3, 31, 22)),
        ("Europe/Berlin", "month", epoch(2026, 2, 28, 23), epoch(2026, 2, 28, 23), epoch(2026, 3, 31, 22)),
        ("Europe/Berlin", "month", epoch(2026, 2, 28, 23) - 1, epoch(2026, 1, 31, 23), epoch(2026, 2, 28, 23)),
        ("Europe/Berlin", "month", epoch(2026, 12, 31, 23), epoch(2026, 12, 31, 23), epoch(2027, 1, 31, 23)),
        ("UTC", "month", epoch(2024, 2, 29, 23, 59), epoch(2024, 2, 1), epoch(2024, 3, 1)),
        # 23 and 25 hours.
        ("Europe/Berlin", "day", epoch(2026, 3, 29, 12), epoch(2026, 3, 28, 23), epoch(2026, 3, 29, 22)),
        ("Europe/Berlin", "day", epoch(2026, 10, 25, 12), epoch(2026, 10, 24, 22), epoch(2026, 10, 25, 23)),
        # The clock has no midnight, as it leaps from there to one o'clock.
        ("America/Sao_Paulo", "day", epoch(2018, 11, 4, 3), epoch(2018, 11, 4, 3), epoch(2018, 11, 5, 2)),
        # It strikes midnight twice; the day begins at the first.
        ("America/Havana", "day", epoch(2024, 11, 3, 5, 30), epoch(2024, 11, 3, 4), epoch(2024, 11, 4, 5)),
        # 23:00 to 24:00 comes twice.
        ("Africa/Cairo", "day", epoch(2024, 10, 31, 21, 30), epoch(2024, 10, 30, 21), epoch(2024, 10, 31, 22)),
        # 30 December 2011 never was.
        ("Pacific/Apia", "day", epoch(2011, 12, 30, 9), epoch(2011, 12, 29, 10), epoch(2011, 12, 30, 10)),
        ("Pacific/Apia", "day", epoch(2011, 12, 30, 10), epoch(2011, 12, 30, 10), epoch(2011, 12, 31, 10)),
        ("Asia/Kathmandu", "day", epoch(2026, 5, 1), epoch(2026, 4, 30, 18, 15), epoch(2026, 5, 1, 18, 15)),
    ],
)
def test_windows_of_the_calendar(zone: str, per: Per, now: int, start: int, end: int) -> None:
    assert window(limit(per=per, zone=ZoneInfo(zone)), now) == Window(start, end)


def test_concurrency_knows_no_calendar() -> None:
    assert window(limit("concurrent", None), 1e9) == window(limit("concurrent", None), 2e9) == ALWAYS


def test_key_limits_watch_their_key_alone() -> None:
    own, other, any_key, everyone = (
        limit(key="search-prod"),
        limit(key="search-dev"),
        limit(),
        limit(team=None, cap=9),
    )
    of = policy(limits=(everyone,))
    by = team(limits=[own, other, any_key])
    assert watching(of, principal(by, "search-prod")) == (everyone, own, any_key)
    assert watching(of, principal(by, "search-dev")) == (everyone, other, any_key)
    assert watching(of, principal(by, "search-new")) == (everyone, any_key)


def target(name: str, worst_nusd: int, worst_tokens: int) -> Target:
    return Target(model(name), worst_nusd, worst_tokens)


GPT, CLAUDE = target("gpt-5", 100, 7000), target("claude-opus", 900, 3000)
MODEL_GLOBS = st.lists(st.sampled_from(["gpt-*", "claude-*", "*", "gpt-5", "veo-*"]), max_size=2).map(tuple)


@pytest.mark.parametrize(
    ("of", "amount"),
    [
        (limit("usd", "month"), 900),
        (limit("usd", "month", models=("gpt-*",)), 100),
        (limit("usd", "day", models=("claude-*",)), 900),
        (limit("tokens", "minute"), 7000),
        (limit("tokens", "minute", models=("claude-*",)), 3000),
        (limit("requests", "minute"), 1),
        (limit("concurrent", None), 1),
        (limit("concurrent", None, models=("claude-*",)), 1),
        (limit("usd", "day", models=("veo-*",)), None),
        (limit("requests", "day", models=("veo-*",)), None),
    ],
)
def test_a_reservation_is_the_worst_over_the_models_that_the_limit_covers(of: Limit, amount: int | None) -> None:
    watch, amounts = reservations(Plan("gpt-5", (GPT, CLAUDE), (of,)), 1e9)
    held = list(zip(watch.limits, watch.windows, amounts, strict=True))
    assert held == ([] if amount is None else [(of, window(of, 1e9), amount)])


def test_what_watches_is_the_same_object_for_the_same_limits_and_models_within_a_minute() -> None:
    limits = (limit(), limit("requests", "minute", models=("claude-*",)))
    at = float(epoch(2026, 5, 1, 12))
    watch, _ = reservations(Plan("gpt-5", (GPT,), limits), at)
    assert reservations(Plan("other", (target("gpt-5", 9, 9),), limits), at + 59.9) == (watch, (9,))
    both, amounts = reservations(Plan("gpt-5", (GPT, CLAUDE), limits), at)
    assert (both.limits, amounts) == (limits, (900, 1))
    later, _ = reservations(Plan("gpt-5", (GPT,), limits), at + 60)
    other, _ = reservations(Plan("gpt-5", (GPT,), (limit(cap=1), limits[1])), at)
    assert len({watch, both, later, other}) == 4
    assert later.windows == watch.windows  # of a month


def test_watches_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_WATCHES_KEPT", 3)
    for n in range(10):
        watch, _ = reservations(Plan("gpt-5", (GPT,), (limit(cap=n),)), 1e9)
        assert watch.limits[0].cap == n
    assert len(budget._watches) <= 3


@given(
    worsts=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=4),
    globs=MODEL_GLOBS,
    meter=st.sampled_from(["usd", "tokens", "requests", "concurrent"]),
)
@settings(deadline=None, max_examples=200)
def test_whoever_answers_stays_within_the_reservation(
    worsts: list[tuple[int, int]], globs: tuple[str, ...], meter: Meter
) -> None:
    kinds = ("gpt-5", "claude-opus", "gpt-4", "veo-3")
    targets = tuple(target(kind, *worst) for kind, worst in zip(kinds, worsts, strict=False))
    of = limit(meter, None if meter == "concurrent" else "day", models=globs)
    _, found = reservations(Plan("gpt-5", targets, (of,)), 1e9)
    alone = [reservations(Plan("gpt-5", (one,), (of,)), 1e9)[1] for one in targets]
    assert [bool(held) for held in alone] == [covers(of, one.model.name) for one in targets]
    amounts = [held[0] for held in alone if held]
    assert list(found) == ([max(amounts)] if amounts else [])
    of_meter = {"usd": [one.worst_nusd for one in targets], "tokens": [one.worst_tokens for one in targets]}
    if not globs:
        assert found[0] == max(of_meter.get(meter, [1]))


NOW = float(epoch(2026, 5, 1, 12))


def standing(of: Limit, spent: int = 0, held: int = 0) -> Standing:
    return Standing(of, window(of, NOW), spent, held)


@given(cap=st.integers(0, 50), spent=st.integers(0, 60), held=st.integers(0, 60), amount=st.integers(0, 60))
@settings(deadline=None, max_examples=150)
def test_a_cap_decides_to_the_unit(cap: int, spent: int, held: int, amount: int) -> None:
    at = standing(limit(cap=cap), spent, held)
    assert at.remaining == max(0, cap - spent - held)
    assert (refusal([(at, amount)], NOW) is None) == (amount == 0 or spent + held + amount <= cap)


@pytest.mark.parametrize(
    ("meter", "per"), [("usd", "day"), ("tokens", "minute"), ("requests", "hour"), ("concurrent", None)]
)
def test_what_fits_exactly_passes_and_one_more_does_not(meter: Meter, per: Per | None) -> None:
    at = standing(limit(meter, per, cap=10), spent=4, held=5)
    assert refusal([(at, 1)], NOW) is None
    assert refusal([(at, 2)], NOW) is not None


def test_one_limit_that_is_full_refuses_whatever_the_others_have() -> None:
    free, full = standing(limit(cap=100)), standing(limit("requests", "minute", cap=1), spent=1)
    assert isinstance(refusal([(free, 1), (full, 1), (free, 1)], NOW), RateLimited)
    assert refusal([], NOW) is None


@pytest.mark.parametrize(
    ("meter", "per", "quota"),
    [
        ("usd", "minute", True),
        ("usd", "hour", True),
        ("usd", "day", True),
        ("usd", "month", True),
        ("tokens", "day", True),
        ("requests", "month", True),
        ("tokens", "minute", False),
        ("tokens", "hour", False),
        ("requests", "minute", False),
        ("concurrent", None, False),
    ],
)
def test_budgets_are_quotas_and_the_rest_are_rates(meter: Meter, per: Per | None, quota: bool) -> None:
    of = limit(meter, per, cap=1)
    assert is_quota(of) is quota
    error = refusal([(standing(of, spent=1), 1)], NOW)
    assert type(error) is (QuotaExceeded if quota else RateLimited)


@given(
    seconds=st.floats(0, 31 * DAY),
    meter=st.sampled_from(["usd", "tokens", "requests"]),
    per=st.sampled_from(["minute", "hour", "day", "month"]),
)
@settings(deadline=None, max_examples=200)
def test_headers_say_when_and_whether_to_retry(seconds: float, meter: Meter, per: Per) -> None:
    at = standing(limit(meter, per, cap=1), spent=1)
    now = at.window.start + seconds % (at.window.end - at.window.start)
    error = refusal([(at, 1)], now)
    assert error is not None
    wait_s = int(error.headers["Retry-After"])
    assert wait_s >= 1
    if is_quota(at.limit):
        assert error.headers == {"Retry-After": str(wait_s), "x-should-retry": "false"}
        assert wait_s == max(1, ceil(at.window.end - now))
    else:
        assert "x-should-retry" not in error.headers
        assert wait_s == min(60, max(1, ceil(at.window.end - now)))


def test_a_refusal_names_the_limit_what_is_left_and_when_it_resets() -> None:
    of = limit("usd", "day", cap=50_000_000_000, key="search-prod", models=("veo-*", "sora"))
    error = refusal([(standing(of, spent=49_000_000_000, held=750_000_000), 1_250_000_000)], NOW)
    assert error is not None
    for part in ("$1.25", "$0.25", "$50.00", "day", "team search", "key search-prod", "veo-*, sora", "12h0m0s"):
        assert part in error.message
    assert error.headers["Retry-After"] == str(12 * HOUR)


def test_a_refusal_of_the_organisation_does_not_blame_the_team() -> None:
    error = refusal([(standing(limit("tokens", "minute", cap=400, team=None), spent=300), 101)], NOW)
    assert error is not None
    assert "the organisation" in error.message
    assert "team" not in error.message
    assert all(part in error.message for part in ("101 tokens", "100 tokens", "400 tokens", "1m0s"))


def test_too_many_at_once_may_try_again_soon() -> None:
    error = refusal([(standing(limit("concurrent", None, cap=64), held=64), 1)], NOW)
    assert isinstance(error, RateLimited)
    assert error.headers == {"Retry-After": "1"}
    assert "64 requests of team search" in error.message


def test_of_several_that_refuse_the_last_to_reset_is_named() -> None:
    full = [
        standing(limit("requests", "minute", cap=1), spent=1),
        standing(limit("usd", "month", cap=1), spent=1),
        standing(limit("concurrent", None, cap=1), held=1),
        standing(limit("usd", "day", cap=1), spent=1),
    ]
    for order in (full, full[::-1]):
        error = refusal([(at, 1) for at in order], NOW)
        assert isinstance(error, QuotaExceeded)
        assert "month" in error.message


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0s"),
        (1, "1s"),
        (59, "59s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (7205, "2h0m5s"),
        (90061, "25h1m1s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds: int, written: str) -> None:
    assert duration(seconds) == written


def test_of_a_meter_the_limit_with_the_least_left_is_told_not_that_with_the_lowest_cap() -> None:
    wide, narrow, other = limit(cap=1000), limit(cap=100), limit("tokens", "minute", cap=1)
    left = {wide: 10, narrow: 50, other: 1}
    money = "x-oxyy-budget-remaining-usd: 0.00000001\r\n"
    tokens = "x-ratelimit-limit-tokens: 1\r\nx-ratelimit-remaining-tokens: 1\r\nx-ratelimit-reset-tokens: 20s\r\n"
    for order, lines in (((other, narrow, wide), tokens + money), ((wide, narrow, other), money + tokens)):
        watch, _ = reservations(Plan("gpt-5", (GPT,), order), 1e9)
        assert left_lines(watch, [left[of] for of in order], 1_000_000_000) == lines
    nothing, _ = reservations(Plan("gpt-5", (GPT,), ()), 1e9)
    assert left_lines(nothing, (), 1_000_000_000) == ""


def test_a_limit_that_is_alone_of_its_meter_is_told_and_one_without_a_window_is_not() -> None:
    order = (limit(), limit("concurrent", None), limit("tokens", "minute"))
    watch, _ = reservations(Plan("gpt-5", (GPT,), order), 1e9)
    lines = left_lines(watch, (1, 2, 3), 1_000_000_000).splitlines()
    assert [line.partition(": ")[::2] for line in lines if "remaining" in line] == [
        ("x-oxyy-budget-remaining-usd", "0.000000001"),
        ("x-ratelimit-remaining-tokens", "3"),
    ]
