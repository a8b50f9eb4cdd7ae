"""Whole answers on a real socket: framing, keep-alive, HTTP/1.0 and HEAD."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime

import pytest
from aiohttp import web

from oxyy_proxy.listener import Listener
from oxyy_proxy.steps.response import BEHIND_BYTES, StreamedAnswer, WholeAnswer

SAID = "Server: oxyy-proxy\r\nContent-Type: text/plain\r\n"


async def served(body: bytes, *requests: bytes, status: int = 200, close: bool = False) -> list[tuple[bytes, bytes]]:
    """(head, body) of the answer to each request, sent one after the other on one connection."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = WholeAnswer(status, SAID, body)
        if close:
            response.force_close()
        return response

    listener = Listener(handle)
    await listener.open("127.0.0.1", 0)
    host, _, port = listener.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    answers = []
    try:
        for request in requests:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            expected = 0 if request.startswith(b"HEAD") else len(body)
            answers.append((head, await reader.readexactly(expected)))
        if b"Connection: close" in answers[-1][0] or b"HTTP/1.0" in answers[-1][0]:
            assert await reader.read() == b""
    finally:
        writer.close()
        await writer.wait_closed()
        await listener.close()
    return answers


@pytest.mark.parametrize("size", [0, 1, BEHIND_BYTES - 1, BEHIND_BYTES, 3 * 2**20])
async def test_a_body_of_any_size_arrives_with_its_length_and_the_connection_stays(size: int) -> None:
    body = b"x" * size
    request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    for head, got in await served(body, request, request):
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"Content-Length: {size}\r\n".encode() in head
        assert b"Server: oxyy-proxy\r\n" in head
        assert b"Connection:" not in head
        assert got == body


async def test_the_date_is_that_of_http() -> None:
    ((head, _),) = await served(b"", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    date = head.decode().split("Date: ")[1].split("\r\n")[0]
    assert date.endswith(" GMT")
    assert abs(parsedate_to_datetime(date).timestamp() - time.time()) < 5


async def test_http_1_0_is_answered_in_kind_and_closed() -> None:
    ((head, body),) = await served(b"hello", b"GET / HTTP/1.0\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"keep-alive" not in head
    assert body == b"hello"


async def test_http_1_0_stays_if_it_asks_to() -> None:
    request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    heads = [head for head, _ in await served(b"hello", request, b"GET / HTTP/1.0\r\n\r\n")]
    assert b"Connection: keep-alive\r\n" in heads[0]


async def test_a_client_that_asks_to_close_and_a_server_that_wants_to_are_told_so() -> None:
    ((head, _),) = await served(b"hello", b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert b"Connection: close\r\n" in head
    ((head, _),) = await served(b"hello", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", close=True)
    assert b"Connection: close\r\n" in head


async def test_head_gets_the_length_and_no_body() -> None:
    request = b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"
    for head, _ in await served(b"hello", request, request):
        assert b"Content-Length: 5\r\n" in head


@pytest.mark.parametrize(
    ("status", "line"), [(429, b"429 Too Many Requests"), (503, b"503 Service Unavailable"), (599, b"599 ")]
)
async def test_the_status_line_is_complete(status: int, line: bytes) -> None:
    ((head, _),) = await served(b"", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", status=status)
    assert head.startswith(b"HTTP/1.1 " + line + b"\r\n")


async def streamed(*requests: bytes, length: str = "", pieces: tuple[bytes, ...] = (b"one", b"two")) -> bytes:
    """All that comes back until the connection closes."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answer = StreamedAnswer(SAID, length)
        assert answer.begin(request, pieces[0])
        for piece in pieces[1:]:
            assert answer.put(piece)
            await answer.caught_up()
        assert answer.end(b"end")
        assert answer.end(b"once")
        return answer

    listener = Listener(handle)
    await listener.open("127.0.0.1", 0)
    host, _, port = listener.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"".join(requests))
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()
        await listener.close()


KEPT, LAST = (b"POST / HTTP/1.1\r\nHost: h\r\nConnection: %b\r\n\r\n" % word for word in (b"keep-alive", b"close"))


async def test_a_stream_is_chunked_and_its_connection_stays() -> None:
    first, second = (await streamed(KEPT, LAST)).split(b"HTTP/1.1 200 OK\r\n")[1:]
    for answer in (first, second):
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Transfer-Encoding: chunked" in head
        assert b"Content-Length" not in head
        assert body == b"3\r\none\r\n3\r\ntwo\r\n3\r\nend\r\n0\r\n\r\n"
    assert b"Connection: close" in second
    assert b"Connection:" not in first


async def test_a_stream_of_a_known_length_is_not_chunked() -> None:
    first, second = (await streamed(KEPT, LAST, length="9")).split(b"HTTP/1.1 200 OK\r\n")[1:]
    for answer in (first, second):
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Content-Length: 9" in head
        assert b"chunked" not in head
        assert body == b"onetwoend"


async def test_a_stream_over_http_1_0_ends_with_its_connection_also_where_that_was_to_stay() -> None:
    answer = await streamed(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK")
    assert b"keep-alive" not in head
    assert body == b"onetwoend"


async def test_a_stream_without_a_piece_has_its_head_all_the_same() -> None:
    answer = await streamed(LAST, pieces=(b"",))
    assert answer.endswith(b"\r\n\r\n3\r\nend\r\n0\r\n\r\n")


async def test_a_client_that_is_behind_is_waited_for_and_gets_no_more_meanwhile() -> None:
    told: list[bool] = []
    over = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answer, transport = StreamedAnswer(SAID), request.transport
        assert transport is not None
        answer.begin(request, b"")
        while answer.put(bytes(2**20)):
            pass
        told.append(transport.get_write_buffer_size() > BEHIND_BYTES)
        waiting = asyncio.ensure_future(answer.caught_up())
        await asyncio.sleep(0.05)
        told.append(waiting.done())
        transport.abort()
        await waiting
        told.append(answer.put(b"more") or answer.end(b""))
        with pytest.raises(ConnectionError):
            await answer.caught_up()
        with pytest.raises(ConnectionError):
            StreamedAnswer(SAID).begin(request, b"")
        over.set()
        return answer

    listener = Listener(handle)
    await listener.open("127.0.0.1", 0)
    host, _, port = listener.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1)  # it takes a byte or two, and no more
    try:
        writer.write(LAST)
        async with asyncio.timeout(5):
            await over.wait()
    finally:
        writer.close()
        await listener.close()
    assert told == [True, False, False]
