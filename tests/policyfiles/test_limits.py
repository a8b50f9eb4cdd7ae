"""Limits: what they count, what they are called, and which cannot be."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from oxyy_proxy.policyfiles import load
from oxyy_proxy.rules.types import Limit
from tests.policyfiles.conftest import TEAM, VALID, Write, errors, limits, warnings

LIMIT_ERRORS = [
    (
        limits("meter: usd, per: day, cap: -1"),
        "7:33: expected an amount of USD from 0 to 1000000000 with at most 9 decimals, got -1",
    ),
    (
        limits("meter: usd, per: day, cap: 0.0000000001"),
        "7:33: expected an amount of USD from 0 to 1000000000 with at most 9 decimals, got 1E-10",
    ),
    (
        limits("meter: tokens, per: day, cap: 1.5"),
        "7:36: expected a whole number of tokens from 0 to 1000000000000000, got 1.5",
    ),
    (limits("meter: usd, cap: 1"), "7:5: the field 'per' is missing; expected one of minute, hour, day, month"),
    (
        limits("meter: concurrent, per: day, cap: 1"),
        "7:25: a concurrent limit has no 'per': it counts what is in flight",
    ),
    (limits("meter: usd, per: day, cap: 1, key: dev"), "7:41: 'dev' is not a key of this team; allowed: prod"),
    (
        limits("meter: usd, per: day, cap: 1", "meter: concurrent, cap: 1", "per: day, meter: usd, cap: 2"),
        "9:5: the same limit as in teams/search.yaml:7, 'search usd/day'; keep one of the two",
    ),
]


@pytest.mark.parametrize(("text", "expected"), LIMIT_ERRORS)
def test_a_limit_that_cannot_be_names_its_place(write: Write, text: str, expected: str) -> None:
    assert errors(write({"teams/search.yaml": text})) == [f"teams/search.yaml:{expected}"]


def test_the_organisation_has_no_keys(write: Write) -> None:
    text, expected = (
        "limits: [{meter: usd, per: month, cap: 5, key: prod}]",
        "1:43: a limit of the organisation has no 'key'; limit the key in its team's file",
    )
    assert errors(write({"gateway.yaml": text})) == [f"gateway.yaml:{expected}"]


def test_a_team_without_keys_limits_none(write: Write) -> None:
    keyless = TEAM.partition("keys:")[0] + "models: {allow: []}\nlimits: [{meter: concurrent, cap: 1, key: prod}]\n"
    expected = "teams/search.yaml:4:43: 'prod' is not a key of this team; allowed: none, the team has no keys"
    assert errors(write({"teams/search.yaml": keyless})) == [expected]


def test_a_key_that_is_wrong_in_itself_may_still_be_limited(write: Write) -> None:
    team = limits("meter: usd, per: day, cap: 1, key: prod").replace("sha256: ", "sha265: ")
    assert [error.partition(": ")[0] for error in errors(write({"teams/search.yaml": team}))] == [
        "teams/search.yaml:4:5",
        "teams/search.yaml:4:16",
    ]


def test_a_limit_of_the_organisation_is_over_all_teams(write: Write) -> None:
    gateway = "timezone: Asia/Tokyo\nlimits: [{meter: tokens, per: hour, cap: 7, models: [ada, gpt-5, ada]}]\n"
    assert load(write({"gateway.yaml": gateway})).policy.limits == (
        Limit(
            id="organisation tokens/hour models=ada,gpt-5",
            meter="tokens",
            per="hour",
            cap=7,
            zone=ZoneInfo("Asia/Tokyo"),
            models=("ada", "gpt-5", "ada"),
        ),
    )


def test_a_limit_of_a_team_counts_in_its_own_zone_else_the_gateways(write: Write) -> None:
    team = limits("meter: usd, per: day, cap: 1", "meter: usd, per: month, cap: 1, timezone: Europe/Berlin")
    folder = write({"gateway.yaml": "timezone: Asia/Tokyo\n", "teams/search.yaml": team})
    found = load(folder).policy.teams["search"].limits
    assert [limit.zone for limit in found] == [ZoneInfo("Asia/Tokyo"), ZoneInfo("Europe/Berlin")]
    assert {limit.team for limit in found} == {"search"}


def test_limits_that_count_different_things_are_different_limits(write: Write) -> None:
    different = (
        "meter: usd, per: day, cap: 1",
        "meter: usd, per: hour, cap: 1",
        "meter: tokens, per: day, cap: 1",
        "meter: usd, per: day, cap: 1, key: prod",
        "meter: usd, per: day, cap: 1, models: [ada]",
        "meter: usd, per: day, cap: 1, models: [ada], key: prod",
    )
    found = load(write({"teams/search.yaml": limits(*different)})).policy.teams["search"].limits
    assert len({limit.id for limit in found}) == len(different)


@pytest.mark.parametrize("cap", ["0", "0.0"])
def test_nothing_at_all_is_a_cap_too(write: Write, cap: str) -> None:
    team = limits(f"meter: usd, per: day, cap: {cap}", f"meter: requests, per: day, cap: {cap}")
    found = load(write({"teams/search.yaml": team})).policy.teams["search"].limits
    assert [limit.cap for limit in found] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"teams/search.yaml": limits("meter: usd, per: day, cap: 1, models: ['veo-*', 'ad*']")},
            ["teams/search.yaml:7:45: 'veo-*' matches no model of models.yaml"],
        ),
        (
            {"gateway.yaml": "limits: [{meter: usd, per: day, cap: 1, models: ['GPT-5']}]"},
            ["gateway.yaml:1:50: 'GPT-5' matches no model of models.yaml"],
        ),
    ],
)
def test_a_limit_on_models_that_nobody_has_is_warned_of(
    write: Write, changes: dict[str, str | None], expected: list[str]
) -> None:
    assert warnings(write(changes)) == expected


def limited(limit: str) -> dict[str, str]:
    return {"teams/search.yaml": VALID["teams/search.yaml"] + f"limits: [{limit}]\n"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{meter: usd, per: day, cap: 5}", "{meter: usd, per: day, cap: 7.5}"),
        ("{meter: usd, per: day, cap: 5}", "{meter: usd, per: day, cap: 5, timezone: Asia/Tokyo}"),
        (
            "{meter: usd, per: day, cap: 5, models: [ada, 'gpt*']}",
            "{cap: 5, models: ['gpt*', ada], per: day, meter: usd}",
        ),
    ],
)
def test_what_is_spent_survives_a_change_that_leaves_what_is_counted(write: Write, before: str, after: str) -> None:
    ids = [load(write(limited(limit))).policy.teams["search"].limits[0].id for limit in (before, after)]
    assert ids[0] == ids[1]
