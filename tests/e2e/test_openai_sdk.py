"""The official OpenAI package, unchanged, against the proxy: what it answers, and that it costs what the upstream
bills."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from tests.e2e.sdk import HELLO, KEY, KINDS, Sdk, assert_billed, idle
from tests.rig import Rig

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "examples": ["Berlin"]}},
            "required": ["city"],
        },
    },
}

PERSON = {
    "type": "json_schema",
    "json_schema": {
        "name": "person",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(params=KINDS)
async def sdk(request: pytest.FixtureRequest, rig: Rig) -> AsyncIterator[Sdk]:
    """A client of either kind, with the team's key."""
    made = KINDS[request.param](rig.url, KEY)
    yield made
    await made.close()


async def test_chat(sdk: Sdk, rig: Rig) -> None:
    answer = await sdk.call(lambda c: c.chat.completions.create(**HELLO))
    assert answer.choices[0].message.content
    assert answer.model == "gpt-5"
    (entry,) = rig.simulator.bill
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (entry.input_tokens, entry.output_tokens)
    assert_billed(rig)


async def test_a_stream_looks_as_if_nobody_had_asked_for_its_usage(sdk: Sdk, rig: Rig) -> None:
    whole = await sdk.call(lambda c: c.chat.completions.create(**HELLO))
    events = await sdk.events(lambda c: c.chat.completions.create(**HELLO, stream=True))
    assert text_of(events) == whole.choices[0].message.content
    assert all(event.choices and event.usage is None for event in events)
    assert_billed(rig, 2)


async def test_a_stream_with_usage_ends_with_it(sdk: Sdk, rig: Rig) -> None:
    options = {"include_usage": True}
    *events, last = await sdk.events(lambda c: c.chat.completions.create(**HELLO, stream=True, stream_options=options))
    assert text_of(events)
    assert all(event.usage is None for event in events)
    (entry,) = rig.simulator.bill
    assert last.choices == []
    assert last.usage.total_tokens == entry.input_tokens + entry.output_tokens
    assert_billed(rig)


async def test_a_tool_is_called_and_its_result_answered(sdk: Sdk, rig: Rig) -> None:
    asked = await sdk.call(lambda c: c.chat.completions.create(**HELLO, tools=[WEATHER]))
    message = asked.choices[0].message
    assert asked.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls[0].function.name == "weather"
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Berlin"}
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"}
    messages = [*HELLO["messages"], message, result]
    told = await sdk.call(lambda c: c.chat.completions.create(model="gpt-5", messages=messages, tools=[WEATHER]))
    assert told.choices[0].finish_reason == "stop"
    assert_billed(rig, 2)


async def test_a_tool_call_is_streamed(sdk: Sdk, rig: Rig) -> None:
    events = await sdk.events(lambda c: c.chat.completions.create(**HELLO, tools=[WEATHER], stream=True))
    calls = [call for event in events for call in event.choices[0].delta.tool_calls or []]
    assert calls[0].function.name == "weather"
    assert json.loads("".join(call.function.arguments for call in calls)) == {"city": "Berlin"}
    assert events[-1].choices[0].finish_reason == "tool_calls"
    assert_billed(rig)


async def test_json_mode(sdk: Sdk, rig: Rig) -> None:
    wanted = {"type": "json_object"}
    answer = await sdk.call(lambda c: c.chat.completions.create(**HELLO, response_format=wanted))
    assert isinstance(json.loads(answer.choices[0].message.content), dict)
    assert_billed(rig)


async def test_structured_output(sdk: Sdk, rig: Rig) -> None:
    answer = await sdk.call(lambda c: c.chat.completions.create(**HELLO, response_format=PERSON))
    assert json.loads(answer.choices[0].message.content).keys() == {"name", "age"}
    assert_billed(rig)


async def test_two_choices(sdk: Sdk, rig: Rig) -> None:
    answer = await sdk.call(lambda c: c.chat.completions.create(**HELLO, n=2))
    assert [choice.index for choice in answer.choices] == [0, 1]
    events = await sdk.events(lambda c: c.chat.completions.create(**HELLO, n=2, stream=True))
    for choice in answer.choices:
        said = [e.choices[0].delta.content or "" for e in events if e.choices[0].index == choice.index]
        assert "".join(said) == choice.message.content
    assert_billed(rig, 2)


@pytest.mark.parametrize(
    ("asked", "vectors"),
    [
        ({"input": "a text of some words"}, 1),
        ({"input": "a text of some words", "encoding_format": "float"}, 1),
        ({"input": ["one text", "another text"]}, 2),
        ({"input": [1, 2, 3, 4]}, 1),
        ({"input": [[1, 2], [3, 4, 5]]}, 2),
    ],
    ids=["text", "float", "list", "tokens", "lists of tokens"],
)
async def test_embeddings(sdk: Sdk, rig: Rig, asked: dict[str, Any], vectors: int) -> None:
    answer = await sdk.call(lambda c: c.embeddings.create(model="text-embedding-3-small", **asked))
    assert [one.index for one in answer.data] == list(range(vectors))
    assert all(math.isclose(math.hypot(*one.embedding), 1, abs_tol=1e-6) for one in answer.data)
    sent = json.loads(rig.simulator.received[-1][1])
    assert sent["encoding_format"] == asked.get("encoding_format", "base64")
    assert answer.usage.prompt_tokens == rig.simulator.bill[0].input_tokens
    assert_billed(rig)


async def test_models_are_those_of_the_team(sdk: Sdk) -> None:
    listed = await sdk.call(lambda c: c.models.list())
    assert {"gpt-5", "fast", "text-embedding-3-small"} <= {model.id for model in listed.data}
    assert "unpriced" not in {model.id for model in listed.data}
    one = await sdk.call(lambda c: c.models.retrieve("gpt-5"))
    assert (one.id, one.object) == ("gpt-5", "model")


async def test_the_headers_of_an_answer_name_its_row_and_its_price(sdk: Sdk, rig: Rig) -> None:
    raw = await sdk.call(lambda c: c.chat.completions.with_raw_response.create(**HELLO))
    (row,) = rig.rows()
    assert raw.headers["x-request-id"] == raw.request_id == raw.parse()._request_id == row["request_id"]
    assert raw.headers["x-oxyy-model"] == "gpt-5"
    assert raw.headers["x-oxyy-attempts"] == "1"
    assert Decimal(raw.headers["x-oxyy-cost-usd"]).scaleb(9) == row["cost_nusd"]
    assert Decimal(raw.headers["x-oxyy-budget-remaining-usd"]) < 1000
    assert_billed(rig)


async def test_a_stream_that_the_client_closes_early_is_settled_at_its_price(sdk: Sdk, rig: Rig) -> None:
    wishes = {"simulate": {"words": 100, "pace_ms": 10}}
    event = await sdk.first_event(lambda c: c.chat.completions.create(**HELLO, stream=True, extra_body=wishes))
    assert event.choices[0].delta.role == "assistant"
    assert rig.simulator.in_flight == 1
    await idle(rig)
    assert rig.rows()[0]["output_tokens"] == 100
    assert_billed(rig)


def text_of(events: list[Any]) -> str:
    return "".join(event.choices[0].delta.content or "" for event in events)
