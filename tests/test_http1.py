"""The life of a connection: what is sent on it, when it is used again, and when it is dropped."""

from __future__ import annotations

import asyncio
import time

import pytest

from oxyy_proxy import http1, pool
from oxyy_proxy import upstream as module
from oxyy_proxy.errors import UpstreamBadResponse, UpstreamFailure, UpstreamReset
from oxyy_proxy.http1 import Connection, Incoming
from tests.http1_parts import (
    Client,
    Got,
    client,
    in_segments,
    is_closed,
    noticing,
    on_each_loop,
    read_request,
    serving,
    until,
)
from tests.rig import ORG_KEY
from tests.steps.wires import SSE_HEAD, WAIT_S, http, raw_upstream, says

GOOD = b'{"choices": []}'


async def _post(asking: Client, body: bytes = b"") -> module.UpstreamAnswer:
    return await asking.upstream.post("/chat/completions", body, "", WAIT_S)


@pytest.mark.parametrize(
    ("host", "base", "path"),
    [
        ("127.0.0.1", "/v1", "/v1/chat/completions"),
        ("127.0.0.1", "", "/chat/completions"),
        ("127.0.0.1", "/a/b%20c/", "/a/b%20c/chat/completions"),
        ("::1", "/v1", "/v1/chat/completions"),
    ],
)
@on_each_loop
async def test_a_request_is_these_bytes_and_no_others(host: str, base: str, path: str) -> None:
    try:
        async with raw_upstream(says(http(GOOD)), host=host) as server:
            authority = server.url.split("/")[2]
            async with client(f"http://{authority}{base}") as asking:
                headers = "Content-Type: application/json\r\nx-request-id: req_1\r\n"
                assert (await asking.ask(b'{"a": "\xc3\xa4"}', headers)).body == GOOD
            expected = (
                f"POST {path} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {ORG_KEY}\r\n"
                f"Accept-Encoding: identity\r\n{headers}Content-Length: 11\r\n\r\n"
            )
            assert server.seen == [(expected.encode(), b'{"a": "\xc3\xa4"}')]
    except OSError as error:
        if ":" not in host:
            raise
        pytest.skip(f"no IPv6 here: {error}")


PLAIN = {
    "a redirect is not followed": (http(b"", "307 There", "text/plain", "Location: http://127.0.0.1:1/"), 307, b""),
    "gzip is not unpacked": (
        http(b"\x1f\x8b\x08\0", "200 OK", "a/b", "Content-Encoding: gzip"),
        200,
        b"\x1f\x8b\x08\0",
    ),
    "an error has its body": (http(b"no", "503 Service Unavailable"), 503, b"no"),
    "a teapot is as good as any": (http(b"no", "418 x"), 418, b"no"),
}


@pytest.mark.parametrize(("raw", "status", "body"), PLAIN.values(), ids=PLAIN)
@on_each_loop
async def test_an_answer_is_given_as_it_came(raw: bytes, status: int, body: bytes) -> None:
    async with raw_upstream(says(raw), keep=True) as server, client(server.url) as asking:
        got = await asking.ask()
        assert (got.status, got.body, len(server.seen)) == (status, body, 1)


@on_each_loop
async def test_header_names_have_no_case() -> None:
    raw = http(GOOD, "200 OK", "application/json", "ReTrY-aFtEr: 7", "x-twice: 1", "X-Twice: 2", "X-Latin: \xe4")
    async with raw_upstream(says(raw.replace(b"\xc3\xa4", b"\xe4"))) as server, client(server.url) as asking:
        answer = await _post(asking)
        names = ("retry-after", "Retry-After", "RETRY-AFTER", "x-twice", "X-Latin", "absent")
        assert [answer.header(name) for name in names] == ["7", "7", "7", "2", "\xe4", ""]
        answer.close()


@on_each_loop
async def test_one_connection_serves_one_request_after_the_other() -> None:
    async with raw_upstream(says(http(GOOD)), keep=True) as server, client(server.url) as asking:
        for _ in range(20):
            assert (await asking.ask()).body == GOOD
        assert (server.connections, len(server.seen), len(asking.idle)) == (1, 20, 1)


