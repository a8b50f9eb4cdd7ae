"""Bare sockets on both sides of the proxy: a client that sees every byte, an upstream that misbehaves as told."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oxyy_proxy.ledger.sqlite_reads import verify
from tests.rig import KEY, Rig

WAIT_S = 10.0
"""The longest that a test waits for anything."""

QUESTION = {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello!"}]}


@dataclass(frozen=True)
class Heard:
    """An answer as it came: header names in lower case; `whole` where HTTP calls the body complete."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]  # type: ignore[no-any-return]


class Wire:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S)
        first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
        pairs = (line.partition(": ") for line in lines)
        return int(first.split(" ")[1]), {name.lower(): value for name, _, value in pairs}

    async def answer(self) -> Heard:
        status, headers = await self.head()
        pieces: list[bytes] = []
        whole = True
        try:
            async with asyncio.timeout(WAIT_S):
                if "chunked" in headers.get("transfer-encoding", ""):
                    while piece := await self.chunk():
                        pieces.append(piece)
                elif "content-length" in headers:
                    pieces.append(await self.reader.readexactly(int(headers["content-length"])))
                else:
                    pieces.append(await self.reader.read())
        except asyncio.IncompleteReadError as cut:
            pieces.append(cut.partial)
            whole = False
        except ConnectionError:
            whole = False
        return Heard(status, headers, b"".join(pieces), whole)

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty for the last."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def closed(self) -> bool:
        """Whether the proxy closes the connection, without another byte."""
        try:
            return await asyncio.wait_for(self.reader.read(1), WAIT_S) == b""
        except ConnectionError:
            return True

    def reset(self) -> None:
        """Drop the connection so that the proxy sees it reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def dial(rig: Rig, *, receive_buffer: int | None = None) -> AsyncIterator[Wire]:
    """A connection to the public listener; with a small `receive_buffer` what is not read soon backs up."""
    host, port = rig.proxy.public.address.split(":")
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    except OSError:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 2**16)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)  # connection_lost is called


def request(
    body: object = None,
    *,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    key: str | None = KEY,
    version: str = "1.1",
    headers: dict[str, str] | None = None,
) -> bytes:
    """A request's bytes; a `body` that is not bytes is sent as JSON, None: there is none."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = {"Host": "proxy", "Content-Type": "application/json"}
    if key is not None:
        lines["Authorization"] = f"Bearer {key}"
    if body is not None:
        lines["Content-Length"] = str(len(raw))
    lines |= headers or {}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode("latin-1") + raw


async def ask(rig: Rig, body: object = None, **how: Any) -> Heard:
    """One request on a connection of its own."""
    async with dial(rig) as wire:
        await wire.send(request(body, **how))
        return await wire.answer()


async def ask_chat(rig: Rig, **members: Any) -> Heard:
    return await ask(rig, {**QUESTION, **members})


@asynccontextmanager
async def own_rig(folder: Path, **options: Any) -> AsyncIterator[Rig]:
    """A rig that is stopped within the test: what it writes may then be looked at through capfd."""
    rig = Rig(folder, **options)
    await rig.start()
    try:
        yield rig
    finally:
        await rig.stop()


@dataclass
class RawUpstream:
    """What `raw_upstream` runs. `seen`: the requests, head and body apart."""

    url: str = ""
    connections: int = 0
    seen: list[tuple[bytes, bytes]] = field(default_factory=list)


RawAnswer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def raw_upstream(
    *answers: RawAnswer, keep: bool = False, early: bool = False, host: str = "127.0.0.1"
) -> AsyncIterator[RawUpstream]:
    """An upstream that answers its n-th request as the n-th of `answers` writes, the last for all that follow; it then
    closes the connection, unless it is to `keep` it. `early`: it answers the first byte."""
    upstream = RawUpstream()
    running: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running[writer] = asyncio.current_task()
        upstream.connections += 1
        try:
            if early and await reader.read(1):
                await answers[0](writer)
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                upstream.seen.append((head, await reader.readexactly(length)))
                await answers[min(len(upstream.seen), len(answers)) - 1](writer)
                if not keep or writer.is_closing():
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0)
    name = f"[{host}]" if ":" in host else host
    upstream.url = f"http://{name}:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        for writer, task in running.items():
            writer.transport.abort()
            if task is not None:
                task.cancel()
        await asyncio.gather(*filter(None, running.values()), return_exceptions=True)


def says(data: bytes) -> RawAnswer:
    """An answer of exactly these bytes."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


def http(body: bytes, status: str = "200 OK", content_type: str = "application/json", *lines: str) -> bytes:
    """A well-formed answer of an upstream."""
    head = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
"""The head of a stream whose end is the connection's."""


def event(content: str = "", usage: dict[str, int] | None = None) -> bytes:
    """One event of a chat stream; with `usage` the one that reports it."""
    choices = [] if usage else [{"index": 0, "delta": {"content": content}, "finish_reason": None}]
    return b"data: " + json.dumps({"choices": choices, "usage": usage}).encode() + b"\n\n"


async def until(true: Callable[[], bool], every_s: float = 0.005) -> None:
    """Return once `true()`; for what cannot be waited for itself. Raises TimeoutError."""
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110 - nobody sets an event
            await asyncio.sleep(every_s)


async def rows_until(rig: Rig, true: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    """The ledger's rows once `true` of them. Raises TimeoutError."""
    await until(lambda: true(rig.rows()))
    return rig.rows()


async def ended_rows(rig: Rig, count: int = 1) -> list[dict[str, Any]]:
    """The rows once there are `count` of them and none is open."""
    return await rows_until(rig, lambda rows: len(rows) == count and all(row["state"] != "open" for row in rows))


async def limits(rig: Rig, key: str = KEY) -> list[dict[str, Any]]:
    """What GET /v1/usage says of the limits."""
    async with rig.client.get(f"{rig.url}/usage", headers={"Authorization": f"Bearer {key}"}) as answer:
        assert answer.status == 200
        return (await answer.json())["limits"]  # type: ignore[no-any-return]


async def assert_books_are_right(rig: Rig) -> None:
    """Every invariant of the ledger holds, and no row is open."""
    verdict = await verify(f"sqlite:///{rig.ledger_path}")
    assert verdict.broken == ()
    assert verdict.open == 0
