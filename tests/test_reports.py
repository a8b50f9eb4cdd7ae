"""What `GET /v1/usage` tells a team of its limits."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from oxyy_proxy.reports import team_usage
from oxyy_proxy.rules.budget import Standing, window
from oxyy_proxy.rules.types import NUSD_PER_USD, Key, Limit, Principal, Team
from tests.ledger.making import NOW, concurrent, limit

PRINCIPAL = Principal(Team("search", "CC-1", (), ("*",)), Key("search-prod", "0" * 64))


def shown(of: Limit, spent: int, held: int) -> dict[str, object]:
    (found,) = team_usage(PRINCIPAL, [Standing(of, window(of, NOW), spent, held)])["limits"]
    return dict(found)


def test_money_is_exact_decimal_strings() -> None:
    budget = limit(cap=5000 * NUSD_PER_USD, models=["veo-*", "gpt-5"], key="search-prod")
    assert shown(budget, 1_250_000, 1) == {
        "meter": "usd",
        "per": "month",
        "models": ["veo-*", "gpt-5"],
        "key": "search-prod",
        "cap": "5000.00",
        "spent": "0.00125",
        "held": "0.000000001",
        "remaining": "4999.998749999",
        "resets_at": "2026-12-01T00:00:00+00:00",
    }


def test_counts_are_integers() -> None:
    assert shown(limit("tokens", "minute", 400_000), 1000, 24) == {
        "meter": "tokens",
        "per": "minute",
        "models": None,
        "key": None,
        "cap": 400_000,
        "spent": 1000,
        "held": 24,
        "remaining": 398_976,
        "resets_at": "2026-11-18T12:01:00+00:00",
    }


def test_what_is_running_has_no_window() -> None:
    found = shown(concurrent(64), 0, 3)
    assert (found["per"], found["held"], found["remaining"], found["resets_at"]) == (None, 3, 61, None)


@pytest.mark.parametrize("held", [0, 50])
def test_nothing_remains_after_an_overrun(held: int) -> None:
    found = shown(limit("requests", "day", 100), 120, held)
    assert (found["spent"], found["remaining"]) == (120, 0)


def test_resets_are_utc_whatever_the_zone_of_the_limit() -> None:
    berlin = limit(per="day", zone=ZoneInfo("Europe/Berlin"))
    assert shown(berlin, 0, 0)["resets_at"] == "2026-11-18T23:00:00+00:00"


def test_limits_come_in_the_order_of_their_standings() -> None:
    limits = [concurrent(1), limit(), limit(team=None)]
    found = team_usage(PRINCIPAL, [Standing(each, window(each, NOW), 0, 0) for each in limits])
    assert found["team"] == "search"
    assert [each["meter"] for each in found["limits"]] == ["concurrent", "usd", "usd"]
    assert team_usage(PRINCIPAL, []) == {"team": "search", "limits": []}
