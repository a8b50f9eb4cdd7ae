"""Where an answer begins and ends, however it is cut into segments; what is no answer."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.errors import UpstreamBadResponse, UpstreamReset
from oxyy_proxy.http1 import MAX_HEAD_BYTES
from tests.http1_parts import (
    client,
    in_segments,
    is_closed,
    noticing,
    on_each_loop,
    read_request,
    serving,
    then_reset,
    until,
)
from tests.steps.wires import WAIT_S, http, raw_upstream, says

OK = b"HTTP/1.1 200 OK\r\n"
BODY = b'{"n": [1, 2]}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"

SELF_DELIMITED = {
    "Content-Length": OK + b"X-A: b\r\n" + LENGTH + b"\r\n" + BODY,
    "chunked": OK
    + b"X-A: b\r\n"
    + CHUNKED
    + b'\r\n4;a=b;c="d"\r\n{"n"\r\n9\r\n: [1, 2]}\r\n0;x\r\nX-A: c\r\nX-T: d\r\n\r\n',
    "after interim answers": b"HTTP/1.1 100 Continue\r\n\r\n"
    + b"HTTP/1.1 103 Early Hints\r\nX-A: hint\r\nLink: </a>\r\n\r\n" * 2
    + OK
    + b"X-A: b\r\n"
    + LENGTH
    + b"\r\n"
    + BODY,
}
FRAMED = {
    **SELF_DELIMITED,
    "until it closes": OK + b"X-A: b\r\n\r\n" + BODY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\nX-A: b\r\n\r\n" + BODY,
    "HTTP/1.0 with a length": b"HTTP/1.0 200 OK\r\nX-A: b\r\n" + LENGTH + b"\r\n" + BODY,
}


@pytest.mark.parametrize("raw", FRAMED.values(), ids=FRAMED)
@on_each_loop
async def test_an_answer_is_the_same_wherever_it_is_cut_in_two(raw: bytes) -> None:
    with noticing() as received:
        cuts = [in_segments(received, (raw[:at], raw[at:])) for at in range(1, len(raw))]
        keep = raw in SELF_DELIMITED.values()
        async with raw_upstream(*cuts, keep=keep) as server, client(server.url) as asking:
            for _ in cuts:
                got = await asking.ask()
                assert (got.status, got.body, got.headers[b"x-a"]) == (200, BODY, b"b")
                assert not {b"x-t", b"link"} & set(got.headers)


@pytest.mark.parametrize("raw", FRAMED.values(), ids=FRAMED)
@on_each_loop
async def test_an_answer_may_come_byte_by_byte(raw: bytes) -> None:
    with noticing() as received:
        bytewise = in_segments(received, (raw[at : at + 1] for at in range(len(raw))))
        async with raw_upstream(bytewise) as server, client(server.url) as asking:
            assert (await asking.ask()).body == BODY


PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


@given(pieces=PIECES, chunked=st.booleans(), cuts=st.lists(st.integers(0, 600), max_size=6))
@settings(max_examples=150, deadline=None)
def test_a_body_arrives_whatever_its_chunks_and_segments(pieces: list[bytes], chunked: bool, cuts: list[int]) -> None:
    body = b"".join(pieces)
    if chunked:
        chunks = b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        raw = OK + CHUNKED + b"\r\n" + chunks + b"0\r\n\r\n"
    else:
        raw = OK + b"Content-Length: %d\r\n\r\n" % len(body) + body
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    segments = [raw[start:end] for start, end in pairwise(edges)]

    async def relay() -> None:
        with noticing() as received:
            async with (
                raw_upstream(in_segments(received, segments), keep=True) as server,
                client(server.url) as asking,
            ):
                assert (await asking.ask()).body == body
                assert len(asking.idle) == 1

    asyncio.run(relay())


@pytest.mark.parametrize("raw", SELF_DELIMITED.values(), ids=SELF_DELIMITED)
@on_each_loop
async def test_an_answer_that_ends_early_is_cut_off_wherever_it_ends(raw: bytes) -> None:
    early = [says(raw[:at]) for at in range(len(raw))]
    async with raw_upstream(*early) as server, client(server.url) as asking:
        for _ in early:
            with pytest.raises(UpstreamReset):
                await asking.ask()
        assert asking.idle == []


@pytest.mark.parametrize("raw", FRAMED.values(), ids=FRAMED)
@on_each_loop
async def test_a_reset_is_no_end_of_a_body_that_ends_with_its_connection(raw: bytes) -> None:
    with noticing() as received:
        cut = raw[:-1]
        async with raw_upstream(then_reset(received, cut)) as server, client(server.url) as asking:
            answer = await asking.upstream.post("/chat/completions", b"", "", 10.0)
            with pytest.raises(UpstreamReset):
                await answer.read()
            answer.close()


@on_each_loop
async def test_what_came_before_the_cut_is_given_out_first() -> None:
    async with raw_upstream(says(http(BODY)[:-1])) as server, client(server.url) as asking:
        answer = await asking.upstream.post("/chat/completions", b"", "", 10.0)
        await until(lambda: answer.failure)
        assert await answer.chunk() == BODY[:-1]
        for _ in range(2):
            with pytest.raises(UpstreamReset):
                await answer.chunk()
        answer.close()


WITHOUT_BODY = {
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "304 with the length of what it stands for": b"HTTP/1.1 304 Not Modified\r\n" + LENGTH + b"\r\n",
    "204 with a framing it cannot have": b"HTTP/1.1 204 No Content\r\n" + CHUNKED + b"\r\n",
    "length 0": OK + b"Content-Length: 0\r\n\r\n",
    "no chunk": OK + CHUNKED + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("raw", WITHOUT_BODY.values(), ids=WITHOUT_BODY)
@on_each_loop
async def test_an_answer_without_a_body_ends_with_its_head(raw: bytes) -> None:
    async with raw_upstream(says(raw), keep=True) as server, client(server.url) as asking:
        for _ in range(2):
            assert (await asking.ask()).body == b""
        assert server.connections == 1


def _head(*lines: bytes) -> bytes:
    return OK + b"\r\n".join(lines) + b"\r\n\r\n"


NOT_HTTP = {
    "a banner": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "a page without a head": b"<html><body>Bad Gateway</body></html>",
    "Content-Length and Transfer-Encoding": _head(b"Content-Length: 2", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "Transfer-Encoding and Content-Length": _head(b"Transfer-Encoding: chunked", b"Content-Length: 2") + b"0\r\n\r\n",
    "two lengths": _head(b"Content-Length: 2", b"Content-Length: 3") + b"abc",
    "a list of lengths": _head(b"Content-Length: 2, 3") + b"abc",
    "a negative length": _head(b"Content-Length: -2") + b"ab",
    "a signed length": _head(b"Content-Length: +2") + b"ab",
    "a hexadecimal length": _head(b"Content-Length: 0x2") + b"ab",
    "a length in words": _head(b"Content-Length: two") + b"ab",
    "an empty length": _head(b"Content-Length: ") + b"ab",
    "a length of 2^77": _head(b"Content-Length: 151115727451828646838272") + b"ab",
    "a length with a blank in its name": _head(b"Content-Length : 2") + b"ab",
    "bare line feeds": OK.replace(b"\r", b"") + b"Content-Length: 2\n\nab",
    "a bare line feed after a field": OK + b"Content-Length: 2\n\r\nab",
    "a bare line feed after the head": OK + b"Content-Length: 2\r\n\nab",
    "a bare carriage return": b"HTTP/1.1 200 OK\rContent-Length: 2\r\n\r\nab",
    "a folded field": _head(b"X: a", b" b", b"Content-Length: 2") + b"ab",
    "a field without a colon": _head(b"Xa", b"Content-Length: 2") + b"ab",
    "a field without a name": _head(b": a", b"Content-Length: 2") + b"ab",
    "a NUL in a field": _head(b"X: a\0b", b"Content-Length: 2") + b"ab",
    "a chunk size that is none": _head(b"Transfer-Encoding: chunked") + b"zz\r\nab\r\n0\r\n\r\n",
    "a negative chunk size": _head(b"Transfer-Encoding: chunked") + b"-2\r\nab\r\n0\r\n\r\n",
    "a chunk size of 2^72": _head(b"Transfer-Encoding: chunked") + b"1" + b"0" * 18 + b"\r\nab",
    "a chunk longer than its size": _head(b"Transfer-Encoding: chunked") + b"2\r\nabc\r\n0\r\n\r\n",
    "chunks with bare line feeds": _head(b"Transfer-Encoding: chunked") + b"2\nab\n0\n\n",
    "a length among the trailers": _head(b"Transfer-Encoding: chunked") + b"0\r\nContent-Length: 2\r\n\r\n",
    "another protocol agreed on": b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "another protocol, and its bytes": b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n\x00\x01",
    "another protocol that has no name": b"HTTP/1.1 101 Switching\r\n\r\n" + http(BODY),
    "HTTP/2.0 that is kept": b"HTTP/2.0 200 OK\r\nConnection: keep-alive\r\n" + LENGTH + b"\r\n" + BODY,
    "HTTP/0.9 that is kept": b"HTTP/0.9 200 OK\r\nConnection: keep-alive\r\n" + LENGTH + b"\r\n" + BODY,
}
STATUS_LINES = (
    *(b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 abc OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1"),
    *(b"HTTP/1.2 200 OK", b"HTTP/3.0 200 OK", b"http/1.1 200 OK", b"HTTP 200 OK", b" HTTP/1.1 200 OK", b"ICY 200 OK"),
    *(b"HTTP/2.0 200 OK", b"HTTP/0.9 200 OK", b"RTSP/2.0 200 OK"),
    *(b"HTTP/1.1 000 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 600 OK", b"HTTP/1.1 999 OK"),
)
BAD = {**NOT_HTTP, **{line.decode(): line + b"\r\n" + LENGTH + b"\r\n" + BODY for line in STATUS_LINES}}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
@on_each_loop
async def test_what_is_not_an_answer_is_refused_and_its_connection_dropped(raw: bytes) -> None:
    dropped = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        assert await is_closed(reader)
        dropped.set()

    async with serving(serve) as url, client(url) as asking:
        with pytest.raises(UpstreamBadResponse):
            await asking.ask()
        await asyncio.wait_for(dropped.wait(), WAIT_S)
        assert asking.idle == []


TOLERATED = {
    "no reason": b"HTTP/1.1 200\r\n" + LENGTH + b"\r\n" + BODY,
    "an empty line before it": b"\r\n" + OK + LENGTH + b"\r\n" + BODY,
    "names in any case": OK + LENGTH.upper() + b"\r\n" + BODY,
    "an empty field": OK + b"X:\r\n" + LENGTH + b"\r\n" + BODY,
    "bytes beyond ASCII in a field": OK + b"X: \xe4\xff\r\n" + LENGTH + b"\r\n" + BODY,
    "an upgrade on offer": OK + b"Connection: Upgrade\r\nUpgrade: h2c\r\n" + LENGTH + b"\r\n" + BODY,
    "a trailer that looks like a framing": OK + CHUNKED + b"\r\nd\r\n" + BODY + b"\r\n0\r\nConnection: close\r\n\r\n",
}


@pytest.mark.parametrize("raw", TOLERATED.values(), ids=TOLERATED)
@on_each_loop
async def test_what_servers_are_known_to_do_is_no_failure(raw: bytes) -> None:
    async with raw_upstream(says(raw)) as server, client(server.url) as asking:
        got = await asking.ask()
        assert (got.status, got.body) == (200, BODY)


SECOND = b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nother"
SURPLUS = {"another answer": SECOND, "half of one": SECOND[:20], "its first byte": b"H", "anything": b"junk"}


@pytest.mark.parametrize("surplus", SURPLUS.values(), ids=SURPLUS)
@pytest.mark.parametrize("raw", SELF_DELIMITED.values(), ids=SELF_DELIMITED)
@pytest.mark.parametrize("apart", [False, True], ids=["in one segment", "in the next segment"])
@on_each_loop
async def test_more_than_was_announced_is_no_part_of_the_answer_nor_of_the_next(
    raw: bytes, surplus: bytes, apart: bool
) -> None:
    with noticing() as received:
        segments = (raw, surplus) if apart else (raw + surplus,)
        async with (
            raw_upstream(in_segments(received, segments), says(http(BODY)), keep=True) as server,
            client(server.url) as asking,
        ):
            answer = await asking.upstream.post("/chat/completions", b"", "", 10.0)
            await until(lambda: received.count >= len(raw) + len(surplus))
            assert (answer.status, await answer.read(), answer.header("x-a")) == (200, BODY, "b")
            answer.close()
            assert (await asking.ask()).status == 200
            assert server.connections == 2


def _of_size(size: int, *, lines: int) -> bytes:
    """A head of exactly this many bytes."""
    fixed = OK + LENGTH + b"\r\n"
    filler = (size - len(fixed)) // lines
    fields = [b"X-%04d: " % n + b"x" * (filler - 10) + b"\r\n" for n in range(lines - 1)]
    last = size - len(fixed) - sum(map(len, fields))
    return OK + b"".join(fields) + b"X-last: " + b"y" * (last - 10) + b"\r\n" + LENGTH + b"\r\n"


@pytest.mark.parametrize("lines", [1, 500])
@on_each_loop
async def test_a_head_may_be_as_large_as_the_limit_and_no_larger(lines: int) -> None:
    largest, larger = (_of_size(MAX_HEAD_BYTES + more, lines=lines) for more in (0, 1))
    assert (len(largest), len(larger)) == (MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1)
    answers = says(largest + BODY), says(larger + BODY)
    async with raw_upstream(*answers, keep=True) as server, client(server.url) as asking:
        assert (await asking.ask()).body == BODY
        with pytest.raises(UpstreamBadResponse, match="too large"):
            await asking.ask()


@pytest.mark.parametrize("line", [b"x" * 4096, b"X-A: " + b"x" * 4096 + b"\r\n"], ids=["one line", "many lines"])
@on_each_loop
async def test_a_head_without_end_is_refused_before_it_fills_the_memory(line: bytes) -> None:
    sent = [0]

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"X-B: ")
        while True:
            writer.write(line)
            sent[0] += len(line)
            await writer.drain()

    async with raw_upstream(endless) as server, client(server.url) as asking:
        with pytest.raises(UpstreamBadResponse, match="too large"):
            await asking.ask()
    assert sent[0] < 32 * 2**20


@on_each_loop
async def test_a_head_is_measured_over_all_its_segments() -> None:
    with noticing() as received:
        segments = [OK, *[b"X-A: " + b"x" * 4096 + b"\r\n"] * 16, b"\r\n"]
        async with raw_upstream(in_segments(received, segments)) as server, client(server.url) as asking:
            with pytest.raises(UpstreamBadResponse, match="too large"):
                await asking.ask()
    assert MAX_HEAD_BYTES < received.count < MAX_HEAD_BYTES + 4200


@on_each_loop
async def test_interim_answers_without_end_are_refused() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 20)
            await writer.drain()

    async with raw_upstream(endless) as server, client(server.url) as asking:
        with pytest.raises(UpstreamBadResponse, match="too large"):
            await asking.ask()


@pytest.mark.parametrize("behind", [0, 1, 2, 3, 4])
@on_each_loop
async def test_a_large_body_right_behind_the_head_is_no_head(behind: int) -> None:
    """Wherever the segment with most of the body begins: before, within or after the end of the head."""
    body = b"z" * 150_000
    raw = http(body)
    at = raw.index(b"\r\n\r\n") + behind
    with noticing() as received:
        segments: tuple[Any, ...] = (raw[:at], raw[at : at + 140_000], raw[at + 140_000 :])
        async with (
            raw_upstream(in_segments(received, segments), keep=True) as server,
            client(server.url) as asking,
        ):
            assert (await asking.ask()).body == body
            assert (await asking.ask()).body == body
            assert server.connections == 1
