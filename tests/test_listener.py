from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from oxyy_proxy.errors import StartupError
from oxyy_proxy.listener import Listener
from tests.rig import KEY, Rig
from tests.steps.wires import QUESTION, dial, ended_rows, own_rig, request

BODY = json.dumps(QUESTION).encode()
CHUNKED = b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"


def _head(*lines: str, first: str = "POST /v1/chat/completions HTTP/1.1") -> bytes:
    return "\r\n".join([first, "Host: proxy", f"Authorization: Bearer {KEY}", *lines]).encode("latin-1") + b"\r\n\r\n"


MALFORMED = {
    "a control character in the key": _head(f"x-api-key: {KEY}\x01"),
    "NUL in the key": _head(f"x-api-key: {KEY}\x00"),
    "a header of 20 KB": _head(f"x-api-key: {KEY}{'x' * 20_000}"),
    "thousands of headers": _head(*(f"x-{n}: {KEY}" for n in range(2000))),
    "a request line of 20 KB": _head(first=f"GET /v1/{KEY}{'x' * 20_000} HTTP/1.1"),
    "a request line that is none": f"{KEY}\r\n\r\n".encode(),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + KEY.encode() + b"\r\n\r\n",
    "a header without a name": _head(f": {KEY}"),
    "a blank before the colon": _head(f"x-api-key : {KEY}"),
    "a folded header": _head("x-api-key: a", f" {KEY}"),
    "no Host": f"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode(),
    "a raw byte in the path": _head(first="GET /v1/mod\xe9ls HTTP/1.1"),
    "two lengths": _head("Content-Length: 5", f"Content-Length: {len(BODY)}") + BODY,
    "a length and chunks": _head(f"Content-Length: {len(BODY)}", "Transfer-Encoding: chunked") + CHUNKED,
    "a signed length": _head(f"Content-Length: +{len(BODY)}") + BODY,
    "a chunk without a size": _head("Transfer-Encoding: chunked") + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunked twice": _head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + CHUNKED,
    "identity, chunked": _head("Transfer-Encoding: identity, chunked") + CHUNKED,
    "gzip, chunked": _head("Transfer-Encoding: gzip, chunked") + CHUNKED,
    "chunks in HTTP/1.0": _head("Transfer-Encoding: chunked", first="POST /v1/chat/completions HTTP/1.0") + CHUNKED,
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/2.0": _head(f"Content-Length: {len(BODY)}", first="POST /v1/chat/completions HTTP/2.0") + BODY,
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED)
async def test_broken_http_is_a_400_that_quotes_nothing(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, sent: bytes
) -> None:
    async with own_rig(tmp_path) as rig, dial(rig) as wire:
        await wire.send(sent)
        answer = await wire.answer()
        assert await wire.closed()
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["server"] == "oxyy-proxy"
    assert re.fullmatch(r"req_[0-9a-f]{27}", answer.headers["x-request-id"])
    assert KEY.encode() not in answer.body
    assert KEY not in str(answer.headers)
    assert rig.rows() == []
    assert not rig.simulator.received
    written = "".join(capfd.readouterr())
    assert '"event":"stopped"' in written
    assert KEY not in written
    assert "Traceback" not in written


async def test_a_client_that_leaves_while_it_sends_is_no_defect(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async with own_rig(tmp_path) as rig, dial(rig) as wire:
        await wire.send(_head("Content-Length: 1000", "Expect: 100-continue"))
        await wire.head()  # 100 Continue: the body is being read
        (handling,) = rig.proxy.services.running
        await wire.send(b"{")
        wire.reset()
        await asyncio.wait_for(asyncio.shield(handling), 10)
        assert rig.rows() == []
    written = "".join(capfd.readouterr())
    assert "Traceback" not in written
    assert written.count('"event":"request"') == 1
    assert '"error_code":"invalid_request"' in written


@pytest.mark.parametrize(
    ("head", "body"),
    [("Content-Length: 1000", b'{"model":'), ("Transfer-Encoding: chunked", b"4\r\n{   \r\nzz\r\n}")],
    ids=["silent", "malformed"],
)
async def test_a_body_that_does_not_come_is_not_waited_for_without_end(
    make_rig: Callable[..., Any], head: str, body: bytes
) -> None:
    rig: Rig = await make_rig(gateway="version: 1\nretry: {idle: 100ms}\n")
    async with dial(rig) as wire:
        await wire.send(_head(head, "Expect: 100-continue"))
        await wire.head()
        await wire.send(body[:8])
        await wire.send(body[8:])
        assert await wire.closed()
    assert not rig.proxy.services.running
    assert rig.rows() == []


async def test_a_good_request_follows_a_broken_one_on_a_new_connection(rig: Rig) -> None:
    async with dial(rig) as wire:
        await wire.send(b"\x00\r\n\r\n" + request(QUESTION))
        assert (await wire.answer()).status == 400
        assert await wire.closed()  # what stands behind broken HTTP is not read as a request
    async with dial(rig) as wire:
        await wire.send(request(QUESTION))
        assert (await wire.answer()).status == 200
    await ended_rows(rig)


async def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartupError, match=rf"^cannot listen on 127.0.0.1:{port}: the port is in use; choose"):
            await Listener(_nothing).open("127.0.0.1", port)


@pytest.mark.parametrize("host", ["256.1.1.1", "no-such-host.invalid", "192.0.2.1", "a..b", "x" * 70 + ".y"])
async def test_a_host_that_cannot_be_listened_on_is_one_line(host: str) -> None:
    with pytest.raises(StartupError, match=r"^cannot listen on ") as caught:
        await Listener(_nothing).open(host, 0)
    assert "\n" not in str(caught.value)


async def test_the_address_is_what_is_really_listened_on() -> None:
    listener = Listener(_nothing)
    await listener.open("127.0.0.1", 0)
    try:
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", listener.address)
    finally:
        await listener.close()


async def test_an_ipv6_address_is_in_brackets() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    listener = Listener(_nothing)
    await listener.open("::1", 0)
    try:
        assert re.fullmatch(r"\[::1\]:[1-9]\d+", listener.address)
    finally:
        await listener.close()


async def test_no_new_connections_and_idle_ones_are_closed_once_it_stops_accepting(rig: Rig) -> None:
    async with dial(rig) as idle:
        await idle.send(request(QUESTION))
        assert (await idle.answer()).status == 200
        rig.proxy.public.stop_accepting()
        assert await idle.closed()
    with pytest.raises(ConnectionRefusedError):
        async with dial(rig):
            pass


async def _nothing(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()
