"""The files of the teams: their names, keys and chains."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from oxyy_proxy.policyfiles import load
from oxyy_proxy.rules.types import Key, Principal, Team
from tests.policyfiles.conftest import TEAM, VALID, Write, errors, sha, warnings

TEAM_ERRORS = [
    (TEAM.replace("team: search", "team: serach"), "2:7: expected 'search', as the file is called, got 'serach'"),
    (TEAM + "fallbacks: {gpt-6: []}", "6:13: unknown model 'gpt-6'; did you mean 'gpt-5'?"),
    (TEAM + "fallbacks: {gpt-5: [nope]}", "6:21: unknown model 'nope'"),
    (
        TEAM.replace("\nmodels", f'\n  - {{id: prod, sha256: "{sha("b")}"}}\nmodels'),
        "5:10: the key id 'prod' is already used in teams/search.yaml:4",
    ),
    (
        TEAM.replace("\nmodels", f'\n  - {{id: b, sha256: "{sha("prod").upper()}"}}\nmodels'),
        "5:21: the same key as in teams/search.yaml:4; every key belongs to one team",
    ),
]


@pytest.mark.parametrize(("text", "expected"), TEAM_ERRORS)
def test_a_wrong_name_key_or_chain_names_its_place(write: Write, text: str, expected: str) -> None:
    assert errors(write({"teams/search.yaml": text})) == [f"teams/search.yaml:{expected}"]


def test_a_key_belongs_to_one_team_alone(write: Write) -> None:
    other = TEAM.replace("team: search", "team: support")
    expected = "teams/support.yaml:4:24: the same key as in teams/search.yaml:4; every key belongs to one team"
    assert errors(write({"teams/support.yaml": other})) == [expected]


def test_no_team_is_called_as_the_organisation(write: Write) -> None:
    other = TEAM.replace("team: search", "team: organisation").replace(sha("prod"), sha("other"))
    (error,) = errors(write({"teams/organisation.yaml": other}))
    assert error.startswith("teams/organisation.yaml:2:7: 'organisation' is what limits of gateway.yaml are called")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"teams/search.yaml": TEAM.replace("[gpt-5]", "[gpt-5, gtp-5, fast]")},
            [
                "teams/search.yaml:5:25: 'gtp-5' matches no model of models.yaml; did you mean 'gpt-5'?",
                "teams/search.yaml:5:32: 'fast' matches no model of models.yaml; 'fast' is an alias, name 'gpt-5-mini'",
            ],
        ),
        (
            {"teams/search.yaml": TEAM + "fallbacks: {gpt-5: [gpt-5-mini]}"},
            ["teams/search.yaml:6:21: 'gpt-5-mini' is never used here: the team may not call it"],
        ),
    ],
)
def test_what_has_no_use_to_the_team_is_warned_of(
    write: Write, changes: dict[str, str | None], expected: list[str]
) -> None:
    assert warnings(write(changes)) == expected


@pytest.mark.parametrize("expires", ["2027-06-30", "'2027-06-30'"])
@pytest.mark.parametrize(
    ("zone", "ends"),
    [("UTC", "2027-07-01T00:00:00+00:00"), ("America/New_York", "2027-07-01T00:00:00-04:00")],
)
def test_a_key_works_through_its_last_day_in_the_gateways_zone(
    write: Write, expires: str, zone: str, ends: str
) -> None:
    team = VALID["teams/search.yaml"].replace("}\nmodels", f", expires: {expires}}}\nmodels")
    policy = load(write({"gateway.yaml": f"timezone: {zone}\n", "teams/search.yaml": team})).policy
    assert policy.keys[sha("prod")].key.expires_at == datetime.fromisoformat(ends).timestamp()


def test_an_expired_key_is_warned_of_when_the_time_is_known(write: Write) -> None:
    team = VALID["teams/search.yaml"].replace("}\nmodels", ", expires: 2027-06-30}\nmodels")
    folder = write({"teams/search.yaml": team})
    ends = datetime(2027, 7, 1, tzinfo=UTC).timestamp()
    assert load(folder).warnings == load(folder, now=ends - 1).warnings == ()
    (warning,) = load(folder, now=ends).warnings
    assert str(warning) == "teams/search.yaml:4:101: the key 'prod' has expired; it is refused"


def test_a_team_is_all_that_its_file_says(write: Write) -> None:
    text = TEAM.replace("[gpt-5]", "[gpt-5, 'gpt-*'], deny: ['*-mini']") + "cost_center: CC-1\nfallbacks: {gpt-5: []}\n"
    policy = load(write({"teams/search.yaml": text})).policy
    key = Key("prod", sha("prod"))
    team = Team("search", "CC-1", (key,), ("gpt-5", "gpt-*"), ("*-mini",), (), {"gpt-5": ()})
    assert policy.teams == {"search": team}
    assert policy.keys == {sha("prod"): Principal(team, key)}


def test_a_team_without_keys_or_models_is_a_team_all_the_same(write: Write) -> None:
    policy = load(write({"teams/idle.yaml": "team: idle\nmodels: {allow: []}\n"})).policy
    assert policy.teams["idle"] == Team("idle", "", (), ())
    assert set(policy.keys) == {sha("prod")}


def test_a_key_written_in_capitals_is_the_same_key(write: Write) -> None:
    capitals = TEAM.replace(sha("prod"), sha("prod").upper())
    assert set(load(write({"teams/search.yaml": capitals})).policy.keys) == {sha("prod")}


def test_a_model_that_is_denied_is_no_fallback(write: Write) -> None:
    text = TEAM.replace("[gpt-5]", "['*'], deny: [gpt-5-mini]") + "fallbacks: {gpt-5: [gpt-5-mini]}"
    expected = ["teams/search.yaml:6:21: 'gpt-5-mini' is never used here: the team may not call it"]
    assert warnings(write({"teams/search.yaml": text})) == expected


def test_an_alias_has_no_chain_of_its_own(write: Write) -> None:
    text = TEAM + "fallbacks: {fast: []}"
    expected = ["teams/search.yaml:6:13: unknown model 'fast'; it is an alias, name 'gpt-5-mini'"]
    assert errors(write({"teams/search.yaml": text})) == expected


def test_chains_are_not_judged_by_a_models_file_that_cannot_be_read(write: Write) -> None:
    found = errors(write({"models.yaml": "models: 7", "teams/search.yaml": TEAM + "fallbacks: {gpt-6: [gpt-7]}"}))
    assert [error.partition(":")[0] for error in found] == ["models.yaml"]
