"""A transcript's own account of its cost, and its stream, wherever the network cut it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.endpoints.transcript import MAX_AUDIO_MS, TranscriptMeter, charged_by
from oxyy_proxy.rules.types import Price, Usage
from tests.rules.policies import model

WHISPER = model("whisper-1", prices={"audio_minute": Price(6)})
GPT = model("gpt-4o-transcribe", prices={"input": Price(6), "output": Price(10)})
BOTH = model("both", prices={"input": Price(6), "output": Price(10), "audio_minute": Price(6)})

TOKENS = {"type": "tokens", "input_tokens": 14, "output_tokens": 9, "input_token_details": {"audio_tokens": 12}}
COUNTED = Usage(input_tokens=14, audio_input_tokens=12, output_tokens=9)


# What is charged.


@pytest.mark.parametrize(
    ("answer", "by_minute", "by_token"),
    [
        ({"duration": 5.42}, 5420, None),
        ({"duration": "5.42"}, 5420, None),
        ({"duration": 0.07}, 70, None),
        ({"duration": 86_400}, MAX_AUDIO_MS, None),
        ({"usage": {"type": "duration", "seconds": 6}}, 6000, None),
        ({"duration": 5.42, "usage": {"type": "duration", "seconds": 6}}, 5420, None),
        ({"duration": None, "usage": {"seconds": 6}}, 6000, None),
        ({"duration": float("nan"), "usage": {"seconds": 6}}, 6000, None),
        ({"usage": TOKENS}, None, COUNTED),
        ({"usage": TOKENS, "duration": 5.42}, 5420, replace(COUNTED, audio_ms=5420)),
        ({"usage": TOKENS, "duration": -1}, None, COUNTED),
        ({"usage": {**TOKENS, "input_token_details": None}}, None, replace(COUNTED, audio_input_tokens=0)),
        (
            {"usage": {**TOKENS, "input_token_details": {"audio_tokens": -1}}},
            None,
            replace(COUNTED, audio_input_tokens=0),
        ),
        ({"usage": {"input_tokens": 0, "output_tokens": 1}}, None, Usage(output_tokens=1)),
        *(
            ({"duration": odd, "usage": {"seconds": odd}}, None, None)
            for odd in (
                None,
                0,
                -1,
                -5.42,
                True,
                False,
                "",
                "x",
                [],
                {},
                float("nan"),
                float("inf"),
                86_400.01,
                10**400,
            )
        ),
        *(
            ({"usage": odd}, None, None)
            for odd in (
                None,
                [],
                "x",
                1,
                {},
                {"input_tokens": 0, "output_tokens": 0},
                {"input_tokens": 5},
                {"input_tokens": 1.5, "output_tokens": 1},
                {"input_tokens": True, "output_tokens": 1},
                {"input_tokens": "1", "output_tokens": 1},
                {"input_tokens": -1, "output_tokens": 1},
                {"input_tokens": 2**31, "output_tokens": 1},
            )
        ),
        ({}, None, None),
    ],
    ids=lambda value: str(value)[:60],
)
def test_an_answer_is_charged_by_what_it_says_and_the_model_has_a_price_for(
    answer: dict[str, Any], by_minute: int | None, by_token: Usage | None
) -> None:
    minutes = None if by_minute is None else Usage(audio_ms=by_minute)
    assert charged_by(answer, WHISPER) == minutes
    assert charged_by(answer, GPT) == by_token
    assert charged_by(answer, BOTH) == (by_token or minutes)


# The stream.


class Read(NamedTuple):
    """All that a meter says of a stream."""

    out: bytes
    farewell: bytes
    usage: Usage | None
    started: bool
    ended: bool
    failure: str | None
    output_bytes: int
    mid_event: bool


def read(pieces: list[bytes]) -> Read:
    meter = TranscriptMeter(GPT)
    out = b"".join([*(meter.feed(piece) for piece in pieces), meter.finish()])
    failure = None if meter.failure is None else f"{type(meter.failure).__name__}: {meter.failure}"
    assert meter.events
    return Read(
        out, meter.farewell, meter.usage, meter.started, meter.ended, failure, meter.output_bytes, meter.mid_event
    )


def event(data: object, line_end: str = "\n") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}{line_end}{line_end}".encode()


def delta(text: str) -> dict[str, Any]:
    return {"type": "transcript.text.delta", "delta": text}


def done(text: object, **more: Any) -> dict[str, Any]:
    return {"type": "transcript.text.done", "text": text, **more}


TOLD = done("Grüße 日本", usage=TOKENS)
SILENT = done("Grüße 日本")
ERROR = {"error": {"message": "overloaded"}}
PLAIN = [delta("Grüße"), delta(" 日本"), TOLD]


def joined(events: list[Any], line_end: str = "\n") -> bytes:
    end = line_end.encode()
    return b"".join(one.replace(b"\n", end) if isinstance(one, bytes) else event(one, line_end) for one in events)


STREAMS: dict[str, list[Any]] = {
    "plain": PLAIN,
    "with done": [*PLAIN, "[DONE]"],
    "named events": [b"event: transcript.text.delta\nid: 1\n" + event(delta("a")), b": ping\n\n", TOLD, "[DONE]"],
    "data in many lines": [("data: " + json.dumps(TOLD, indent=1).replace("\n", "\ndata: ") + "\n\n").encode()],
    "no usage": [delta("a"), SILENT, "[DONE]"],
    "odd usage": [delta("a"), done(None, usage={"input_tokens": "x"})],
    "only deltas": [delta("a"), delta("é")],
    "odd deltas": [{"type": "transcript.text.delta", "delta": 1}, {}, {"delta": None}, delta("a"), TOLD],
    "no done event": [delta("a"), "[DONE]"],
    "done at once": [TOLD],
    "error first": [b": ping\n\n", ERROR, TOLD],
    "error as its type": [{"type": "error", "message": "overloaded"}],
    "error later": [delta("a"), ERROR, delta("b")],
    "error after the end": [*PLAIN, ERROR],
    "malformed first": ["<html>", TOLD],
    "malformed later": [delta("a"), "<html>", "[]", TOLD],
    "segments": [{"type": "transcript.text.segment", "text": "Hi", "start": 0}, TOLD],
    "surrogates": ['{"type":"transcript.text.delta","delta":"\\ud83c","logprob":-Infinity}', TOLD],
    "nothing": [],
    "only comments": [b": a\n\n", b": b\n\n"],
    "only the end": ["[DONE]"],
    "after the end": [*PLAIN, b": bye\n\n", delta("late"), "[DONE]", b"data: x"],
    "no blank line": [*PLAIN[:-1], event(TOLD)[:-1]],
    "no line end": [*PLAIN[:-1], event(TOLD)[:-2]],
    "cut in the end": [*PLAIN[:-1], event(TOLD)[:-9]],
    "cut in a delta": [delta("a"), event(delta("b"))[:-9]],
    "cut in the first": [b'data: {"type":'],
    "cut in what follows": [*PLAIN, b"data: [DO"],
}


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read_the_same_and_passes_whole_wherever_it_is_cut(name: str, line_end: str) -> None:
    raw = joined(STREAMS[name], line_end)
    expected = read([raw])
    assert expected.out + expected.farewell == raw
    for offset in range(len(raw) + 1):
        assert read([raw[:offset], raw[offset:]]) == expected, (raw[:offset], raw[offset:])
    assert read([bytes([byte]) for byte in raw]) == expected


@pytest.mark.parametrize(
    ("name", "started", "ended", "failure", "usage", "output_bytes", "mid_event"),
    [
        ("plain", True, True, "", COUNTED, 14, False),
        ("with done", True, True, "", COUNTED, 14, False),
        ("named events", True, True, "", COUNTED, 14, False),
        ("data in many lines", True, True, "", COUNTED, 14, False),
        ("no usage", True, True, "", None, 14, False),
        ("odd usage", True, True, "", None, 1, False),
        ("only deltas", True, False, "", None, 3, False),
        ("odd deltas", True, True, "", COUNTED, 14, False),
        ("no done event", True, True, "", None, 1, False),
        ("done at once", True, True, "", COUNTED, 14, False),
        ("error first", False, True, "UpstreamErrorAnswer", COUNTED, 14, False),
        ("error as its type", False, False, "UpstreamErrorAnswer", None, 0, False),
        ("error later", True, False, "UpstreamErrorAnswer", None, 2, False),
        ("error after the end", True, True, "", COUNTED, 14, False),
        ("malformed first", False, True, "UpstreamBadResponse", COUNTED, 14, False),
        ("malformed later", True, True, "", COUNTED, 14, False),
        ("segments", True, True, "", COUNTED, 14, False),
        ("surrogates", True, True, "", COUNTED, 14, False),
        ("nothing", False, False, "", None, 0, False),
        ("only comments", False, False, "", None, 0, False),
        ("only the end", False, True, "", None, 0, False),
        ("after the end", True, True, "", COUNTED, 14, False),
        ("no blank line", True, True, "", COUNTED, 14, False),
        ("no line end", True, True, "", COUNTED, 14, False),
        ("cut in the end", True, False, "", None, 14, True),
        ("cut in a delta", True, False, "", None, 1, True),
        ("cut in the first", False, False, "UpstreamBadResponse", None, 0, True),
        ("cut in what follows", True, True, "", COUNTED, 14, False),
    ],
)
def test_what_a_stream_was(
    name: str, started: bool, ended: bool, failure: str, usage: Usage | None, output_bytes: int, mid_event: bool
) -> None:
    found = read([joined(STREAMS[name])])
    assert (found.started, found.ended, found.usage, found.output_bytes) == (started, ended, usage, output_bytes)
    assert ((found.failure or "").partition(":")[0], found.mid_event) == (failure, mid_event)


def test_every_stream_of_the_table_is_judged() -> None:
    marks = getattr(test_what_a_stream_was, "pytestmark")  # noqa: B009 - set by pytest
    assert {case[0] for case in marks[0].args[1]} == STREAMS.keys()


def test_the_end_and_what_follows_wait_for_the_settlement() -> None:
    meter = TranscriptMeter(GPT)
    assert meter.feed(joined([delta("a"), TOLD])) == event(delta("a"))
    assert (meter.usage, meter.farewell, meter.ended) == (COUNTED, event(TOLD), False)
    assert meter.feed(event(delta("late")) + b": ping\n\n") == b""
    assert not meter.ended
    assert meter.feed(event("[DONE]") + b"da") == b""
    assert meter.ended
    assert meter.feed(b"ta: x\n\n") + meter.finish() == b""
    assert meter.farewell == joined([TOLD, delta("late"), b": ping\n\n", "[DONE]", b"data: x\n\n"])


def test_an_end_that_comes_in_pieces_is_kept_back_from_its_first_byte() -> None:
    meter, raw = TranscriptMeter(GPT), event(TOLD)
    for at in range(len(raw) - 1):
        assert meter.feed(raw[at : at + 1]) == b""
        assert (meter.farewell, meter.ended) == (b"", False)
    assert meter.feed(raw[-1:]) == b""
    assert (meter.farewell, meter.usage) == (raw, COUNTED)


def test_each_event_passes_with_its_last_byte() -> None:
    meter = TranscriptMeter(GPT)
    for one in (b": ping\n\n", event(delta("a")), event(delta("b")) + event({})):
        assert meter.feed(one) == one
    half = event(delta("c"))
    assert (meter.feed(half[:-1]), meter.mid_event) == (b"", False)
    assert meter.feed(half[-1:]) == half


def test_the_price_decides_what_is_read_of_the_end() -> None:
    meter = TranscriptMeter(WHISPER)
    meter.feed(event(done("a", usage={"type": "duration", "seconds": 5.42})))
    assert meter.usage == Usage(audio_ms=5420)
    meter = TranscriptMeter(WHISPER)
    meter.feed(event(TOLD))
    assert (meter.usage, meter.output_bytes) == (None, 14)


@pytest.mark.parametrize("head", ['data: {"type":"transcript.text.done","text":"', 'data: {"delta":"', ": ", "data: <"])
@pytest.mark.parametrize("before", [b"", event(SILENT)], ids=["", "after the end"])
def test_an_event_of_ten_megabytes_in_small_pieces_takes_linear_time(head: str, before: bytes) -> None:
    meter, piece = TranscriptMeter(GPT), b"a" * 1024
    began = time.process_time()
    out = [meter.feed(before), meter.feed(head.encode())]
    out += [meter.feed(piece) for _ in range(10 * 1024)]
    assert b"".join(out) == b""  # an event passes whole or waits
    out = [meter.feed(b'"}\n\n'), meter.finish()]
    assert b"".join(out) + meter.farewell == before + head.encode() + piece * 10 * 1024 + b'"}\n\n'
    assert time.process_time() - began < 2


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ANY_EVENT = st.one_of(
    st.sampled_from([TOLD, SILENT, ERROR, {}, "<html>", "[]", "null", "[DONE]", b": ping\n\n", b"retry: 5\n\n"]),
    st.builds(delta, TEXT),
)


@given(
    events=st.lists(ANY_EVENT, max_size=8),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    cut=st.integers(0, 12),
    at=st.lists(st.integers(0, 900), max_size=10),
)
@settings(deadline=None, max_examples=200)
def test_random_cuts_change_nothing_and_no_byte_is_lost(
    events: list[Any], line_end: str, cut: int, at: list[int]
) -> None:
    raw = joined(events, line_end)
    raw = raw[: max(0, len(raw) - cut)]
    bounds = [0, *sorted(min(offset, len(raw)) for offset in at), len(raw)]
    found = read([raw[start:end] for start, end in pairwise(bounds)])
    assert found == read([raw])
    assert found.out + found.farewell == raw
    assert b"text.done" not in found.out or not found.ended
    assert found.ended == bool(found.farewell)
