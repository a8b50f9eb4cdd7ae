"""GET /v1/models shows what can be called, and nothing else."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.endpoints import ENDPOINTS
from oxyy_proxy.endpoints.models import listing, single
from oxyy_proxy.errors import ModelNotFound, ProxyError
from oxyy_proxy.rules.route import chain
from oxyy_proxy.rules.types import Price, Team
from tests.rules.policies import model, policy, principal, team

POLICY = policy(
    model("gpt-5"),
    model("gpt-5-mini"),
    model("ada", endpoints=["embeddings"], prices={"input": Price(1)}),
    model("unpriced", prices={}),
    model("veo", endpoints=["videos"]),
    aliases={"smart": "gpt-5", "fast": "gpt-5-mini", "free": "unpriced", "gone": "nowhere"},
)


def ids(of: Team) -> list[str]:
    return [entry["id"] for entry in listing(POLICY, of, ENDPOINTS, {})["data"]]


def test_models_are_listed_by_name_and_then_their_aliases() -> None:
    assert ids(team()) == ["ada", "gpt-5", "gpt-5-mini", "fast", "smart"]


def test_the_list_has_the_format_of_openai() -> None:
    found = listing(POLICY, team(allow=["ada"]), ENDPOINTS, {})
    entry = {"id": "ada", "object": "model", "created": 1_700_000_000, "owned_by": "oxyy"}
    assert found == {"object": "list", "data": [entry]}
    assert single(POLICY, team(), ENDPOINTS, {}, "ada") == entry


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (team(allow=[]), []),
        (team(allow=["gpt-*"]), ["gpt-5", "gpt-5-mini", "fast", "smart"]),
        (team(deny=["gpt-5"]), ["ada", "gpt-5-mini", "fast"]),
        (team(allow=["gpt-*"], deny=["fast"]), ["gpt-5", "gpt-5-mini", "smart"]),
        (team(allow=["fast"]), []),
    ],
)
def test_a_team_sees_what_it_may_use(of: Team, expected: list[str]) -> None:
    assert ids(of) == expected


@pytest.mark.parametrize("name", ["nowhere", "gpt-5", "smart", "unpriced", "veo", "", "ada ", "\ud83c"])
def test_what_is_not_this_teams_does_not_exist(name: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        single(POLICY, team(allow=["ada", "unpriced", "veo"]), ENDPOINTS, {}, name)
    assert caught.value.param == "model"
    caught.value.message.encode()


DESCRIBED = {
    "gpt-5": {"id": "gpt-5-2025", "object": "engine", "created": 7, "owned_by": "them", "context_window": 4096},
    "ada": {"owned_by": "others", "permission": [{"allow": True}]},
    "unpriced": {"owned_by": "them"},
    "veo": {"owned_by": "them"},
    "unheard-of": {"id": "unheard-of", "owned_by": "them"},
    "smart": {"id": "smart", "owned_by": "somebody with an alias of ours"},
}


def test_what_the_upstream_says_of_a_model_is_told_under_our_name_for_it() -> None:
    found = {entry["id"]: entry for entry in listing(POLICY, team(), ENDPOINTS, DESCRIBED)["data"]}
    said = {"object": "model", "created": 7, "owned_by": "them", "context_window": 4096}
    assert found["gpt-5"] == {"id": "gpt-5", **said}
    assert found["smart"] == {"id": "smart", **said}  # an alias of it
    assert found["ada"] == {
        "id": "ada",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "others",
        "permission": [{"allow": True}],
    }
    assert found["fast"] == {"id": "fast", "object": "model", "created": 1_700_000_000, "owned_by": "oxyy"}
    for name, entry in found.items():
        assert single(POLICY, team(), ENDPOINTS, DESCRIBED, name) == entry


def test_what_the_upstream_says_stays_as_it_was_said() -> None:
    before = deepcopy(DESCRIBED)
    listing(POLICY, team(), ENDPOINTS, DESCRIBED)
    assert before == DESCRIBED


@pytest.mark.parametrize("of", [team(), team(allow=["ada"]), team(deny=["gpt-5"]), team(allow=[])])
def test_a_model_is_not_callable_because_the_upstream_has_it(of: Team) -> None:
    described = [entry["id"] for entry in listing(POLICY, of, ENDPOINTS, DESCRIBED)["data"]]
    assert described == ids(of)
    for name in DESCRIBED.keys() - set(described):
        with pytest.raises(ModelNotFound):
            single(POLICY, of, ENDPOINTS, DESCRIBED, name)


GLOBS = st.lists(st.sampled_from(["*", "gpt-*", "ada", "gpt-5", "fast", "smart", "f*", "unpriced"]), max_size=3)
NAMES = [*POLICY.models, *POLICY.aliases, "nowhere"]


@given(allow=GLOBS, deny=GLOBS)
@settings(deadline=None, max_examples=100)
def test_what_is_listed_is_what_can_be_called(allow: list[str], deny: list[str]) -> None:
    of = team(allow=allow, deny=deny)
    callable_names = set()
    for endpoint in ENDPOINTS:
        for name in NAMES:
            try:
                chain(POLICY, principal(of), endpoint.name, endpoint.bases, name)
            except ProxyError:
                continue
            callable_names.add(name)
    assert set(ids(of)) == callable_names
