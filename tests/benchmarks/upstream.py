"""A stub of the upstream that costs next to nothing: `python -m tests.benchmarks.upstream PORT`.

It reads as much HTTP as the benchmark sends (POST with Content-Length, keep-alive) and picks the answer by the
workload's marker in the body.
"""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

from tests.benchmarks.workloads import (
    BURST,
    DONE,
    EVENT_GAP_S,
    EVENTS,
    JSON,
    JSON_ANSWER,
    OPEN,
    PACED,
    STREAM_EVENTS,
    USAGE_EVENT,
    sizes,
)

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_MARKER = re.compile(rb'"user": *"(bench-[a-z0-9-]+)"')
_ASKS_USAGE = re.compile(rb'"include_usage": *true')
_OPEN_GAP_S = 1.0


def _whole(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    return head + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_WHOLE = {JSON.marker.encode(): _whole(b"200 OK", JSON_ANSWER)} | {
    each.marker.encode(): _whole(b"200 OK", each.answer) for each in sizes() if each.answer and not each.body_bytes
}
_REFUSED = _whole(b"400 Bad Request", b'{"error":{"message":"not a request of the benchmark"}}')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_CHUNKS = tuple(_chunk(event) for event in STREAM_EVENTS)
_USAGE_CHUNK = _chunk(USAGE_EVENT)
_ENDS = {
    False: _chunk(DONE) + b"0\r\n\r\n",
    True: _USAGE_CHUNK + _chunk(DONE) + b"0\r\n\r\n",
}
_BURSTS = {usage: _STREAM_HEAD + b"".join(_CHUNKS) + end for usage, end in _ENDS.items()}


def _asks_usage(body: bytes) -> bool:
    return _ASKS_USAGE.search(body) is not None


class Upstream(asyncio.Protocol):
    """One connection from a target."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _LENGTH.search(self._received, 0, head_end)
        if length is None:
            self._transport.write(_REFUSED)
            self._transport.close()
            return
        body_end = head_end + 4 + int(length[1])
        if len(self._received) >= body_end:
            body = bytes(self._received[head_end + 4 : body_end])
            del self._received[:body_end]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        found = _MARKER.search(body)
        marker = found[1] if found else b""
        if marker in _WHOLE:
            self._transport.write(_WHOLE[marker])
        elif marker == BURST.marker.encode():
            self._transport.write(_BURSTS[_asks_usage(body)])
        elif marker == PACED.marker.encode():
            self._transport.write(_STREAM_HEAD + _CHUNKS[0])
            self._pace(self._loop.time(), 1, _asks_usage(body))
        elif marker == OPEN.marker.encode():
            self._transport.write(_STREAM_HEAD + _CHUNKS[0])
            self._tick()
        else:
            self._transport.write(_REFUSED)

    def _pace(self, began: float, index: int, usage: bool) -> None:
        """Events come at fixed instants from the first, so that a late one does not delay the rest."""
        self._timer = self._loop.call_at(began + index * EVENT_GAP_S, self._paced, began, index, usage)

    def _paced(self, began: float, index: int, usage: bool) -> None:
        # Each event in a packet of its own, the one with the usage too: how soon TCP acknowledges the others depends on
        # the largest, and a target that asks for usage would pay for that with every event.
        last = EVENTS if usage else EVENTS - 1
        data = _USAGE_CHUNK if index == EVENTS else _CHUNKS[index]
        if index == last:
            self._transport.write(data + _ENDS[False])
        else:
            self._transport.write(data)
            self._pace(began, index + 1, usage)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_OPEN_GAP_S, self._ticked)

    def _ticked(self) -> None:
        self._transport.write(_CHUNKS[1])
        self._tick()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
