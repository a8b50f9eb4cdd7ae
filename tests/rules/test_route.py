"""Who may answer: nothing that is not allowed, whatever the way to it."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.errors import InvalidValue, ModelNotAllowed, ModelNotFound, ModelNotPriced, ProxyError
from oxyy_proxy.rules.route import allowed, backoff_s, callable_models, chain, following, matches, serves
from oxyy_proxy.rules.types import Policy, Price, Team
from tests.rules.policies import model, policy, principal, team

CHAT = (frozenset({"input", "output"}),)
EMBEDDINGS = (frozenset({"input"}),)
POLICY = policy(
    model("gpt-5", fallbacks=["gpt-5-mini", "claude"]),
    model("gpt-5-mini"),
    model("claude"),
    model("gpt-5-preview"),
    model("ada", endpoints=["embeddings"], prices={"input": Price(1)}),
    model("unpriced", prices={}),
    model("half", prices={"input": Price(1)}),
    aliases={"fast": "gpt-5-mini", "smart": "gpt-5", "gone": "nowhere"},
    default_models={"embeddings": "ada", "images": "nowhere"},
)


def names(of: Policy, by: Team, requested: str | None, endpoint: str = "chat") -> list[str]:
    bases = EMBEDDINGS if endpoint == "embeddings" else CHAT
    return [found.name for found in chain(of, principal(by), endpoint, bases, requested)[1]]


@pytest.mark.parametrize(
    ("patterns", "name", "expected"),
    [
        (["gpt-5"], "gpt-5", True),
        (["gpt-5"], "gpt-5-mini", False),
        (["gpt-*"], "gpt-5", True),
        (["GPT-5"], "gpt-5", False),
        (["*"], "anything", True),
        ([], "anything", False),
        (["a", "b"], "b", True),
        (["*-preview"], "preview", False),
        (["gpt-?"], "gpt-5", True),
        (["gpt.5"], "gpt-5", False),
    ],
)
def test_globs_match_whole_names(patterns: list[str], name: str, expected: bool) -> None:
    assert matches(patterns, name) is expected


@pytest.mark.parametrize(
    ("allow", "deny", "name", "expected"),
    [
        (["*"], ["*-preview"], "gpt-5-preview", False),
        (["gpt-5-preview"], ["gpt-5-preview"], "gpt-5-preview", False),
        (["gpt-*"], ["*-preview"], "gpt-5", True),
        ([], [], "gpt-5", False),
        (["*"], ["*"], "gpt-5", False),
    ],
)
def test_nothing_is_allowed_that_is_not_named_and_deny_wins(
    allow: list[str], deny: list[str], name: str, expected: bool
) -> None:
    assert allowed(team(allow=allow, deny=deny), name) is expected


def test_a_model_serves_what_it_is_offered_and_priced_for() -> None:
    assert serves(POLICY.models["gpt-5"], "chat", CHAT)
    assert not serves(POLICY.models["gpt-5"], "embeddings", EMBEDDINGS)
    assert not serves(POLICY.models["half"], "chat", CHAT)
    assert not serves(POLICY.models["unpriced"], "chat", CHAT)


SPEECH = (frozenset({"character"}), frozenset({"audio_output"}), frozenset({"input", "output"}))
BY = {
    "character": ["character"],
    "audio": ["audio_output", "cached_input"],
    "tokens": ["input", "output"],
    "half": ["input"],
    "halves": ["input", "request"],
    "nothing": [],
}
SPEAKING = policy(
    *(
        model(name, endpoints=["speech"], prices={unit: Price(1) for unit in units}, fallbacks=list(BY))
        for name, units in BY.items()
    ),
    model("elsewhere", prices={"character": Price(1)}, fallbacks=["character"]),
)


@pytest.mark.parametrize("name", [*BY, "elsewhere"])
def test_a_model_serves_with_all_units_of_any_one_way_to_charge(name: str) -> None:
    assert serves(SPEAKING.models[name], "speech", SPEECH) is (name in ("character", "audio", "tokens"))
    assert not serves(SPEAKING.models[name], "speech", ())


def test_a_chain_may_charge_each_model_in_another_way() -> None:
    _, models = chain(SPEAKING, principal(team()), "speech", SPEECH, "tokens")
    assert [found.name for found in models] == ["tokens", "character", "audio"]
    for name in ("half", "halves", "nothing", "elsewhere"):
        with pytest.raises(ModelNotPriced, match="no price for speech"):
            chain(SPEAKING, principal(team()), "speech", SPEECH, name)


def test_a_team_sees_what_can_be_charged_in_any_way() -> None:
    found = callable_models(SPEAKING, team(), {"chat": CHAT, "speech": SPEECH})
    assert [one.name for one in found] == ["audio", "character", "tokens"]
    assert callable_models(SPEAKING, team(), {"chat": CHAT}) == []


@pytest.mark.parametrize(
    ("requested", "by", "error"),
    [
        ("no-such-model", team(), ModelNotFound),
        ("no-such-model", team(allow=[]), ModelNotFound),
        ("gone", team(), ModelNotFound),
        ("GPT-5", team(), ModelNotFound),
        ("*", team(), ModelNotFound),
        ("gpt-5", team(allow=["claude"]), ModelNotAllowed),
        ("gpt-5-preview", team(deny=["*-preview"]), ModelNotAllowed),
        ("fast", team(allow=["gpt-5"]), ModelNotAllowed),
        ("fast", team(allow=["fast"]), ModelNotAllowed),
        ("fast", team(deny=["gpt-5-mini"]), ModelNotAllowed),
        ("fast", team(deny=["fast"]), ModelNotAllowed),
        ("unpriced", team(), ModelNotPriced),
        ("unpriced", team(allow=["gpt-5"]), ModelNotAllowed),
        ("half", team(), ModelNotPriced),
        ("ada", team(), ModelNotPriced),
        (None, team(), InvalidValue),
    ],
)
def test_a_model_that_may_not_answer_is_refused(requested: str | None, by: Team, error: type[ProxyError]) -> None:
    with pytest.raises(ProxyError) as caught:
        names(POLICY, by, requested)
    assert type(caught.value) is error
    assert caught.value.param == "model"


def test_an_alias_is_resolved_before_the_allowlist() -> None:
    requested, models = chain(POLICY, principal(team(allow=["gpt-5-mini"])), "chat", CHAT, "fast")
    assert (requested, [found.name for found in models]) == ("fast", ["gpt-5-mini"])


def test_denying_an_alias_leaves_its_model_callable() -> None:
    assert names(POLICY, team(deny=["fast"]), "gpt-5-mini") == ["gpt-5-mini"]


def test_a_body_without_model_gets_the_default_of_its_endpoint() -> None:
    assert chain(POLICY, principal(team()), "embeddings", EMBEDDINGS, None)[0] == "ada"
    assert names(POLICY, team(), None, "embeddings") == ["ada"]
    with pytest.raises(ModelNotAllowed):
        names(POLICY, team(allow=["gpt-*"]), None, "embeddings")


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (team(), ["gpt-5", "gpt-5-mini", "claude"]),
        (team(allow=["gpt-5", "claude"]), ["gpt-5", "claude"]),
        (team(deny=["claude"]), ["gpt-5", "gpt-5-mini"]),
        (team(allow=["gpt-5"]), ["gpt-5"]),
        (team(fallbacks={"gpt-5": ()}), ["gpt-5"]),
        (team(fallbacks={"gpt-5": ("claude",)}), ["gpt-5", "claude"]),
        (team(fallbacks={"gpt-5": ("claude",)}, deny=["claude"]), ["gpt-5"]),
        (team(fallbacks={"gpt-5": ("unpriced", "half", "ada", "claude")}), ["gpt-5", "claude"]),
        (team(fallbacks={"gpt-5": ("nowhere", "gpt-5", "claude")}), ["gpt-5", "claude"]),
        (team(fallbacks={"gpt-5-mini": ("claude",)}), ["gpt-5", "gpt-5-mini", "claude"]),
    ],
)
def test_the_chain_of_a_team(by: Team, expected: list[str]) -> None:
    assert names(POLICY, by, "gpt-5") == expected
    assert names(POLICY, by, "smart") == expected


NAME = st.sampled_from("abcdef")


@given(
    priced=st.sets(NAME),
    chat=st.sets(NAME),
    allow=st.sets(NAME),
    deny=st.sets(NAME),
    own=st.dictionaries(NAME, st.lists(NAME).map(tuple)),
    fallbacks=st.lists(NAME),
    requested=NAME,
)
@settings(deadline=None, max_examples=150)
def test_a_fallback_never_escapes_the_allowlist(
    priced: set[str],
    chat: set[str],
    allow: set[str],
    deny: set[str],
    own: dict[str, tuple[str, ...]],
    fallbacks: list[str],
    requested: str,
) -> None:
    prices = {"input": Price(1), "output": Price(1)}
    models = [
        model(
            name,
            fallbacks=fallbacks,
            endpoints=["chat"] if name in chat else ["images"],
            prices=prices if name in priced else {},
        )
        for name in "abcde"
    ]
    may = {name for name in "abcde" if name in priced & chat & allow - deny}
    of = policy(*models)
    try:
        found = names(of, team(allow=allow, deny=deny, fallbacks=own), requested)
    except ProxyError:
        assert requested not in may
        return
    assert found == [requested, *(n for n in own.get(requested, tuple(fallbacks)) if n in may and n != requested)]
    assert requested in may


def test_a_team_sees_what_it_may_call_somewhere() -> None:
    bases_of = {"chat": CHAT, "embeddings": EMBEDDINGS}
    found = [one.name for one in callable_models(POLICY, team(deny=["claude"]), bases_of)]
    assert found == ["ada", "gpt-5", "gpt-5-mini", "gpt-5-preview"]
    assert callable_models(POLICY, team(allow=["half", "unpriced"]), bases_of) == []


@given(
    allow=st.lists(st.sampled_from(["*", "gpt-*", "ada", "claude", "half"])), name=st.sampled_from(list(POLICY.models))
)
@settings(deadline=None, max_examples=100)
def test_what_is_listed_is_what_can_be_called(allow: list[str], name: str) -> None:
    bases_of = {"chat": CHAT, "embeddings": EMBEDDINGS}
    listed = [one.name for one in callable_models(POLICY, team(allow=allow), bases_of)]
    callable_somewhere = False
    for endpoint, bases in bases_of.items():
        try:
            chain(POLICY, principal(team(allow=allow)), endpoint, bases, name)
            callable_somewhere = True
        except ProxyError:
            pass
    assert (name in listed) is callable_somewhere
    assert all(any(fnmatchcase(one, glob) for glob in allow) for one in listed)


@pytest.mark.parametrize(
    ("count", "at", "tried", "attempts", "ambiguous", "client_retries", "expected"),
    [
        (1, 0, 1, 3, False, False, [0]),  # a chain of one: once more after a definite failure
        (1, 0, 1, 3, True, False, []),  # and never after an ambiguous one
        (1, 0, 1, 3, False, True, []),  # nor where the client itself tries again
        (1, 0, 2, 3, False, False, []),
        (1, 0, 1, 1, False, False, []),
        (2, 0, 1, 3, False, False, [1]),
        (2, 0, 1, 3, True, True, [1]),
        (2, 1, 2, 3, False, False, []),  # the chain is walked once
        (2, 1, 1, 9, True, False, []),
        (3, 0, 1, 3, False, False, [1, 2]),
        (3, 1, 2, 2, False, False, []),
        (3, 1, 2, 3, True, False, [2]),
        (3, 0, 1, 1, False, False, []),
    ],
)
def test_who_may_be_tried_next(
    count: int, at: int, tried: int, attempts: int, ambiguous: bool, client_retries: bool, expected: list[int]
) -> None:
    found = following(count, at, tried, attempts, ambiguous=ambiguous, client_retries=client_retries)
    assert list(found) == expected


@given(st.integers(1, 20), st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=100)
def test_the_pause_is_any_part_of_a_bound_that_doubles_up_to_two_seconds(tried: int, jitter: float) -> None:
    most = min(2.0, 0.1 * 2 ** (tried - 1))
    assert backoff_s(tried, jitter) == pytest.approx(jitter * most)
    assert 0 <= backoff_s(tried, jitter) <= most


def test_the_bounds_of_the_pause() -> None:
    assert [round(backoff_s(tried, 1.0), 3) for tried in range(1, 8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert backoff_s(3, 0.0) == 0
