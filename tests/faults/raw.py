"""An upstream on a bare socket that says what a script tells it to, and counts and bills what it was asked."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import ssl
import struct
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.outcome import Call

Script = Sequence[str]

USAGE = {"prompt_tokens": 100, "completion_tokens": 1000}
COST_NUSD = {
    "gpt-5": 100 * 1_250 + 1000 * 10_000,
    "gpt-5-mini": 100 * 250 + 1000 * 2_000,
    "tts-1-hd": 39 * 30_000,
    "tts-1": 39 * 15_000,
    "whisper-1": 200_000,
}
"""What `USAGE`, or the answer to the question, costs at the prices of `questions.py`."""

_SSE_LINES = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\r\nx-request-id: (\S+)\r\n", re.IGNORECASE)
_MODEL = re.compile(rb'"model"(?:\s*:\s*"|\r\n\r\n)([\w.-]+)')


def _event(content: str) -> bytes:
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "delta": {"content": content}}]}).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer_json(text: str = "Hello") -> bytes:
    """A whole chat answer that reports `USAGE`."""
    message = {"role": "assistant", "content": text}
    return json.dumps({"choices": [{"index": 0, "message": message}], "usage": USAGE}).encode()


def _whole(text: str, *lines: str, extra: int = 0, body: bytes | None = None) -> bytes:
    body = answer_json(text or "Hello") if body is None else body
    head = ["HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body) + extra}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


SAYS: dict[str, Callable[[str], bytes]] = {
    "json": _whole,
    "json-of": lambda size: _whole("x" * int(size)),
    "half-json-of": lambda size: _whole("x" * int(size))[: int(size) // 2],
    "json-longer": lambda more: _whole("", extra=int(more)),
    "json-shorter": lambda less: _whole("", extra=-int(less)),
    "json-zipped": lambda size: _whole("", "Content-Encoding: gzip", body=gzip.compress(answer_json("x" * int(size)))),
    "sound": lambda size: _sound(int(size)),
    "sound-zipped": lambda size: _sound(int(size), "Content-Encoding: gzip"),
    "status": lambda said: _status(said, json.dumps({"error": {"message": "no", "type": "server_error"}})),
    "status-usage": lambda said: _status(said, json.dumps({"error": {"message": "no"}, "usage": USAGE})),
    "sse": lambda _: f"{_SSE_LINES}Transfer-Encoding: chunked\r\n\r\n".encode(),
    "sse-zipped": lambda _: (
        f"{_SSE_LINES}Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + _chunk(gzip.compress(_event("one") + b"data: [DONE]\n\n"))
    ),
    "sse-open": lambda _: f"{_SSE_LINES}Connection: close\r\n\r\n".encode(),
    "event": lambda text: _chunk(_event(text)),
    "event-of": lambda size: _chunk(_event("x" * int(size))),
    "part-of": lambda size: _chunk(_event("x" * int(size))[:-5]),
    "data": lambda text: _chunk(text.encode("latin-1").decode("unicode_escape").encode("latin-1")),
    "usage": lambda _: _chunk(b'data: {"choices": [], "usage": %b}\n\n' % json.dumps(USAGE).encode()),
    "done": lambda _: _chunk(b"data: [DONE]\n\n"),
    "end": lambda _: b"0\r\n\r\n",
}
"""`@name argument` -> what is sent. Other actions: `@reset`, `@close`, `@hang`, `@wait MS`, `@bill` (the work was done,
whatever is said of it) and `@read` (the rest of the request)."""

BILLED = frozenset(
    {
        "json",
        "json-of",
        "half-json-of",
        "json-longer",
        "json-shorter",
        "json-zipped",
        "sound",
        "sound-zipped",
        "usage",
        "bill",
    }
)
"""Steps that say, or mean, that the work was done."""


def _sound(size: int, *lines: str) -> bytes:
    body = bytes(size)
    if lines:
        body = gzip.compress(body)
    head = ["HTTP/1.1 200 OK", "Content-Type: audio/mpeg", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _status(status: str, body: str) -> bytes:
    return (
        f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@dataclass
class RawUpstream:
    """`calls`: the requests whose head has come. `billed`: nano-USD by request id and model. `open`: connections."""

    scripts: Sequence[Script]
    keep: bool = False
    read: int | None = None
    url: str = ""
    connections: int = 0
    open: int = 0
    calls: list[Call] = field(default_factory=list)
    billed: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))

    def script(self, head: bytes) -> Script:
        """What is said to the request that has just come: the n-th script, or the last."""
        return self.scripts[min(len(self.calls), len(self.scripts)) - 1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while await self._one(reader, writer) and self.keep:
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection may carry another."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(found[1]) if (found := _LENGTH.search(head)) else 0
        now = length if self.read is None else min(self.read, length)
        body = await reader.readexactly(now)
        model = found[1].decode() if (found := _MODEL.search(body)) else ""
        self.calls.append(Call(model))
        request_id = found[1].decode() if (found := _REQUEST_ID.search(head)) else ""
        for step in self.script(head):
            name, _, argument = step[1:].partition(" ")
            if not step.startswith("@"):
                writer.write(step.encode("latin-1"))
            elif name in SAYS:
                writer.write(SAYS[name](argument))
            elif name == "read":
                await reader.readexactly(length - now)
            elif not await self._act(name, argument, reader, writer):
                return False
            if name in BILLED and step.startswith("@"):
                self.billed[request_id][model] = self.billed[request_id].get(model, 0) + COST_NUSD[model]
            await writer.drain()
        return True

    async def _act(self, name: str, argument: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """What is no sending; whether the script goes on."""
        if name == "wait":
            await asyncio.sleep(int(argument) / 1000)
        elif name == "hang":
            await reader.read()  # until the proxy leaves
            return False
        elif name == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            return False
        elif name == "close":
            return False
        elif name != "bill":
            raise ValueError(f"no action @{name}")
        return True


@asynccontextmanager
async def raw_upstream(upstream: RawUpstream, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawUpstream]:
    """The upstream, listening at its `url`."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        await upstream.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    upstream.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield upstream
    finally:
        server.close()
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def self_signed(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS that nobody has reason to trust."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
