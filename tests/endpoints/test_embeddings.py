"""Embeddings: what is asked, held and read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.endpoints.embeddings import ENDPOINT, EmbeddingsAsk
from oxyy_proxy.errors import InvalidJson, InvalidValue, UpstreamBadResponse, UpstreamErrorAnswer
from oxyy_proxy.rules.types import PartTokens, Usage
from tests.rules.policies import model

MODEL = model("ada")
FAST = model("fast")
PARTS = PartTokens()


def ask(value: Any, **members: Any) -> EmbeddingsAsk:
    return EmbeddingsAsk(json.dumps({"model": "ada", "input": value, **members}).encode())


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ("abcd", 2),
        ("abcde", 3),
        ("日本", 3),  # six bytes
        ("", 1),
        (["abcd", "ef"], 3),
        (["a", "b", "c"], 3),  # a token each at least
        ([""], 1),
        ([1, 2, 3], 3),
        ([100257], 1),
        ([[1, 2], [3]], 3),
        (["abcd", [1, 2, 3]], 5),
        ("\ud83c", 2),
    ],
)
def test_text_is_held_by_its_bytes_and_ids_by_their_number(value: object, tokens: int) -> None:
    assert ask(value).worst(MODEL, PARTS) == Usage(input_tokens=tokens)


@given(st.lists(st.lists(st.integers(0, 200_000), min_size=1), min_size=1))
@settings(deadline=None, max_examples=100)
def test_ids_are_counted_exactly(value: list[list[int]]) -> None:
    count = sum(map(len, value))
    assert ask(value).worst(MODEL, PARTS) == Usage(input_tokens=count)
    assert ask([token for ids in value for token in ids]).worst(MODEL, PARTS) == Usage(input_tokens=count)
    assert ask(value).likely_usage(MODEL, PARTS, 0) == Usage(input_tokens=count, source="estimated")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
@settings(deadline=None, max_examples=100)
def test_text_is_held_at_two_bytes_a_token_and_never_estimated_above(value: list[str]) -> None:
    held = ask(value).worst(MODEL, PARTS).input_tokens
    size = sum(len(text.encode()) for text in value)
    assert size / 2 <= held <= size / 2 + len(value) + 0.5
    assert 1 <= ask(value).likely_usage(MODEL, PARTS, 0).input_tokens <= held


@pytest.mark.parametrize(
    "value",
    [
        *(None, 1, 1.5, True, {}, {"text": "a"}),
        *([], [[]], [[1], []]),
        *([None], [1.5], [True], [{}], [1, "a"], ["a", 1]),
        *([["a"]], [[True]], [[1, "a"]], [[1, 2.0]], [[[1]]]),
    ],
    ids=repr,
)
def test_what_is_no_input_is_refused(value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        ask(value)
    assert (caught.value.param, caught.value.code) == ("input", "invalid_value")


def test_input_must_be_there() -> None:
    with pytest.raises(InvalidValue) as caught:
        EmbeddingsAsk(b'{"model":"ada"}')
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 1),
        ("model", ""),
        ("encoding_format", 1),
        ("encoding_format", []),
        ("dimensions", 0),
        ("dimensions", -1),
        ("dimensions", 1.5),
        ("dimensions", "256"),
        ("dimensions", True),
        ("dimensions", 10**30),
    ],
)
def test_a_member_of_the_wrong_type_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        ask("x", **{name: value})
    assert caught.value.param == name


@pytest.mark.parametrize("members", [{"dimensions": None, "encoding_format": None}, {"dimensions": 256}, {"user": 7}])
def test_what_is_right_or_unknown_passes(members: dict[str, Any]) -> None:
    assert ask("x", **members).model == "ada"


def test_a_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidJson):
        EmbeddingsAsk(b'{"input":')


def test_the_body_goes_as_it_came_save_for_the_model() -> None:
    raw = b'{ "input": ["\\u0061", "b"],\n"model" : "fast" , "x": 1.0 }'
    parsed = EmbeddingsAsk(raw)
    assert parsed.body_for(FAST) == raw
    assert parsed.body_for(MODEL) == raw.replace(b'"fast"', b'"ada"')
    assert EmbeddingsAsk(b'{"input":"x"}').body_for(MODEL) == b'{"input":"x","model":"ada"}'


def test_an_embeddings_request_never_streams() -> None:
    assert ask("x", stream=True).stream is False


def test_what_was_used_is_what_the_upstream_says() -> None:
    answer = b'{"object":"list","data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}'
    assert ask("x").read(answer, MODEL, PARTS).usage == Usage(input_tokens=8)
    assert ask("x").read(b'{"data":[]}', MODEL, PARTS).usage is None


def test_an_answer_that_is_none_is_told_from_an_error() -> None:
    with pytest.raises(UpstreamErrorAnswer):
        ask("x").read(b'{"error":{"message":"no"}}', MODEL, PARTS)
    with pytest.raises(UpstreamBadResponse):
        ask("x").read(b"[0.1]", MODEL, PARTS)


def test_the_endpoint_is_charged_by_input_alone() -> None:
    assert (ENDPOINT.name, ENDPOINT.path, ENDPOINT.bases) == ("embeddings", "/embeddings", ({"input"},))
    assert ENDPOINT.max_body_bytes == 32 * 1024 * 1024
    assert isinstance(ENDPOINT.parse(b'{"input":"x"}'), EmbeddingsAsk)