@on_each_loop
async def test_the_connection_that_was_used_last_is_used_first() -> None:
    async with raw_upstream(says(http(GOOD)), keep=True) as server, client(server.url) as asking:
        first, second = await asyncio.gather(_post(asking), _post(asking))
        for answer in (first, second):
            await answer.read()
            answer.close()
        last = asking.idle[-1]
        assert (await asking.ask()).body == GOOD
        assert asking.idle[-1] is last
        assert server.connections == 2


@on_each_loop
async def test_two_hundred_at_once_get_each_its_own_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await read_request(reader)
            name = head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0]
            for _ in range(int(body) % 7):
                await asyncio.sleep(0)
            close = int(body) % 5 == 0
            raw = http(
                name + b"=" + body * 50, "200 OK", "a/b", f"X-Id: {name.decode()}", *["Connection: close"] * close
            )
            for at in range(0, len(raw), 100):
                writer.write(raw[at : at + 100])
                await asyncio.sleep(0)
            if close:
                return

    async with serving(serve, backlog=300) as url, client(url) as asking:

        async def ask(number: int) -> tuple[int, Got]:
            return number, await asking.ask(b"%d" % number, f"x-request-id: n{number}\r\n")

        for start in (0, 1000, 2000):
            for number, got in await asyncio.gather(*(ask(start + n) for n in range(200))):
                assert got.body == b"n%d=" % number + b"%d" % number * 50
                assert got.headers[b"x-id"] == b"n%d" % number
        assert 0 < len(asking.idle) <= 200


