"""What all endpoints share: checks of members, and reading what an upstream says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.endpoints.base import (
    JSON,
    MAX_INT,
    Ask,
    Endpoint,
    error_answer,
    model_of,
    optional,
    optional_int,
    read_json,
    read_object,
    usage_of,
)
from oxyy_proxy.endpoints.embeddings import EmbeddingsAsk
from oxyy_proxy.errors import InvalidValue, UpstreamBadResponse, UpstreamErrorAnswer
from oxyy_proxy.rules.types import PRICE_SCALE, Model, PartTokens, Price, Usage
from tests.rules.policies import model


@pytest.mark.parametrize("value", [1, 5, MAX_INT])
def test_an_integer_in_bounds_is_taken(value: int) -> None:
    assert optional_int({"n": value}, "n", least=1) == value


@pytest.mark.parametrize("members", [{}, {"n": None}])
def test_null_is_absent(members: dict[str, Any]) -> None:
    assert optional_int(members, "n", least=1) is None
    assert optional(members, "n", str, "a string") is None


@pytest.mark.parametrize("value", [0, -1, MAX_INT + 1, 10**30, True, False, 1.0, "1", [], {}, [1]])
def test_what_is_no_integer_in_bounds_is_refused(value: object) -> None:
    with pytest.raises(InvalidValue, match=rf"'n' must be an integer from 1 to {MAX_INT}") as caught:
        optional_int({"n": value}, "n", least=1)
    assert caught.value.param == "n"


def test_an_upper_bound_may_be_set() -> None:
    assert optional_int({"n": 10}, "n", least=0, most=10) == 10
    with pytest.raises(InvalidValue, match="from 0 to 10"):
        optional_int({"n": 11}, "n", least=0, most=10)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (str, ["", "x"], [1, True, [], {}]),
        (bool, [True, False], [0, 1, "true", [], {}]),
        ((int, float), [0, 1.5, -2], [True, "1", [], {}]),
        (dict, [{}, {"a": 1}], [[], "x", 1, True]),
    ],
)
def test_a_member_has_its_type_and_true_is_no_number(kind: Any, good: list[object], bad: list[object]) -> None:
    for value in good:
        assert optional({"x": value}, "x", kind, "right") == value
    for value in bad:
        with pytest.raises(InvalidValue, match="'x' must be right") as caught:
            optional({"x": value}, "x", kind, "right")
        assert caught.value.param == "x"


@pytest.mark.parametrize("value", ["", 1, True, [], {}])
def test_a_model_is_a_name(value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        model_of({"model": value})
    assert caught.value.param == "model"


def test_a_model_may_be_left_out() -> None:
    assert model_of({"model": "gpt-5"}) == "gpt-5"
    assert model_of({}) is model_of({"model": None}) is None


def test_a_target_is_the_worst_case_of_the_request_on_this_model() -> None:
    ask = EmbeddingsAsk(b'{"model":"m","input":[1,2,3]}')
    dear = model("m", prices={"input": Price(7 * PRICE_SCALE)})
    found = ask.target(dear, PartTokens())
    assert (found.model, found.worst_nusd, found.worst_tokens) == (dear, 21, 3)


class _Free(Ask):
    """A request for nothing."""

    model = None

    def worst(self, model: Model, parts: PartTokens) -> Usage:
        return Usage(input_tokens=3, output_tokens=4, characters=5)

    def body_for(self, model: Model) -> bytes:
        return b""

    def likely_usage(self, model: Model, parts: PartTokens, output_bytes: int) -> Usage:
        return Usage()


@pytest.mark.parametrize(("character", "worst"), [(1, 7), (3, 15)])
def test_a_target_holds_the_tokens_both_ways_and_the_money_of_the_dearer_way_to_charge(
    character: int, worst: int
) -> None:
    prices = {"input": Price(PRICE_SCALE), "output": Price(PRICE_SCALE), "character": Price(character * PRICE_SCALE)}
    found = _Free().target(model("m", prices=prices), PartTokens())
    assert (found.worst_nusd, found.worst_tokens) == (worst, 7)


def test_a_request_that_says_no_more_is_json_answered_whole_that_fetches_and_measures_nothing() -> None:
    ask = _Free()
    assert (ask.stream, ask.content_type, list(ask.urls), ask.recording) == (False, JSON, [], None)
    assert ask.meter("text/event-stream", model("m")) is None
    with pytest.raises(AssertionError, match="measured"):
        ask.measured(1)
    with pytest.raises(AssertionError, match="never whole"):
        ask.read(b"{}", model("m"), PartTokens())


@pytest.mark.parametrize("name", ["worst", "body_for", "likely_usage"])
def test_a_request_must_say_what_it_costs_and_sends(name: str) -> None:
    incomplete = type("Incomplete", (_Free,), {name: getattr(Ask, name)})
    with pytest.raises(TypeError, match=name):
        incomplete()


def test_an_endpoint_takes_json_of_32_mb_and_no_form_unless_it_says_so() -> None:
    plain = Endpoint("x", "/x", (frozenset({"input"}),), parse=lambda _: _Free())
    assert (plain.max_body_bytes, plain.parse_form, plain.max_form_bytes) == (32 * 1024 * 1024, None, 0)
    assert plain.after_ambiguous is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a":1}', {"a": 1}),
        (b'"\\ud83c"', "\ud83c"),
        (b'{"logprob":-Infinity}', {"logprob": float("-inf")}),
        (b"[1]", [1]),
        (b"", None),
        (b"{", None),
        (b"<html>", None),
        (b"\xff", None),
        (b'{"a":"\xed\xa0\x80"}', {"a": "\ud800"}),
        (b"[" * 200_000, None),
        (b"[" * 200_000 + b"]" * 200_000, None),
        (b'{"a":' + b"9" * 5000 + b"}", None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_json_as_upstreams_write_it(data: bytes, expected: object) -> None:
    assert read_json(data) == expected


@given(st.binary(max_size=50) | st.text().map(str.encode))
@settings(deadline=None, max_examples=200)
def test_no_bytes_of_an_upstream_are_a_defect_here(data: bytes) -> None:
    read_json(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"1", b'"x"', b"<html>", b'{"a":1', b"\x00"])
def test_an_answer_that_is_no_object_is_ambiguous(data: bytes) -> None:
    with pytest.raises(UpstreamBadResponse) as caught:
        read_object(data)
    assert caught.value.ambiguous


@pytest.mark.parametrize("error", [{"message": "over\ud83cload"}, "overload", {"code": 1}, ["overload"], 7, True])
def test_an_error_with_status_200_costs_nothing(error: object) -> None:
    with pytest.raises(UpstreamErrorAnswer) as caught:
        read_object(json.dumps({"error": error, "choices": [{}]}).encode())
    assert not caught.value.ambiguous
    caught.value.message.encode()  # can be sent and logged, whatever the upstream wrote


def test_the_message_of_an_upstream_is_quoted_in_part() -> None:
    assert "overload" in error_answer({"message": "overload"}).message
    assert len(error_answer("x" * 10_000).message) < 300


def test_an_answer_may_tell_an_error_of_something_else() -> None:
    failed = b'{"id":"v","status":"failed","error":{"message":"no"}}'
    assert read_object(failed, may_tell_error=True)["status"] == "failed"
    with pytest.raises(UpstreamErrorAnswer):
        read_object(failed)
    with pytest.raises(UpstreamBadResponse):
        read_object(b"[]", may_tell_error=True)


@pytest.mark.parametrize("error", [b"null", b"{}", b'""', b"false"])
def test_an_empty_error_is_none(error: bytes) -> None:
    assert read_object(b'{"error":' + error + b',"id":"x"}')["id"] == "x"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 0, 0, 4)),
        ({"prompt_tokens": 3, "total_tokens": 3}, Usage(3)),
        ({"prompt_tokens": 3, "completion_tokens": None, "total_tokens": 9}, Usage(3, 0, 0, 6)),
        ({"prompt_tokens": 3, "total_tokens": 1}, Usage(3)),
        ({"prompt_tokens": 0, "completion_tokens": 1}, Usage(0, 0, 0, 1)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 3},
                "completion_tokens_details": {"audio_tokens": 5, "reasoning_tokens": 1},
            },
            Usage(9, 2, 3, 8, 5),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 8,
                "prompt_tokens_details": {"cached_tokens": "2"},
                "completion_tokens_details": [],
            },
            Usage(9, 0, 0, 8),
        ),
        # It does not say: absent, malformed, all zero, beyond any answer.
        (None, None),
        ({}, None),
        ([], None),
        ("12", None),
        ({"prompt_tokens": 3}, None),
        ({"completion_tokens": 3, "total_tokens": 9}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        ({"prompt_tokens": -1, "completion_tokens": 4}, None),
        ({"prompt_tokens": 3.0, "completion_tokens": 4}, None),
        ({"prompt_tokens": "3", "completion_tokens": 4}, None),
        ({"prompt_tokens": True, "completion_tokens": 4}, None),
        ({"prompt_tokens": 2**63, "completion_tokens": 4}, None),
        ({"prompt_tokens": MAX_INT, "completion_tokens": MAX_INT}, Usage(MAX_INT, 0, 0, MAX_INT)),
    ],
)
def test_what_an_upstream_says_was_used(usage: object, expected: Usage | None) -> None:
    assert usage_of(usage) == expected
