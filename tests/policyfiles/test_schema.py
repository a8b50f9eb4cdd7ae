"""The fields of each file, and what stands where another kind of thing should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from oxyy_proxy.policyfiles.schema import (
    DROPPED,
    GatewaySpec,
    ModelsSpec,
    PriceSpec,
    RetrySpec,
    Spec,
    TeamSpec,
    remaining,
)
from tests.policyfiles.conftest import MODELS, TEAM, Write, errors, limits

UNITS = (
    "input, cached_input, output, audio_input, audio_output, image_input, image_output, character, image, "
    "video_second, audio_minute, request"
)


GATEWAY_FIELDS = [
    ("- a list", "1:1: expected a mapping, got a list"),
    ("retry: {on: []}", "1:13: expected at least one item, got an empty list"),
    ("retry: {on: 500}", "1:13: expected a list, got 500"),
    ("retry:", "1:7: expected a value, got nothing; to leave the field out, delete its name too"),
    ("retry: 5", "1:8: expected a mapping, got 5"),
    (
        "retry: {idel: 5s}",
        "1:9: unknown field 'idel'; allowed: on, attempts, deadline, first_byte, answer, idle, budget_percent; "
        "did you mean 'idle'?",
    ),
    ("on_disconnect: drian", "1:16: expected one of drain, cancel; got 'drian'; did you mean 'drain'?"),
]


@pytest.mark.parametrize(("text", "expected"), GATEWAY_FIELDS)
def test_a_wrong_field_of_the_gateway_names_its_place(write: Write, text: str, expected: str) -> None:
    assert errors(write({"gateway.yaml": text})) == [f"gateway.yaml:{expected}"]


MODEL_FIELDS = [
    ("version: 1", "1:1: the field 'models' is missing"),
    ("models:\n  gpt-5:\n    price: {input: 1, output: 2}\n", "2:3: the field 'endpoints' is missing"),
    (
        "models:\n  gpt-5: {endpoints: [chats]}",
        "2:23: expected one of chat, embeddings, images, image_edits, videos, transcriptions, speech; got 'chats'; "
        "did you mean 'chat'?",
    ),
    ("models: {gpt-5: {endpoints: []}}", "1:29: expected at least one item, got an empty list"),
    (
        "models: {a: {endpoints: [chat], price: {inptu: 1}}}",
        f"1:41: unknown field 'inptu'; allowed: {UNITS}; did you mean 'input'?",
    ),
    (
        "models: {a: {endpoints: [chat], price: {input: }}}",
        "1:47: expected a value, got nothing; to leave the field out, delete its name too",
    ),
    (MODELS + "part_tokens: {video: 1}", "7:15: unknown field 'video'; allowed: image, audio, file"),
    (
        MODELS + "default_models: {chats: gpt-5}",
        "7:18: expected one of chat, embeddings, images, image_edits, videos, transcriptions, speech; got 'chats'; "
        "did you mean 'chat'?",
    ),
]


@pytest.mark.parametrize(("text", "expected"), MODEL_FIELDS)
def test_a_wrong_field_of_the_models_names_its_place(write: Write, text: str, expected: str) -> None:
    assert errors(write({"models.yaml": text})) == [f"models.yaml:{expected}"]


TEAM_FIELDS = [
    (TEAM.replace("team: search\n", ""), "1:1: the field 'team' is missing"),
    (TEAM.replace("{allow: [gpt-5]}", "{}"), "5:1: the field 'allow' is missing"),
    (TEAM.replace("{allow: [gpt-5]}", "[gpt-5]"), "5:9: expected a mapping, got a list"),
    (TEAM.replace("[gpt-5]", "gpt-5"), "5:17: expected a list, got 'gpt-5'"),
    (limits("meter: usd, per: day"), "7:5: the field 'cap' is missing"),
    (limits("meter: usd, per: week, cap: 1"), "7:23: expected one of minute, hour, day, month; got 'week'"),
    (limits("meter: usd, per: day, cap: 1, models: []"), "7:44: expected at least one item, got an empty list"),
    (
        limits("meter: usd, per: day, cap: 1, models: "),
        "7:43: expected a value, got nothing; to leave the field out, delete its name too",
    ),
]


@pytest.mark.parametrize(("text", "expected"), TEAM_FIELDS)
def test_a_wrong_field_of_a_team_names_its_place(write: Write, text: str, expected: str) -> None:
    assert errors(write({"teams/search.yaml": text})) == [f"teams/search.yaml:{expected}"]


def test_a_field_that_is_misspelt_is_unknown_and_missing(write: Write) -> None:
    text, expected = (
        TEAM.replace("team: search", "taem: search"),
        "2:1: unknown field 'taem'; allowed: version, team, cost_center, keys, models, limits, fallbacks, mode; "
        "did you mean 'team'?",
    )
    found = errors(write({"teams/search.yaml": text}))
    assert found == ["teams/search.yaml:1:1: the field 'team' is missing", f"teams/search.yaml:{expected}"]


def test_what_was_dropped_leaves_the_indexes_of_the_rest() -> None:
    assert list(remaining(["a", DROPPED, "b", DROPPED])) == [(0, "a"), (2, "b")]
    limits = GatewaySpec.model_validate({"limits": [DROPPED, {"meter": "concurrent", "cap": 1}]}).limits
    assert [(index, limit.meter) for index, limit in remaining(limits)] == [(1, "concurrent")]


def test_a_price_speaks_of_the_units_that_have_one() -> None:
    price = PriceSpec.model_validate({"input": 1, "image": {"default": 0, "hd": 2}})
    assert price.units() == {"input": {"default": 10**9}, "image": {"default": 0, "hd": 2 * 10**15}}
    assert PriceSpec().units() == {}


def test_a_file_that_was_read_does_not_change() -> None:
    with pytest.raises(ValidationError):
        RetrySpec().attempts = 4  # type: ignore[misc]


@pytest.mark.parametrize("kind", [GatewaySpec, ModelsSpec, TeamSpec])
def test_every_part_that_can_be_taken_out_is_a_part_of_the_file(kind: type[Spec]) -> None:
    assert kind.separable
    for path in kind.separable:
        assert list(_walk(kind, path)), path


def _walk(kind: Any, path: tuple[str, ...]) -> Iterator[Any]:
    """What the path leads to; nothing if it leads nowhere."""
    if not path:
        yield kind
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields.values() if path[0] == "*" else [kind.model_fields[path[0]]]
        for field in fields:
            yield from _walk(field.annotation, path[1:])
    elif get_origin(kind) in (dict, list):
        assert path[0] == "*"
        yield from _walk(get_args(kind)[-1], path[1:])
    else:  # Annotated and unions
        yield from _walk(get_args(kind)[0], path)
