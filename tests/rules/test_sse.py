"""Events are the same, whatever the network made of the bytes."""

from __future__ import annotations

import re
import time
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oxyy_proxy.rules.sse import Framer, data_of, is_one_event

LINES = [
    b": a comment",
    b"",
    b"event: message",
    b"id: 7",
    b"retry: 3000",
    'data: {"a": "Grüße 日本 🎈"}'.encode(),
    b"",
    b"data: one",
    b"data:two",
    b"data:  three",
    b"data: ",
    b"",
    b"data: [DONE]",
    b"",
]
EXPECTED = ['{"a": "Grüße 日本 🎈"}'.encode(), b"one\ntwo\n three\n", b"[DONE]"]
LINE_ENDS = [b"\n", b"\r\n", b"\r"]

LINE = st.one_of(
    st.sampled_from([b"", b": ping", b"event: x", b"id: 1", b"retry: 5", b"data", b"data:", b"data: ", b"datax: no"]),
    st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])).map(lambda t: b"data: " + t.encode()),
    st.binary(max_size=20).map(lambda b: b"data:" + re.sub(rb"[\r\n]", b"", b)),
)
ENDED = st.one_of(
    st.lists(st.tuples(LINE, st.sampled_from([b"\n", b"\r\n"])), max_size=30),
    st.lists(st.tuples(LINE, st.just(b"\r")), max_size=30),
)
STREAM = st.builds(
    lambda lines, rest: b"".join(line + line_end for line, line_end in lines) + rest,
    ENDED,
    st.sampled_from([b"", b"data: begun", b"data: begun\r", b": "]),
)


def cut(raw: bytes, at: list[int]) -> list[bytes]:
    """`raw` in pieces, cut at these offsets; some may be empty."""
    bounds = [0, *sorted(min(offset, len(raw)) for offset in at), len(raw)]
    return [raw[start:end] for start, end in pairwise(bounds)]


def framed(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    framer = Framer()
    events = [event for piece in pieces for event in framer.feed(piece)]
    return events, bytes(framer.tail)


def by_the_standard(raw: bytes) -> list[bytes]:
    """The data of complete events, read line by line as WHATWG HTML 9.2.6 says."""
    found: list[bytes] = []
    data: list[bytes] = []
    *lines, _unfinished = re.split(rb"\r\n|\n|\r", raw)
    for line in lines:
        if line == b"":
            if any(data):
                found.append(b"\n".join(data))
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    return found


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_a_cut_at_any_byte_gives_the_same_events(line_end: bytes) -> None:
    raw = b"".join(line + line_end for line in LINES)
    for offset in range(len(raw) + 1):
        events, tail = framed([raw[:offset], raw[offset:]])
        assert b"".join(events) + tail == raw
        assert [data for event in events if (data := data_of(event))] == EXPECTED, offset
        assert tail == b""


@pytest.mark.parametrize("line_end", LINE_ENDS)
def test_single_bytes_give_the_same_events(line_end: bytes) -> None:
    raw = b"".join(line + line_end for line in LINES)
    assert framed([bytes([byte]) for byte in raw]) == framed([raw])


@given(raw=STREAM, at=st.lists(st.integers(0, 400), max_size=12))
@example(raw=b"data: a\r\n\n\ndata: b\n\r\n", at=[9, 10, 19])
@example(raw=b"data: a\r\n\rdata: b\r\n\r\n", at=[8, 9, 10])
@settings(deadline=None, max_examples=200)
def test_random_cuts_lose_and_change_nothing(raw: bytes, at: list[int]) -> None:
    events, tail = framed(cut(raw, at))
    assert b"".join(events) + tail == raw
    assert (events, tail) == framed([raw])


@given(raw=STREAM, at=st.lists(st.integers(0, 400), max_size=6))
@settings(deadline=None, max_examples=200)
def test_events_say_what_the_standard_says(raw: bytes, at: list[int]) -> None:
    events, _ = framed(cut(raw, at))
    assert [data for event in events if (data := data_of(event)).strip(b"\n")] == [
        data for data in by_the_standard(raw) if data.strip(b"\n")
    ]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"data: x\r\r", b"x"),
        (b"data: x\ry\n\n", b"x"),
        (b"data: x\rdata: y\n\n", b"x\ny"),
        (b"event: e\nid: 1\ndata: x\nretry: 2\n\n", b"x"),
        (b": comment\n\n", b""),
        (b"retry: 10\n\n", b""),
        (b"data\n\n", b""),
        (b"database: x\n\n", b""),
        (b"data: x", b"x"),
        (b"data: x\n", b"x"),
        (b"", b""),
    ],
)
def test_the_data_of_an_event(event: bytes, data: bytes) -> None:
    assert data_of(event) == data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'data: {"a":1}\n\n', True),
        ('data: {"a":"日本"}\n\n'.encode(), True),
        (b'data: {"a":1}\n', False),
        (b'data: {"a":1}', False),
        (b'data: {"a":1}\n\ndata: {"b":1}\n\n', False),
        (b'data: {"a":1}\n: x\n\n', False),
        (b'data: {"a":1}\r\n\r\n', False),
        (b'data: {"a":1}\rdata: {"b":1}\n\n', False),
        (b'data: {"a":1}\r\n\n', False),
        (b"data: [DONE]\n\n", True),
        (b"data: \n\n", True),
        (b"data:{}\n\n", False),
        (b": ping\n\n", False),
        (b": ping\n\n\n", False),
        (b"data: x\n\n\n", False),
        (b"\n\n", False),
        (b"x", False),
        (b"", False),
    ],
)
def test_what_is_one_event_of_one_line_is_known_at_a_glance(data: bytes, expected: bool) -> None:
    assert is_one_event(data) is expected
    if expected:
        assert data_of(data) == data[6:-2]
        assert framed([data]) == ([data], b"")


def test_an_event_is_out_with_its_last_byte() -> None:
    framer = Framer()
    assert framer.feed(b"data: x\n") == []
    assert framer.feed(b"\n") == [b"data: x\n\n"]
    assert framer.feed(b"data: y\r\n\r") == []
    assert framer.feed(b"\ndata: z") == [b"data: y\r\n\r\n"]
    assert framer.tail == b"data: z"


def test_a_huge_event_in_tiny_pieces_takes_linear_time() -> None:
    framer, piece, pieces = Framer(), b"a" * 64, 64 * 1024
    began = time.process_time()
    framer.feed(b"data: ")
    for _ in range(pieces):
        framer.feed(piece)
    events = framer.feed(b"\n\n")
    assert time.process_time() - began < 2
    assert [len(event) for event in events] == [6 + len(piece) * pieces + 2]


def test_a_huge_event_takes_its_own_size_in_memory() -> None:
    framer, piece = Framer(), b"a" * 16384
    tracemalloc.start()
    try:
        for _ in range(64):
            framer.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(framer.tail) == 1 << 20
    assert peak < 2.5 * (1 << 20)
