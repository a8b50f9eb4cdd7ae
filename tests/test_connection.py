"""A client's connection: what is answered to broken HTTP, and who is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from oxyy_proxy import connection
from oxyy_proxy.listener import Handler, Listener
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


async def test_a_body_that_does_not_come_is_not_waited_for_without_end(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway="version: 1\nretry: {idle: 100ms}\n")
    async with dial(rig) as wire:
        await wire.send(_head("Content-Length: 1000", "Expect: 100-continue"))
        await wire.head()
        await wire.send(b'{"model":')
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


async def test_a_head_that_does_not_end_is_cut_in_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.2)
    async with dial(rig) as fresh, dial(rig) as begun, dial(rig) as kept:
        await begun.send(b"POST /v1/chat")
        await kept.send(request(QUESTION))
        assert (await kept.answer()).status == 200
        await kept.send(b"P")
        assert await kept.closed()
        assert await begun.closed()
        assert await fresh.closed()


async def test_a_connection_that_is_kept_may_wait_longer_than_a_head_may_take(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.1)
    async with dial(rig) as wire, dial(rig) as fresh:
        await wire.send(request(QUESTION))
        assert (await wire.answer()).status == 200
        assert await fresh.closed()  # the time is over, for one that it counts for
        await wire.send(request(QUESTION))
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize("pieces", [(b"4\r\n{   \r\nzz\r\n",), (b"4\r\n{   \r", b"\nzz\r\n"), (b"4\r\n{   ", b"}\r\n")])
async def test_what_is_malformed_within_a_body_is_told_at_once(rig: Rig, pieces: tuple[bytes, ...]) -> None:
    async with dial(rig) as wire:
        await wire.send(_head("Transfer-Encoding: chunked", "Expect: 100-continue"))
        await wire.head()  # 100 Continue: the body is being read
        for piece in pieces:
            await wire.send(piece)
            await asyncio.sleep(0.01)  # a packet each
        assert (await wire.answer()).error["code"] == "invalid_request"
        assert await wire.closed()
    assert rig.rows() == []


async def test_a_client_that_has_ended_its_side_is_answered_and_then_closed(rig: Rig) -> None:
    async with dial(rig) as wire:
        await wire.send(request({**QUESTION, "simulate": {"delay_ms": 100}}) + request(QUESTION))
        wire.writer.write_eof()
        assert [(await wire.answer()).status for _ in range(2)] == [200, 200]
        assert await wire.closed()
    await ended_rows(rig, 2)


async def test_the_trailer_of_one_request_is_no_header_of_the_next(rig: Rig) -> None:
    poisoned = _head("Transfer-Encoding: chunked") + CHUNKED[:-2] + b"Authorization: Bearer other\r\n\r\n"
    async with dial(rig) as wire:
        await wire.send(poisoned + request(QUESTION))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await wire.closed()
    await ended_rows(rig)


async def test_a_body_that_was_not_asked_for_is_not_taken_for_the_next_request(rig: Rig) -> None:
    async with dial(rig) as wire:
        await wire.send(_head("Content-Length: 1000", "Expect: 100-continue").replace(KEY.encode(), b"wrong"))
        answer = await wire.answer()
    assert (answer.status, answer.headers["connection"]) == (401, "close")


async def handled_by(handle: Handler, *sent: bytes) -> list[bytes]:
    """What comes back to each of several connections, up to its end."""
    listener = Listener(handle)
    await listener.open("127.0.0.1", 0)
    host, _, port = listener.address.rpartition(":")
    answers = []
    try:
        for each in sent:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(each)
            async with asyncio.timeout(5):
                answers.append(await reader.read())
            writer.close()
    finally:
        await listener.close()
    return answers


async def test_requests_of_one_connection_are_handled_one_after_the_other_in_its_task() -> None:
    begun: list[tuple[str, object]] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        begun.append((request.path, asyncio.current_task()))
        assert request.task is asyncio.current_task()
        await asyncio.sleep(0)
        assert begun[-1][0] == request.path  # nobody came between
        return web.Response(text=request.path)

    ask = "GET /{} HTTP/1.1\r\nHost: h\r\nConnection: {}\r\n\r\n"
    both = (ask.format("a", "keep-alive") + ask.format("b", "close")).encode()
    (answer,) = await handled_by(handle, both)
    assert answer.index(b"/a") < answer.index(b"/b")
    assert [path for path, _ in begun] == ["/a", "/b"]
    assert begun[0][1] is begun[1][1]


async def test_a_defect_while_an_answer_is_written_ends_the_connection_and_no_other() -> None:
    class Broken(web.Response):
        async def write_eof(self, data: bytes = b"") -> None:
            raise ValueError("a defect")

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return Broken() if request.path == "/broken" else web.Response(text="fine")

    ask = b"GET /%b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    broken, whole = await handled_by(handle, ask % b"broken", ask % b"whole")
    assert whole.endswith(b"fine")
    assert b"a defect" not in broken


async def test_a_body_that_nobody_wants_is_read_so_that_the_answer_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="no thanks")

    head = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    monkeypatch.setattr(connection, "LINGER_S", 0.2)
    whole, short = await handled_by(handle, head % 300_000 + bytes(300_000), head % 300_000 + b"x")
    assert whole.endswith(b"no thanks")
    assert short.endswith(b"no thanks")  # and what is missing of the body is not waited for without end


async def test_the_rest_of_a_body_is_not_waited_for_where_the_client_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 60.0)
    serving: list[asyncio.Task[None]] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        serving.append(request.task)
        assert request.transport is not None
        request.transport.abort()
        return web.Response(text="too late")

    with contextlib.suppress(ConnectionResetError):
        await handled_by(handle, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{")
    await asyncio.wait_for(asyncio.wait(serving), 5)