NOT_REUSED = {
    "Connection: close": http(GOOD, "200 OK", "a/b", "Connection: close"),
    "HTTP/1.0": http(GOOD).replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("raw", NOT_REUSED.values(), ids=NOT_REUSED)
@on_each_loop
async def test_a_server_that_says_so_is_taken_at_its_word(raw: bytes) -> None:
    closed: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        closed.append(await is_closed(reader))  # by the client: the server does not

    async with serving(serve) as url, client(url) as asking:
        for _ in range(3):
            assert (await asking.ask()).body == GOOD
            assert asking.idle == []
        await until(lambda: closed == [True] * 3)


@on_each_loop
async def test_a_connection_that_the_server_closed_while_idle_is_not_used() -> None:
    async with raw_upstream(says(http(GOOD))) as server, client(server.url) as asking:
        for _ in range(3):
            assert (await asking.ask()).body == GOOD
            await until(lambda: not any(connection.usable for connection in asking.idle))
        assert server.connections == 3
        assert asking.idle[:-1] == []


@on_each_loop
async def test_bytes_that_answer_nothing_end_an_idle_connection() -> None:
    went_on = asyncio.Event()
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(http(GOOD))
        await went_on.wait()
        writer.write(http(b"a trap"))
        if await is_closed(reader):
            closed.set()

    async with serving(serve) as url, client(url) as asking:
        assert (await asking.ask()).body == GOOD
        went_on.set()
        await asyncio.wait_for(closed.wait(), WAIT_S)
        assert not asking.idle[0].usable
        assert (await asking.ask()).body == GOOD


@on_each_loop
async def test_a_connection_is_kept_for_a_while_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    later_s = 0.0
    monkeypatch.setattr(pool, "monotonic", lambda: time.monotonic() + later_s)
    closed = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal closed
        try:
            while True:
                await read_request(reader)
                writer.write(http(GOOD))
        except asyncio.IncompleteReadError:
            closed += 1

    async with serving(serve) as url, client(url) as asking:
        await asking.ask()
        (first,) = asking.idle
        later_s = pool.KEEP_IDLE_S - 1
        await asking.ask()
        assert asking.idle == [first]
        later_s = pool.KEEP_IDLE_S + 1
        await asking.ask()
        assert first not in asking.idle
        await until(lambda: closed == 1)
        assert len(asking.idle) == 1


@on_each_loop
async def test_a_server_that_hangs_up_at_once_is_a_failure_and_no_wait() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with serving(serve) as url, client(url) as asking:
        for _ in range(50):
            with pytest.raises(UpstreamFailure) as caught:
                await asyncio.wait_for(asking.ask(limit_s=60.0), WAIT_S)
            assert caught.value.reason in ("reset", "unreachable")


@on_each_loop
async def test_a_request_on_a_connection_that_is_lost_already_fails_at_once() -> None:
    async def serve(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        pass

    loop = asyncio.get_running_loop()
    async with serving(serve) as url:
        _, connection = await loop.create_connection(lambda: Connection(loop), "127.0.0.1", int(url.split(":")[2][:-3]))
        await until(lambda: not connection.usable)
        await asyncio.sleep(0)
        answer = Incoming(connection, WAIT_S)
        connection.send(b"POST / HTTP/1.1\r\n\r\n", b"", answer)
        with pytest.raises(UpstreamReset):
            await asyncio.wait_for(answer.chunk(), WAIT_S)
        assert not connection.release()


@on_each_loop
async def test_an_answer_is_closed_once_however_often() -> None:
    async with raw_upstream(says(http(GOOD)), keep=True) as server, client(server.url) as asking:
        answer = await _post(asking)
        assert await answer.read() == GOOD
        for _ in range(3):
            answer.close()
        assert len(asking.idle) == 1
        assert (await asking.ask()).body == GOOD
        answer.close()
        assert (len(asking.idle), server.connections) == (1, 1)


UNFINISHED = {
    "a length": http(GOOD)[:-1],
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    "until it closes": SSE_HEAD + b"data: 1\n\n",
}


@pytest.mark.parametrize("raw", UNFINISHED.values(), ids=UNFINISHED)
@on_each_loop
async def test_an_answer_that_is_closed_before_its_end_takes_its_connection_with_it(raw: bytes) -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(raw)
        if await is_closed(reader):
            closed.set()

    async with serving(serve) as url, client(url) as asking:
        answer = await _post(asking)
        assert await answer.chunk()
        answer.close()
        assert (asking.idle, asking.waits) == ([], 0)
        await asyncio.wait_for(closed.wait(), WAIT_S)


@on_each_loop
async def test_a_connection_that_ends_before_it_is_given_back_is_not_kept() -> None:
    async with raw_upstream(says(http(GOOD))) as server, client(server.url) as asking:
        answer = await _post(asking)
        connection = answer._connection
        assert connection is not None
        await until(lambda: not connection.usable)
        assert await answer.read() == GOOD
        answer.close()
        assert asking.idle == []


@on_each_loop
async def test_a_connection_that_is_closing_is_not_kept() -> None:
    async with raw_upstream(says(http(GOOD)), keep=True) as server, client(server.url) as asking:
        answer = await _post(asking)
        assert await answer.read() == GOOD
        assert answer._connection is not None
        answer._connection.drop()
        answer.close()
        assert asking.idle == []


@on_each_loop
async def test_a_body_that_nobody_took_does_not_stop_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HIGH_WATER_BYTES", 4)  # reading is paused with the body complete
    async with raw_upstream(says(http(GOOD)), keep=True) as server, client(server.url) as asking:
        for _ in range(3):
            answer = await _post(asking)
            await until(lambda answer=answer: answer.complete)  # type: ignore[misc]
            answer.close()
        assert (await asking.ask()).body == GOOD
        assert server.connections == 1


WHERE = {"the head": b"", "the rest of the head": b"HTTP/1.1 200 OK\r\nX-", "the body": http(GOOD)[:-1]}


@pytest.mark.parametrize("sent", WHERE.values(), ids=WHERE)
@on_each_loop
async def test_a_request_that_is_cancelled_takes_its_connection_with_it(sent: bytes) -> None:
    waiting, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        await in_segments(received, [sent])(writer)
        waiting.set()
        if await is_closed(reader):
            closed.set()

    with noticing() as received:
        async with serving(serve) as url, client(url) as asking:
            task = asyncio.get_running_loop().create_task(asking.ask())
            await asyncio.wait_for(waiting.wait(), WAIT_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(closed.wait(), WAIT_S)
            assert (asking.idle, asking.waits) == ([], 0)


@on_each_loop
async def test_an_answer_too_large_to_read_whole_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", len(GOOD))
    async with (
        raw_upstream(says(http(GOOD)), says(http(GOOD + b" ")), keep=True) as server,
        client(server.url) as asking,
    ):
        assert (await asking.ask()).body == GOOD
        with pytest.raises(UpstreamBadResponse, match="larger than"):
            await asking.ask()


@on_each_loop
async def test_closing_drops_what_is_idle() -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(http(GOOD))
        if await is_closed(reader):
            closed.set()

    async with serving(serve) as url, client(url) as asking:
        await asking.ask()
        await asking.upstream.close()
        await asyncio.wait_for(closed.wait(), WAIT_S)
        assert asking.idle == []
