"""A running simulator, the official SDK pointed at it, and a bare socket that sees what really happened."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import openai
import orjson
import pytest

from oxyy_proxy.simulator import Simulator

KEY = "sk-org"


@dataclass(frozen=True)
class Said:
    """A whole answer."""

    status: int
    content_type: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> str:
        """The message of a refusal, which is to be a 400."""
        assert self.status == 400, self
        return self.json["error"]["message"]

    @property
    def events(self) -> list[Any]:
        """The events of a stream, parsed; `[DONE]` must be the last and is left out."""
        *events, done, rest = self.body.split(b"\n\n")
        assert (done, rest) == (b"data: [DONE]", b"")
        return [orjson.loads(event.removeprefix(b"data: ")) for event in events]


@dataclass(frozen=True)
class Heard:
    """Everything a socket received until its end, and how it ended: `eof` or `reset`."""

    data: bytes
    end: str

    @property
    def head(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1])

    @property
    def body(self) -> bytes:
        """The body; of a chunked one what is in its chunks, complete or not."""
        raw = self.data.partition(b"\r\n\r\n")[2]
        if b"chunked" not in self.head:
            return raw
        out = b""
        while raw:
            size, _, raw = raw.partition(b"\r\n")
            out += raw[: int(size or b"0", 16)]
            raw = raw[int(size or b"0", 16) + 2 :]
        return out

    @property
    def whole(self) -> bool:
        """Whether HTTP calls the body complete."""
        if b"chunked" in self.head:
            return self.data.endswith(b"0\r\n\r\n")
        length = self.head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return len(self.body) == int(length)

    @property
    def events(self) -> list[bytes]:
        return self.body.split(b"\n\n")[:-1]


Ask = Callable[..., Awaitable[Heard]]
Post = Callable[..., Awaitable[Said]]


async def dial(
    sim: Simulator,
    body: dict[str, object],
    connection: str = "close",
    sent: int | None = None,
    path: str = "/v1/chat/completions",
) -> socket.socket:
    """A connection on which this request has just been sent; `sent` bytes of its body, if not all."""
    raw = orjson.dumps(body)
    sock = socket.socket()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        await loop.sock_connect(sock, ("127.0.0.1", int(sim.origin.rpartition(":")[2])))
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Connection: {connection}\r\nContent-Length: {len(raw)}\r\n\r\n"
        await loop.sock_sendall(sock, head.encode() + raw[:sent])
    except BaseException:
        sock.close()
        raise
    return sock


async def hear(sock: socket.socket) -> Heard:
    """Reads to the end and closes."""
    data = b""
    with sock:
        while True:
            try:
                more = await asyncio.get_running_loop().sock_recv(sock, 65536)
            except ConnectionResetError:
                return Heard(data, "reset")
            if not more:
                return Heard(data, "eof")
            data += more


def question(**more: object) -> dict[str, object]:
    return {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello!"}], **more}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    simulator = Simulator(org_key=KEY)
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def client(sim: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=KEY, base_url=sim.url, max_retries=0) as sdk:
        yield sdk


@pytest.fixture
async def http(sim: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(sim.origin, headers={"Authorization": f"Bearer {KEY}"}) as session:
        yield session


@pytest.fixture
def post(http: aiohttp.ClientSession) -> Post:
    """Posts below /v1: `await post("/images/edits", {JSON})`, or with `files` a form of texts and files.

    A file is (part, filename, bytes); the members of the body are the texts.
    """

    async def go(path: str, body: dict[str, Any], files: list[tuple[str, str, bytes]] | None = None) -> Said:
        sent: dict[str, Any] = {"json": body}
        if files is not None:
            sent = {"data": (form := aiohttp.FormData(default_to_multipart=True))}
            for name, value in body.items():
                form.add_field(name, value if isinstance(value, str) else orjson.dumps(value).decode())
            for name, filename, data in files:
                form.add_field(name, io.BytesIO(data), filename=filename, content_type="application/octet-stream")
        async with http.post(f"/v1{path}", **sent) as answer:
            body_bytes = await answer.read()
            return Said(answer.status, answer.headers["Content-Type"], answer.headers, body_bytes)

    return go


@pytest.fixture
def ask(sim: Simulator) -> Ask:
    """Asks a chat question on a bare socket: `await ask(stream=True, ...)`."""

    async def go(**more: object) -> Heard:
        return await hear(await dial(sim, question(**more)))

    return go
