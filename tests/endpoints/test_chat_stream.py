"""A chat stream: what of it reaches the client and what it says, wherever the network cut it."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oxyy_proxy.endpoints.chat import ChatAsk, ChatMeter
from oxyy_proxy.rules.types import Usage
from tests.rules.policies import model


class Read(NamedTuple):
    """All that a meter says of a stream."""

    out: bytes
    farewell: bytes
    usage: Usage | None
    started: bool
    ended: bool
    failure: str | None
    output_bytes: int


def read(pieces: list[bytes], *, keep_usage: bool = False) -> Read:
    meter = ChatMeter(keep_usage=keep_usage)
    out = b"".join([*(meter.feed(piece) for piece in pieces), meter.finish()])
    failure = None if meter.failure is None else f"{type(meter.failure).__name__}: {meter.failure}"
    return Read(out, meter.farewell, meter.usage, meter.started, meter.ended, failure, meter.output_bytes)


def event(data: object, line_end: str = "\n") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}{line_end}{line_end}".encode()


def content(text: str, **more: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "delta": {"content": text}}], **more}


ROLE = {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
STOP = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None}
TOOL = {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]}}]}
USAGE = {"id": "c", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
ERROR = {"error": {"message": "overloaded", "type": "server_error"}}
USED = Usage(9, 0, 0, 4)
DONE = "[DONE]"

PLAIN = [ROLE, content("Grüße"), content(" 日本 🎈", usage=None), STOP, USAGE, DONE]


def joined(events: list[Any], line_end: str = "\n") -> bytes:
    end = line_end.encode()
    return b"".join(one.replace(b"\n", end) if isinstance(one, bytes) else event(one, line_end) for one in events)


STREAMS: dict[str, list[Any]] = {
    "plain": PLAIN,
    "comments and fields": [b": ping\n\n", b"event: message\nid: 1\nretry: 5\n" + event(ROLE), b"retry: 9\n\n", *PLAIN],
    "data in many lines": [("data: " + json.dumps(content("é"), indent=1).replace("\n", "\ndata: ") + "\n\n").encode()],
    "error first": [b": ping\n\n", ERROR, DONE],
    "error later": [ROLE, content("Hel"), ERROR, content("lo")],
    "error as text": [{"error": "overloaded"}, content("x"), USAGE],
    "malformed first": ["<html>", content("x"), DONE],
    "malformed later": [ROLE, "<html>", content("x"), USAGE, DONE],
    "an array first": ["[1]", DONE],
    "surrogates and infinity": ['{"choices":[{"delta":{"content":"\\ud83c"},"logprob":-Infinity}]}', USAGE, DONE],
    "nothing": [],
    "done at once": [DONE],
    "only comments": [b": a\n\n", b": b\n\n"],
    "no done": PLAIN[:-1],
    "no usage": [ROLE, content("x"), DONE],
    "usage with content": [ROLE, content("x", usage={"prompt_tokens": 9, "completion_tokens": 4}), DONE],
    "usage at the end of each": [content("x", usage={"prompt_tokens": 9, "completion_tokens": 1}), USAGE, DONE],
    "usage without choices": [ROLE, {"usage": {"prompt_tokens": 9, "completion_tokens": 4}}, DONE],
    "filter results": [{"choices": [], "prompt_filter_results": []}, *PLAIN],
    "after the end": [*PLAIN, b": bye\n\n", USAGE, b"data: x"],
    "a field before the last": [ROLE, b"event: message\n" + event(content("x"))],
    "no blank line": [*PLAIN[:-1], b"data: [DONE]"],
    "half a blank line": [*PLAIN[:-1], b"data: [DONE]\n"],
    "cut in content": [ROLE, event(content("Hello"))[:-9]],
    "cut before content": [ROLE, b'data: {"id":'],
    "usage without blank line": [ROLE, content("x"), event(USAGE)[:-2]],
}


@pytest.mark.parametrize("keep_usage", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read_the_same_wherever_it_is_cut(name: str, line_end: str, keep_usage: bool) -> None:
    raw = joined(STREAMS[name], line_end)
    expected = read([raw], keep_usage=keep_usage)
    for offset in range(len(raw) + 1):
        assert read([raw[:offset], raw[offset:]], keep_usage=keep_usage) == expected, (raw[:offset], raw[offset:])
    assert read([bytes([byte]) for byte in raw], keep_usage=keep_usage) == expected


@pytest.mark.parametrize(
    ("name", "started", "ended", "failure", "usage"),
    [
        ("plain", True, True, None, USED),
        ("comments and fields", True, True, None, USED),
        ("data in many lines", True, False, None, None),
        ("error first", False, True, "UpstreamErrorAnswer", None),
        ("error later", True, False, "UpstreamErrorAnswer", None),
        ("error as text", False, False, "UpstreamErrorAnswer", USED),
        ("malformed first", False, True, "UpstreamBadResponse", None),
        ("malformed later", True, True, None, USED),
        ("an array first", False, True, "UpstreamBadResponse", None),
        ("surrogates and infinity", True, True, None, USED),
        ("nothing", False, False, None, None),
        ("done at once", False, True, None, None),
        ("only comments", False, False, None, None),
        ("no done", True, False, None, USED),
        ("no usage", True, True, None, None),
        ("usage with content", True, True, None, USED),
        ("usage at the end of each", True, True, None, USED),
        ("usage without choices", True, True, None, USED),
        ("filter results", True, True, None, USED),
        ("after the end", True, True, None, USED),
        ("a field before the last", True, False, None, None),
        ("no blank line", True, True, None, USED),
        ("half a blank line", True, True, None, USED),
        ("cut in content", True, False, None, None),
        ("cut before content", True, False, None, None),
        ("usage without blank line", True, False, None, USED),
    ],
)
def test_what_a_stream_was(name: str, started: bool, ended: bool, failure: str | None, usage: Usage | None) -> None:
    found = read([joined(STREAMS[name])])
    assert (found.started, found.ended, found.usage) == (started, ended, usage)
    assert (found.failure or "").partition(":")[0] == (failure or "")


def test_every_stream_of_the_table_is_judged() -> None:
    marks = getattr(test_what_a_stream_was, "pytestmark")  # noqa: B009 - set by pytest
    assert {case[0] for case in marks[0].args[1]} == STREAMS.keys()


def metered(body: bytes, content_type: str = "text/event-stream") -> ChatMeter:
    """What reads the answer to this request."""
    meter = ChatAsk(body).meter(content_type, model("gpt-5"))
    assert meter is not None
    return meter


def test_the_usage_chunk_is_kept_back_unless_the_client_asked() -> None:
    raw = joined(PLAIN)
    without = joined([one for one in PLAIN if one is not USAGE])
    assert (read([raw]).out + read([raw]).farewell, read([raw]).usage) == (without, USED)
    asked = read([raw], keep_usage=True)
    assert (asked.out + asked.farewell, asked.usage) == (raw, USED)
    body = b'{"stream":true,"messages":[{"role":"user"}],"stream_options":{"include_usage":%b}}'
    assert metered(body % b"null").feed(event(USAGE)) == b""
    assert metered(body % b"true").feed(event(USAGE)) == event(USAGE)


@pytest.mark.parametrize(
    ("stream", "content_type", "is_metered"),
    [
        (b"true", "text/event-stream", True),
        (b"true", "text/event-stream; charset=utf-8", True),
        (b"true", "application/json", False),
        (b"true", "", False),
        (b"false", "text/event-stream", False),
        (b"null", "text/event-stream", False),
    ],
)
def test_a_stream_is_metered_where_one_was_asked_for_and_came(
    stream: bytes, content_type: str, is_metered: bool
) -> None:
    ask = ChatAsk(b'{"stream":%b,"messages":[{"role":"user"}]}' % stream)
    assert (ask.meter(content_type, model("gpt-5")) is not None) is is_metered
    assert ask.stream is (stream == b"true")


@pytest.mark.parametrize(
    ("chunk", "passes"),
    [
        ({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}, False),
        ({"choices": None, "usage": {"prompt_tokens": 1, "completion_tokens": 1}}, False),
        ({"choices": [], "usage": {"unheard_of": 1}}, False),
        ({"choices": [], "usage": {}}, False),
        ({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}, False),
        ({"choices": [], "usage": None}, True),
        ({"choices": []}, True),
        ({"choices": [{"delta": {}}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}, True),
        ({"choices": [{"delta": {}}], "usage": None}, True),
    ],
    ids=str,
)
def test_nothing_but_the_usage_chunk_is_kept_back(chunk: dict[str, Any], passes: bool) -> None:
    assert read([event(ROLE), event(chunk)]).out == event(ROLE) + (event(chunk) if passes else b"")
    assert read([event(ROLE), event(chunk)], keep_usage=True).out == event(ROLE) + event(chunk)


def test_done_waits_for_the_settlement() -> None:
    meter = ChatMeter(keep_usage=False)
    assert meter.feed(joined([ROLE, "[DONE]", content("late")])) == event(ROLE)
    assert meter.ended
    assert meter.farewell == event(DONE) + event(content("late"))
    assert meter.feed(event(content("later"))) == b""
    assert meter.farewell.endswith(event(content("later")))
    assert meter.feed(b"data: ") == b""
    assert meter.finish() == b""
    assert meter.farewell.endswith(b"data: ")


@pytest.mark.parametrize(
    ("pieces", "mid_event"),
    [
        ([], False),
        ([event(ROLE)], False),
        ([event(ROLE)[:-1]], True),
        ([event(ROLE)[:40]], True),
        ([event(ROLE)[:40], event(ROLE)[40:]], False),
        ([event(ROLE), b"data: {"], False),  # the client has nothing of it yet
        ([event(ROLE), event(USAGE)[:30]], False),
        ([event(ROLE), event(content("x"))[:60]], True),
        ([event(ROLE), event(content("x"))[:60], event(content("x"))[60:] + b"data: "], False),
    ],
)
def test_it_is_known_whether_the_client_has_half_an_event(pieces: list[bytes], mid_event: bool) -> None:
    meter = ChatMeter(keep_usage=False)
    out = b"".join(map(meter.feed, pieces))
    assert meter.mid_event is mid_event
    assert (out == b"" or out.endswith(b"\n\n")) is not mid_event


@pytest.mark.parametrize("rest", [b"data: {", event(content("x"))[:-30], event(content("x"))[:-1], b": pi"])
def test_what_is_left_at_the_end_is_half_an_event_too(rest: bytes) -> None:
    meter = ChatMeter(keep_usage=False)
    assert meter.feed(event(ROLE) + rest) + meter.finish() == event(ROLE) + rest
    assert meter.mid_event


def test_each_event_passes_with_its_last_byte() -> None:
    meter = ChatMeter(keep_usage=False)
    for one in (b": ping\n\n", event(ROLE), event(content("a")), event(STOP)):
        assert meter.feed(one) == one
    assert meter.feed(event(content("a")) + event(content("b"))) == event(content("a")) + event(content("b"))


def test_the_text_of_a_stream_is_measured_for_an_estimate() -> None:
    assert read([joined([ROLE, content("é"), content("abc"), STOP])]).output_bytes == 5
    assert read([event(TOOL)]).output_bytes == 3
    lone = '{"choices":[{"delta":{"tool_calls":[{"arguments":"\\ud83c"}]}}]}'
    assert read([event(lone)]).output_bytes == 3


def test_the_last_usage_counts() -> None:
    first = content("x", usage={"prompt_tokens": 9, "completion_tokens": 1})
    assert read([joined([first, USAGE, content("y", usage={}), content("z", usage=None)])]).usage == USED


HEAD = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"'


def test_a_huge_event_that_is_content_flows_as_it_comes() -> None:
    meter, piece = ChatMeter(keep_usage=False), b"a" * 1024
    assert meter.feed(HEAD[:20]) == b""  # it may be the usage chunk yet
    assert meter.feed(HEAD[20:]) == HEAD
    assert meter.started
    for _ in range(1024):
        assert meter.feed(piece) == piece
    rest = b'"}}],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n'
    assert meter.feed(rest + event(DONE)) == rest
    assert (meter.usage, meter.output_bytes, meter.farewell) == (USED, 1024 * 1024, event(DONE))


@pytest.mark.parametrize("head", [HEAD, b'data: {"unheard_of":"', b": "], ids=["content", "unknown", "comment"])
def test_a_huge_event_in_small_pieces_takes_linear_time(head: bytes) -> None:
    meter, piece = ChatMeter(keep_usage=False), b"a" * 256
    began = time.process_time()
    out = meter.feed(head)
    for _ in range(8 * 1024):
        out += meter.feed(piece)
    passed = len(out)
    out += meter.feed(b'"}}]}\n\n')
    assert time.process_time() - began < 2
    assert out == head + piece * 8 * 1024 + b'"}}]}\n\n'
    assert passed == (len(head) + len(piece) * 8 * 1024 if head == HEAD else 0)


def test_what_the_client_has_begun_to_get_it_gets_whole() -> None:
    misleading = event('{"choices":[{}],"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}')
    meter = ChatMeter(keep_usage=False)
    assert meter.feed(misleading[:25]) + meter.feed(misleading[25:]) == misleading
    assert meter.usage == USED


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
COUNTS = st.builds(
    lambda used, said: {"prompt_tokens": used, "completion_tokens": said}, st.integers(0, 99), st.integers(0, 99)
)
CHUNK = st.one_of(
    st.sampled_from([ROLE, STOP, TOOL, ERROR, {"choices": []}, {"choices": [], "usage": None}, {}]),
    st.builds(content, TEXT),
    st.builds(lambda text, usage: content(text, usage=usage), TEXT, st.none() | COUNTS),
    st.sampled_from(["<html>", "[]", '{"choices"', "null", '"', "{}{}", '{"choices":[]} x']),
)
USAGE_CHUNK = st.builds(lambda usage: {"choices": [], "usage": usage}, COUNTS)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], list[bool]]:
    """Events, and of each whether it is the usage chunk."""
    line_end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    events, kept = [], []
    for _ in range(draw(st.integers(0, 8))):
        is_usage = draw(st.integers(0, 4)) == 0
        chunk = draw(USAGE_CHUNK if is_usage else CHUNK)
        text = chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=draw(st.booleans()))
        if not isinstance(chunk, str) and draw(st.booleans()):
            text = json.dumps(chunk, indent=1).replace("\n", f"{line_end}data:")
        if draw(st.booleans()):
            events.append(f": ping{line_end}{line_end}".encode())
            kept.append(False)
        before = draw(st.sampled_from(["", "event: x\n", ": ping\n", "id: 1\nretry: 2\n"]))
        events.append((before.replace("\n", line_end) + f"data:{text}{line_end}{line_end}").encode())
        kept.append(is_usage)
    if draw(st.booleans()):
        events.append(f"data: [DONE]{line_end}{line_end}".encode())
        kept.append(False)
    if events and draw(st.booleans()):
        events[-1] = events[-1][: -len(line_end)]  # no blank line at the end
    return events, kept


@given(stream=streams(), at=st.lists(st.integers(0, 900), max_size=10), keep_usage=st.booleans())
@example(stream=([event(USAGE), event(DONE)], [True, False]), at=[0, 5, 5], keep_usage=False)
@settings(deadline=None, max_examples=200)
def test_random_cuts_change_nothing_and_lose_the_usage_chunk_alone(
    stream: tuple[list[bytes], list[bool]], at: list[int], keep_usage: bool
) -> None:
    events, kept = stream
    raw = b"".join(events)
    bounds = [0, *sorted(min(offset, len(raw)) for offset in at), len(raw)]
    found = read([raw[start:end] for start, end in pairwise(bounds)], keep_usage=keep_usage)
    assert found == read([raw], keep_usage=keep_usage)
    passing = [one for one, is_usage in zip(events, kept, strict=True) if keep_usage or not is_usage]
    assert found.out + found.farewell == b"".join(passing)
    assert found.ended == any(b"[DONE]" in one for one in events)
    assert b"[DONE]" not in found.out
