import json

import openai
import orjson
import pytest

MESSAGES = [{"role": "user", "content": "Hello!"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    },
}
OTHER = {"type": "function", "function": {"name": "other"}}


def chat(client, **more):
    return client.chat.completions.create(**{"model": "gpt-5", "messages": MESSAGES, **more})


async def events(client, **more):
    return [chunk async for chunk in await chat(client, stream=True, **more)]


async def test_the_answer_is_that_of_the_documentation(client):
    answer = await chat(client)
    assert (answer.object, answer.created, answer.model) == ("chat.completion", 1700000000, "gpt-5")
    assert answer.choices[0].finish_reason == "stop"
    words = answer.choices[0].message.content.split()
    assert 5 <= len(words) <= 40
    assert answer.usage.completion_tokens == len(words)
    assert answer.usage.prompt_tokens == 3 + len("userHello!") // 4
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_the_same_question_gets_the_same_answer(client):
    assert (await chat(client)).to_dict() == (await chat(client)).to_dict()
    assert (await chat(client)).id != (await chat(client, seed=2)).id


async def test_a_stream_says_the_same_as_the_whole_answer(client):
    whole = await chat(client, n=2)
    chunks = await events(client, n=2)
    for choice in whole.choices:
        deltas = [c.choices[0] for c in chunks if c.choices[0].index == choice.index]
        assert "".join(d.delta.content or "" for d in deltas) == choice.message.content
        assert deltas[0].delta.role == "assistant"
        assert [d.finish_reason for d in deltas][-2:] == [None, "stop"]
    assert {c.id for c in chunks} == {whole.id}


async def test_usage_comes_last_in_a_stream_that_asked_for_it(ask, client):
    whole = await chat(client)
    heard = await ask(stream=True, stream_options={"include_usage": True})
    *chunks, last, done = [event.removeprefix(b"data: ") for event in heard.events]
    assert done == b"[DONE]"
    assert orjson.loads(last)["choices"] == []
    assert orjson.loads(last)["usage"]["completion_tokens"] == whole.usage.completion_tokens
    assert all(orjson.loads(chunk)["usage"] is None for chunk in chunks)


async def test_a_stream_that_did_not_ask_has_no_usage_at_all(ask):
    heard = await ask(stream=True)
    assert b"usage" not in heard.body
    assert heard.events[-1] == b"data: [DONE]"


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_a_limit_cuts_the_answer(client, limit):
    answer = await chat(client, **{limit: 3})
    assert answer.usage.completion_tokens == len(answer.choices[0].message.content.split()) == 3
    assert answer.choices[0].finish_reason == "length"


async def test_zero_tokens_is_a_legal_limit(client):
    answer = await chat(client, max_tokens=0, tools=[WEATHER])
    assert (answer.choices[0].message.content, answer.usage.completion_tokens) == ("", 0)
    assert answer.choices[0].finish_reason == "length"


async def test_the_wished_number_of_words_is_the_number_of_tokens(client):
    answer = await chat(client, extra_body={"simulate": {"words": 64}})
    assert answer.usage.completion_tokens == 64


async def test_the_documented_default_limit_holds(client):
    answer = await chat(client, extra_body={"simulate": {"words": 5000}})
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (4096, "length")


async def test_every_choice_is_counted(client):
    answer = await chat(client, n=3, extra_body={"simulate": {"words": 7}})
    assert answer.usage.completion_tokens == 21
    assert len({choice.message.content for choice in answer.choices}) == 3


async def test_the_first_tool_is_called_with_arguments_of_its_schema(client):
    choice = (await chat(client, tools=[WEATHER, OTHER])).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    call = choice.message.tool_calls[0].function
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "text", "unit": "C"})


async def test_a_streamed_tool_call_joins_to_the_same_call(client):
    whole = (await chat(client, tools=[WEATHER])).choices[0].message.tool_calls[0]
    chunks = await events(client, tools=[WEATHER])
    calls = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
    assert (calls[0].id, calls[0].function.name) == (whole.id, "weather")
    assert len(calls) > 2
    assert "".join(call.function.arguments for call in calls) == whole.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_limit_cuts_a_tool_call_too(client):
    answer = await chat(client, tools=[WEATHER], max_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert len(answer.choices[0].message.tool_calls[0].function.arguments) == 12
    assert answer.usage.completion_tokens == 2


async def test_tool_choice_is_obeyed(client):
    named = {"type": "function", "function": {"name": "other"}}
    called = await chat(client, tools=[WEATHER, OTHER], tool_choice=named)
    assert called.choices[0].message.tool_calls[0].function.name == "other"
    silent = await chat(client, tools=[WEATHER], tool_choice="none")
    assert silent.choices[0].message.tool_calls is None


async def test_once_a_tool_has_answered_the_model_speaks(client):
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    done = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "5"},
    ]
    answer = await chat(client, messages=done, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "stop"


async def test_json_mode_answers_json(client):
    answer = await chat(client, response_format={"type": "json_object"})
    assert set(json.loads(answer.choices[0].message.content)) == {"answer"}


async def test_a_json_schema_is_filled_in(client):
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer"}}, "required": ["ok"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = await chat(client, response_format=wanted)
    assert json.loads(answer.choices[0].message.content) == {"ok": True}


async def test_a_long_prompt_is_partly_cached_and_billed_so(client, sim):
    answer = await chat(client, messages=[{"role": "user", "content": "x" * 388}], max_tokens=10)
    # 3 for the message, (4 + 388) / 4 for its text
    assert (answer.usage.prompt_tokens, answer.usage.prompt_tokens_details.cached_tokens) == (101, 25)
    output = answer.usage.completion_tokens
    assert sim.total_nusd == 76 * 1250 + 25 * 125 + output * 10_000


@pytest.mark.parametrize(
    "bad",
    [
        {"messages": []},
        {"messages": ["hi"]},
        {"messages": [{"content": "x"}]},
        {"max_tokens": -1},
        {"max_tokens": "many"},
        {"n": 0},
        {"n": 999},
        {"tools": ["x"]},
        {"tools": [OTHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
        {"response_format": {"type": "json_schema"}},
    ],
)
async def test_a_question_that_cannot_be_is_a_400_and_not_billed(client, sim, bad):
    with pytest.raises(openai.BadRequestError) as refused:
        await chat(client, **bad)
    assert refused.value.type == "invalid_request_error"
    assert sim.bill == []


async def test_an_embeddings_model_does_not_chat(client):
    with pytest.raises(openai.NotFoundError):
        await chat(client, model="text-embedding-3-small")


async def test_content_parts_and_images_are_understood(client):
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    answer = await chat(client, messages=[{"role": "user", "content": parts}])
    assert answer.usage.prompt_tokens == 500 + 3 + len("usertextwhat?") // 4
