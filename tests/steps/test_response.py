"""Whole answers on a real socket: framing, keep-alive, HTTP/1.0 and HEAD."""

from __future__ import annotations

import asyncio
import time
from email.utils import parsedate_to_datetime

import pytest
from aiohttp import web

from oxyy_proxy.listener import Listener
from oxyy_proxy.steps.response import AT_ONCE_BYTES, whole_response

SAID = {"Server": "oxyy-proxy", "Content-Type": "text/plain"}


async def served(body: bytes, *requests: bytes, status: int = 200, close: bool = False) -> list[tuple[bytes, bytes]]:
    """(head, body) of the answer to each request, sent one after the other on one connection."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = whole_response(status, SAID, body)
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


@pytest.mark.parametrize("size", [0, 1, AT_ONCE_BYTES, AT_ONCE_BYTES + 1, 3 * 2**20])
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
