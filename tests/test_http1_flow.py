"""Bodies larger than buffers, in both directions, and waits that have an end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time

import pytest

from oxyy_proxy import http1
from oxyy_proxy.errors import UpstreamTimeout
from oxyy_proxy.upstream import UpstreamAnswer
from tests.http1_parts import (
    Client,
    Clock,
    client,
    fake_clock,
    on_each_loop,
    read_request,
    rounds,
    serving,
    small_buffers,
    until,
)
from tests.steps.wires import WAIT_S, http, raw_upstream, says

SEGMENT_BYTES = 256 * 1024
"""The most that both event loops read at once."""

LARGE = hashlib.shake_256(b"x").digest(1_000_000) * 50
HEADS = {
    "Content-Length": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LARGE),
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@pytest.mark.parametrize("framing", HEADS)
@on_each_loop
async def test_a_reader_who_does_not_read_stops_the_server_and_still_gets_everything(framing: str) -> None:
    sent = 0

    async def fast(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEADS[framing])
        while sent < len(LARGE):
            piece = LARGE[sent : sent + 50_000]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            await writer.drain()
            sent += len(piece)
        if framing == "chunked":
            writer.write(b"0\r\n\r\n")

    async with raw_upstream(fast, keep=True) as server, client(server.url) as asking:
        answer = await asking.upstream.post("/chat/completions", b"", "", 60.0)
        await until(lambda: answer._size > http1.HIGH_WATER_BYTES)
        stalled = -1
        while sent != stalled:  # the sockets between the two fill up
            stalled = sent
            await rounds(500)
        assert answer._size <= http1.HIGH_WATER_BYTES + SEGMENT_BYTES
        assert sent < len(LARGE) // 2
        most, size, digest = 0, 0, hashlib.sha256()
        while piece := await answer.chunk():
            digest.update(piece)
            size += len(piece)
            await rounds(2)  # a client slower than the server
            most = max(most, answer._size)
        assert (size, digest.digest()) == (len(LARGE), hashlib.sha256(LARGE).digest())
        assert most <= http1.HIGH_WATER_BYTES + SEGMENT_BYTES
        answer.close()
        assert len(asking.idle) == 1


@on_each_loop
async def test_a_reader_who_gives_up_on_a_paused_body_leaves_nothing() -> None:
    async def fast(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(HEADS["Content-Length"])
            for at in range(0, len(LARGE), 50_000):
                writer.write(LARGE[at : at + 50_000])
                await writer.drain()

    async with raw_upstream(fast, says(http(b"next")), keep=True) as server, client(server.url) as asking:
        answer = await asking.upstream.post("/chat/completions", b"", "", 60.0)
        await until(lambda: answer._size > http1.HIGH_WATER_BYTES)
        answer.close()
        assert asking.idle == []
        assert (await asking.ask()).body == b"next"


@pytest.mark.parametrize("size", [http1.HIGH_WATER_BYTES - 1, http1.HIGH_WATER_BYTES, 8_000_000])
@on_each_loop
async def test_a_request_of_any_size_arrives_and_the_connection_is_used_again(size: int) -> None:
    body = LARGE[:size]
    async with raw_upstream(says(http(b"taken")), keep=True) as server, client(server.url) as asking:
        for _ in range(2):
            assert (await asking.ask(body, limit_s=60.0)).body == b"taken"
        assert [hashlib.sha256(seen).digest() for _, seen in server.seen] == [hashlib.sha256(body).digest()] * 2
        assert server.connections == 1


@on_each_loop
async def test_an_answer_before_the_request_was_taken_counts_and_ends_the_connection() -> None:
    connections, done = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http(b"too large", "413 Content Too Large"))
        await done.wait()

    async with serving(serve, sock=small_buffers(), limit=1024) as url, client(url) as asking:
        for round_ in (1, 2):
            got = await asking.ask(LARGE[:8_000_000])
            assert (got.status, got.body) == (413, b"too large")
            assert (asking.idle, connections) == ([], round_)
        done.set()


@on_each_loop
async def test_a_request_that_nobody_takes_ends_with_its_time() -> None:
    done = asyncio.Event()

    async def serve(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await done.wait()

    async with serving(serve, sock=small_buffers(), limit=1024) as url, client(url) as asking:
        with pytest.raises(UpstreamTimeout):
            await asking.ask(LARGE[:8_000_000], limit_s=0.1)
        done.set()


SILENCE = {
    "before the head": b"",
    "within the head": b"HTTP/1.1 200 OK\r\n",
    "after an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n",
    "before the body": http(b"body")[:-4],
    "within the body": http(b"body")[:-1],
}


@pytest.mark.parametrize("sent", SILENCE.values(), ids=SILENCE)
@on_each_loop
async def test_silence_ends_after_the_limit(sent: bytes) -> None:
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(sent)
        await done.wait()

    async with serving(serve) as url, client(url) as asking:
        started = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            await asking.ask(limit_s=0.1)
        assert 0.1 <= time.monotonic() - started < 2.0
        assert asking.idle == []
        done.set()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return fake_clock(monkeypatch)


async def _dripping(asking: Client, idle_s: float) -> UpstreamAnswer:
    answer = await asking.upstream.post("/chat/completions", b"", "", 30.0)
    answer.flow(idle_s)
    return answer


@on_each_loop
async def test_the_limit_spans_head_and_body_however_they_drip(clock: Clock) -> None:
    more = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        for byte in http(b"x" * 100):
            writer.write(bytes([byte]))
            if byte == ord("x"):
                await more.wait()
                more.clear()

    async with raw_upstream(drip) as server, client(server.url) as asking:
        answer = await asking.upstream.post("/chat/completions", b"", "", 30.0)
        for _ in range(10):
            assert await answer.chunk() == b"x"
            clock.now += 2.9
            await rounds(20)
            more.set()
        assert await answer.chunk() == b"x"
        clock.now += 1.1
        with pytest.raises(UpstreamTimeout):
            await answer.chunk()
        assert answer.waited_s == 0.0  # who asks counts what it takes until it flows
        answer.close()


@on_each_loop
async def test_a_stream_may_last_as_long_as_no_pause_is_longer_than_idle(clock: Clock) -> None:
    more = asyncio.Event()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await more.wait()
            more.clear()
            writer.write(b"1\r\nx\r\n")

    async with raw_upstream(drip) as server, client(server.url) as asking:
        answer = await _dripping(asking, 10.0)
        loop = asyncio.get_running_loop()
        for _ in range(20):
            clock.now += 1000  # nobody waits for the upstream meanwhile
            await rounds(20)
            task = loop.create_task(answer.chunk())
            await rounds(5)
            clock.now += 9.9
            await rounds(20)
            more.set()
            assert await task == b"x"
        assert answer.waited_s == pytest.approx(20 * 9.9)
        task = loop.create_task(answer.chunk())
        await rounds(5)
        clock.now += 10.1
        with pytest.raises(UpstreamTimeout):
            await asyncio.wait_for(task, WAIT_S)
        answer.close()


@on_each_loop
async def test_a_pushed_stream_too_may_pause_for_idle_and_no_longer(clock: Clock) -> None:
    more, taken = asyncio.Event(), list[bytes]()

    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await more.wait()
            more.clear()
            writer.write(b"1\r\nx\r\n")

    async with raw_upstream(drip) as server, client(server.url) as asking:
        answer = await _dripping(asking, 10.0)
        task = asyncio.get_running_loop().create_task(answer.push(lambda data: taken.append(data) or True))
        for number in range(20):
            await rounds(5)
            clock.now += 9.9
            await rounds(20)
            more.set()
            await until(lambda number=number: len(taken) > number)  # type: ignore[misc]
        clock.now += 10.1
        with pytest.raises(UpstreamTimeout):
            await asyncio.wait_for(task, WAIT_S)
        assert answer.waited_s == pytest.approx(20 * 9.9 + 10.1)
        answer.close()


@on_each_loop
async def test_an_answer_that_was_too_late_is_not_kept_even_if_it_comes(clock: Clock) -> None:
    more = asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"late")[:-2])
        await more.wait()
        writer.write(b"te")

    async with raw_upstream(late, keep=True) as server, client(server.url) as asking:
        answer = await asking.upstream.post("/chat/completions", b"", "", 30.0)
        assert await answer.chunk() == b"la"
        clock.now += 30.1
        with pytest.raises(UpstreamTimeout):
            await answer.chunk()
        answer.close()
        more.set()
        await rounds(20)
        assert (asking.idle, asking.waits) == ([], 0)
