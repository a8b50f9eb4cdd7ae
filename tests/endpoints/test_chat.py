"""Chat: what is refused, what is held, what goes upstream, and what an answer says."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.endpoints.chat import DEFAULT_MAX_TOKENS, ENDPOINT, MAX_CHOICES, MAX_TOKENS, ChatAsk
from oxyy_proxy.errors import InvalidJson, InvalidValue, UpstreamBadResponse, UpstreamErrorAnswer
from oxyy_proxy.rules.price import cost_nusd
from oxyy_proxy.rules.types import NUSD_PER_USD, PartTokens, Price, Usage
from tests.rules.policies import model

MODEL = model("gpt-5", max_output_tokens=16384)
CLAUDE = model("claude")
PARTS = PartTokens()
HELLO = [{"role": "user", "content": "Hello!"}]


def body(**members: Any) -> bytes:
    return json.dumps({"model": "gpt-5", "messages": HELLO, **members}).encode()


def ask(**members: Any) -> ChatAsk:
    return ChatAsk(body(**members))


def holding(content: Any, **members: Any) -> int:
    """Input tokens held for a message with this content."""
    return ask(messages=[{"role": "user", "content": content}], **members).worst(MODEL, PARTS).input_tokens


# What is refused.


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello!"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": 1}, "messages"),
        ({"messages": ["Hello!"]}, "messages[0]"),
        ({"messages": [None]}, "messages[0]"),
        ({"messages": [*HELLO, []]}, "messages[1]"),
        ({"messages": [{}]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0]"),
        ({"messages": [*HELLO, {"role": 1, "content": "x"}]}, "messages[1]"),
        ({"messages": [{"role": None, "content": "x"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": True}]}, "messages[0].content"),
        ({"messages": [*HELLO, {"role": "user", "content": {"type": "text"}}]}, "messages[1].content"),
        *(
            ({name: value}, name)
            for name in ("max_tokens", "max_completion_tokens")
            for value in (-1, 1.0, 1.5, True, False, "10", [], {}, MAX_TOKENS + 1, 2**63, 10**30)
        ),
        *(({"n": value}, "n") for value in (0, -1, 1.0, True, "2", [2], MAX_CHOICES + 1, 10**30)),
        *(({"stream": value}, "stream") for value in ("yes", "true", 1, 0, [], {})),
        *(({"temperature": value}, "temperature") for value in ("0.7", True, [], {})),
        *(({"stream_options": value}, "stream_options") for value in ("x", 1, True, [])),
        *(({"stream_options": {"include_usage": value}}, "include_usage") for value in ("yes", 1, [])),
        *(({"model": value}, "model") for value in (1, True, [], {}, "")),
    ],
    ids=repr,
)
def test_a_member_of_the_wrong_type_is_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ask(**members)
    assert caught.value.param == param
    assert (caught.value.status, caught.value.code) == (400, "invalid_value")


def test_messages_must_be_there() -> None:
    with pytest.raises(InvalidValue) as caught:
        ChatAsk(b'{"model":"gpt-5"}')
    assert caught.value.param == "messages"


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"model":"a","model":"b"}', b'{"messages":[NaN]}'])
def test_a_body_that_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidJson):
        ChatAsk(raw)


@pytest.mark.parametrize(
    "members",
    [
        {"max_tokens": 0},
        {"max_tokens": MAX_TOKENS, "n": MAX_CHOICES},
        dict.fromkeys(("max_tokens", "max_completion_tokens", "n", "stream", "temperature", "stream_options"), None),
        {"temperature": 0, "stream": False, "n": 1},
        {"temperature": 0.7, "stream": True, "stream_options": {}},
        {"stream_options": {"include_usage": None}},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool"}]},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "user", "content": ["x", None, 1, {}, {"type": None}, {"type": ["text"]}]}]},
        {"unknown": {"max_tokens": "x"}, "tools": "whatever", "seed": 10**30},
    ],
)
def test_what_is_right_or_none_of_our_business_passes(members: dict[str, Any]) -> None:
    assert ask(**members).model == "gpt-5"


# What goes upstream.


@pytest.mark.parametrize(
    "raw",
    [
        b'{ "model": "gpt-5",\r\n\t"messages":[{"role":"user","content":"\\u00e9\\/"}], "x": 1.00, "y": 1e2 }\n',
        b'{"messages":[{"role":"user","content":"x","content":"y"}],"model":"gpt-5","unknown":[1,2,{"a":null}]}',
        b'{"model":"gpt-5","messages":[{"role":"user"}],"stream":true,"stream_options":{"include_usage":true,"x":1.0}}',
        '{"model":"gpt-5","messages":[{"role":"user","content":"日本🎈"}],"ü":"\\ud83c"}'.encode(),
    ],
)
def test_the_body_passes_byte_for_byte(raw: bytes) -> None:
    assert ChatAsk(raw).body_for(MODEL) == raw


def test_only_the_model_changes_for_a_fallback() -> None:
    raw = b'{ "x":1.0, "mod\\u0065l" : "gpt-5" ,"messages":[{"role":"user","content":"gpt-5"}]}'
    assert ChatAsk(raw).body_for(CLAUDE) == raw.replace(b'"gpt-5" ,', b'"claude" ,')
    assert ChatAsk(b'{"messages":[{"role":"user"}]}').body_for(MODEL).endswith(b'}],"model":"gpt-5"}')


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_usage": None, "x": [1]}, {"include_usage": True, "x": [1]}),
    ],
)
def test_a_stream_that_did_not_ask_for_its_usage_asks(options: Any, expected: Any) -> None:
    sent = json.loads(ask(stream=True, stream_options=options, seed=7).body_for(CLAUDE))
    assert sent == {
        "model": "claude",
        "messages": HELLO,
        "stream": True,
        "stream_options": expected,
        "seed": 7,
    }


@given(
    extra=st.dictionaries(st.sampled_from(["seed", "tools", "user", "é"]), st.none() | st.text() | st.floats(0, 1)),
    stream=st.sampled_from([None, True, False]),
    other=st.booleans(),
    indent=st.sampled_from([None, 2]),
)
@settings(deadline=None, max_examples=100)
def test_a_rewritten_body_says_the_same_but_for_two_members(
    extra: dict[str, Any], stream: bool | None, other: bool, indent: int | None
) -> None:
    members = {"model": "gpt-5", "messages": HELLO, "stream": stream, **extra}
    raw = json.dumps(members, indent=indent).encode()
    sent = ChatAsk(raw).body_for(CLAUDE if other else MODEL)
    expected = members | ({"model": "claude"} if other else {})
    assert json.loads(sent) == expected | ({"stream_options": {"include_usage": True}} if stream else {})
    if not stream:
        assert sent == (raw.replace(b'"gpt-5"', b'"claude"', 1) if other else raw)


# What is held.


@pytest.mark.parametrize(
    ("members", "most", "expected"),
    [
        ({}, None, DEFAULT_MAX_TOKENS),
        ({}, 16384, 4096),
        ({}, 1000, 1000),
        ({"max_tokens": None}, 1000, 1000),
        ({"max_tokens": 0}, 1000, 0),
        ({"max_tokens": 50}, 1000, 50),
        ({"max_tokens": 5000}, 1000, 5000),
        ({"max_completion_tokens": 70}, 1000, 70),
        ({"max_tokens": 50, "max_completion_tokens": 70}, 1000, 70),
        ({"max_tokens": 70, "max_completion_tokens": 50}, 1000, 70),
        ({"max_tokens": 70, "max_completion_tokens": None}, 1000, 70),
        ({"max_tokens": 70, "n": 3}, 1000, 210),
        ({"n": 3}, 1000, 3000),
        ({"n": 3}, None, 3 * 4096),
        ({"n": None}, None, 4096),
    ],
)
def test_output_is_held_for_all_that_may_come(members: dict[str, Any], most: int | None, expected: int) -> None:
    assert DEFAULT_MAX_TOKENS == 4096
    assert ask(**members).worst(model("m", max_output_tokens=most), PARTS).output_tokens == expected


def test_text_is_held_at_a_token_per_two_bytes_of_the_body() -> None:
    raw = body(messages=[{"role": "user", "content": "日本" * 1001}], tools=["x" * 99])
    assert ChatAsk(raw).worst(MODEL, PARTS).input_tokens == (len(raw) + 1) // 2


DATA_URL = "data:image/png;base64," + "iVBORw0K" * 1000


@pytest.mark.parametrize(
    ("part", "figure"),
    [
        ({"type": "image_url", "image_url": {"url": DATA_URL}}, PARTS.image),
        (
            {"type": "image_url", "image_url": {"url": "https://x.org/" + "x" * 5000, "detail": "high"}},
            PARTS.image,
        ),
        ({"type": "image_url", "image_url": DATA_URL}, PARTS.image),
        ({"type": "image", "source": {"type": "base64", "data": DATA_URL}}, PARTS.image),
        ({"type": "input_audio", "input_audio": {"data": "UklGR" * 2000, "format": "wav"}}, PARTS.audio),
        ({"type": "file", "file": {"file_data": "JVBERi" * 2000, "filename": "a.pdf"}}, PARTS.file),
        ({"type": "image_url"}, PARTS.image),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_part_is_held_by_its_figure_and_never_by_its_bytes(part: dict[str, Any], figure: int) -> None:
    held = holding([{"type": "text", "text": "What is this?"}, part]) - holding(
        [{"type": "text", "text": "What is this?"}]
    )
    assert figure <= held <= figure + 60  # and what stands around its data
    assert holding([part, part]) >= 2 * figure


def test_the_figures_are_those_of_the_policy() -> None:
    parts = PartTokens(image=1, audio=20, file=300)
    kinds = [{"type": kind} for kind in ("image_url", "input_audio", "file", "file")]
    asked = ask(messages=[{"role": "user", "content": kinds}, {"role": "user", "content": kinds[:1]}])
    free = PartTokens(0, 0, 0)
    assert asked.worst(MODEL, parts).input_tokens - asked.worst(MODEL, free).input_tokens == 1 + 20 + 300 + 300 + 1
    assert asked.likely_usage(MODEL, parts, 0).input_tokens - asked.likely_usage(MODEL, free, 0).input_tokens == 622


def test_ten_megabytes_of_image_cost_the_hold_what_a_small_one_does() -> None:
    def image(size: int) -> list[dict[str, Any]]:
        return [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size}}]

    began = time.process_time()
    assert holding(image(10_000_000)) == holding(image(100))
    assert time.process_time() - began < 2


def test_text_that_looks_like_an_image_is_held_as_text() -> None:
    assert holding("data:image/png;base64," + "A" * 100_000) > 50_000
    assert holding([{"type": "text", "text": "data:image/png;base64," + "A" * 100_000}]) > 50_000
    assert holding([{"type": "unheard_of", "data": "A" * 100_000}]) > 50_000


def test_the_largest_request_at_the_dearest_price_fits_64_bits() -> None:
    rate = Price(10**6 * NUSD_PER_USD)  # one million USD per million tokens, the most that a policy may say
    dearest = model("m", prices={"input": rate, "output": rate})
    asked = ask(max_tokens=MAX_TOKENS, n=MAX_CHOICES, messages=[{"role": "user", "content": "x" * 10_000_000}])
    assert asked.target(dearest, PARTS).worst_nusd < 2**62


RATE = st.integers(0, 1000 * NUSD_PER_USD)
PRICES = st.fixed_dictionaries(
    {"input": RATE, "output": RATE},
    optional=dict.fromkeys(("cached_input", "audio_input", "audio_output", "request"), RATE),
).map(lambda rates: {unit: Price(rate) for unit, rate in rates.items()})
PART = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.text(max_size=40)),
    st.builds(lambda size: {"type": "image_url", "image_url": {"url": "data:," + "A" * size}}, st.integers(0, 3000)),
    st.builds(lambda size: {"type": "input_audio", "input_audio": {"data": "A" * size}}, st.integers(0, 3000)),
)
FIGURES = {"text": 0, "image_url": PARTS.image, "input_audio": PARTS.audio}


@given(
    parts=st.lists(PART, max_size=4),
    members=st.fixed_dictionaries(
        {},
        optional={
            "max_tokens": st.none() | st.integers(0, 9000),
            "max_completion_tokens": st.none() | st.integers(0, 9000),
            "n": st.none() | st.integers(1, 4),
        },
    ),
    most=st.none() | st.integers(1, 20_000),
    prices=PRICES,
    share=st.tuples(*[st.floats(0, 1)] * 5),
)
@settings(deadline=None, max_examples=200)
def test_an_answer_that_keeps_to_what_was_asked_never_costs_more_than_the_hold(
    parts: list[dict[str, Any]],
    members: dict[str, Any],
    most: int | None,
    prices: dict[str, Price],
    share: tuple[float, ...],
) -> None:
    media = [part for part in parts if part["type"] != "text"]
    raw = body(messages=[{"role": "user", "content": parts}], **members)
    without = raw
    for part in media:
        url = part["image_url"]["url"] if "image_url" in part else part["input_audio"]["data"]
        without = without.replace(f'"{url}"'.encode(), b'""', 1)
    tokens_in = int(share[0] * (len(without) // 2 + sum(FIGURES[part["type"]] for part in parts)))
    asked_for = [members[name] for name in ("max_tokens", "max_completion_tokens") if members.get(name) is not None]
    per_choice = max(asked_for) if asked_for else min(4096, most or 4096)
    tokens_out = int(share[1] * per_choice * (members.get("n") or 1))
    usage = Usage(
        tokens_in, int(tokens_in * share[2]), int(tokens_in * share[3]), tokens_out, int(tokens_out * share[4])
    )
    held = ChatAsk(raw).target(model("m", prices=prices, max_output_tokens=most), PARTS)
    assert held.worst_nusd >= cost_nusd(usage, prices)
    assert held.worst_tokens >= usage.tokens


# A whole answer.


@pytest.mark.parametrize(
    ("answer", "usage", "output_bytes"),
    [
        ({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}, Usage(3, 0, 0, 4), 0),
        ({"choices": [{"message": {"role": "assistant", "content": "日本"}}]}, None, 6),
        ({"choices": [{"message": {"content": "ab"}}, {"message": {"content": "c", "refusal": "d"}}]}, None, 4),
        ({"choices": [{"message": {"content": None, "tool_calls": [{"f": {"arguments": "日"}}]}}]}, None, 3),
        ({"choices": [{"message": {"content": "\ud83c"}}]}, None, 3),
        ({"choices": [{"message": {"tool_calls": ["\ud83c"]}}]}, None, 3),
        ({"choices": [{"message": None}, None, 1, {}], "usage": {}}, None, 0),
        ({"choices": None, "usage": None}, None, 0),
        ({"choices": "abc"}, None, 0),
        ({}, None, 0),
    ],
    ids=lambda value: str(value)[:50].encode("ascii", "backslashreplace").decode(),
)
def test_an_answer_is_read_for_its_usage_and_else_for_its_text(
    answer: dict[str, Any], usage: Usage | None, output_bytes: int
) -> None:
    found = ask().read(json.dumps(answer).encode(), MODEL, PARTS)
    assert (found.usage, found.output_bytes) == (usage, output_bytes)


def test_an_answer_that_is_none_is_told_from_an_error() -> None:
    with pytest.raises(UpstreamErrorAnswer):
        ask().read(b'{"error":{"message":"overloaded"}}', MODEL, PARTS)
    with pytest.raises(UpstreamBadResponse):
        ask().read(b"<html>", MODEL, PARTS)


def test_an_estimate_is_flagged_and_never_zero() -> None:
    raw = body()
    found = ChatAsk(raw).likely_usage(MODEL, PARTS, 9)
    assert found == Usage(input_tokens=-(-len(raw) // 4), output_tokens=3, source="estimated")


def test_an_answer_nested_deeper_than_any_encoder_writes_is_measured() -> None:
    deep = b'{"choices":[{"message":{"tool_calls":' + b"[" * 500 + b'"ab"' + b"]" * 500 + b"}}]}"
    assert ask().read(deep, MODEL, PARTS).output_bytes == 2


def test_the_endpoint_is_charged_by_input_and_output() -> None:
    assert (ENDPOINT.name, ENDPOINT.path) == ("chat", "/chat/completions")
    assert ENDPOINT.bases == ({"input", "output"},)
    assert ENDPOINT.max_body_bytes == 32 * 1024 * 1024
    assert isinstance(ENDPOINT.parse(body()), ChatAsk)


def test_text_beside_the_data_of_a_part_is_held_as_text() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}, "text": "word " * 2000}
    body = {"model": "gpt-5", "messages": [{"role": "user", "content": [part]}], "max_tokens": 0}
    worst = ChatAsk(json.dumps(body).encode()).worst(model("gpt-5"), PartTokens())
    assert worst.input_tokens > 5000 + PartTokens().image


def test_a_body_that_was_let_go_is_kept_by_nobody_while_its_stream_runs() -> None:
    raw = body(messages=[{"role": "user", "content": "x" * 10_000}], stream=True)
    before = sys.getrefcount(raw)
    asked = ENDPOINT.parse(raw)
    assert asked.body_for(MODEL)
    expected = asked.likely_usage(MODEL, PARTS, 10)
    assert sys.getrefcount(raw) > before
    asked.let_go()
    assert sys.getrefcount(raw) == before
    assert asked.likely_usage(MODEL, PARTS, 10) == expected
