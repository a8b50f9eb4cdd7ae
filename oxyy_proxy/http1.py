"""One HTTP/1.1 connection to the upstream: a protocol on asyncio's transports around the parser of httptools.

Relaying is what this project exists for, and half of what a request cost was spent in a general client. Strict where
a lenient client loses money: a body that ends before its Content-Length or its last chunk is cut off, not complete.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from oxyy_proxy.errors import UpstreamBadResponse, UpstreamFailure, UpstreamReset, UpstreamTimeout

MAX_HEAD_BYTES = 64 * 1024
"""The largest head of an answer, all its header lines together."""

HIGH_WATER_BYTES = 256 * 1024
"""Bytes of a body that nobody has taken yet, at which the upstream is no longer read."""

_CUT = "The upstream cut the connection before its answer was complete. Retry."

Sink = Callable[[bytes], bool]
"""Takes a piece of a body; whether it wants more."""


class Incoming:
    """An answer as it comes in: its head, and the bytes of its body that nobody has taken yet. While `since`, of
    `time.monotonic()`, is set it may take `limit_s` from then (see `sweep.Waiting`). `waited_s`: time spent waiting for
    the body since it flows."""

    __slots__ = (
        "_body",
        "_connection",
        "_flowing",
        "_sink",
        "_sink_error",
        "_size",
        "_waiter",
        "complete",
        "failure",
        "has_head",
        "headers",
        "limit_s",
        "since",
        "status",
        "waited_s",
    )

    def __init__(self, connection: Connection, limit_s: float) -> None:
        self.limit_s = limit_s
        self.since: float | None = None
        self.waited_s = 0.0
        self._connection = connection
        self._flowing = False
        self._body: list[bytes] = []
        self._size = 0
        self._sink: Sink | None = None
        self._sink_error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.has_head = False
        self.complete = False
        self.failure: UpstreamFailure | None = None

    def flow(self, idle_s: float) -> None:
        """The answer has begun: from here on each chunk may take `idle_s`, instead of all together what was set."""
        self._flowing = True
        self.since = None
        self.limit_s = idle_s

    async def chunk(self) -> bytes:
        """What has come of the body since, at least a byte; empty at its end. Raises, once what came before it has been
        taken, UpstreamReset (cut off), UpstreamTimeout (too late) or UpstreamBadResponse (not HTTP)."""
        if not self._flowing:
            return await self._next()
        self.since = started = monotonic()
        try:
            return await self._next()
        finally:
            self.since = None
            self.waited_s += monotonic() - started

    async def _next(self) -> bytes:
        while not self._body:
            if self.complete:
                return b""
            if self.failure is not None:
                raise self.failure
            await self.something()
        return self.taken()

    def taken(self) -> bytes:
        """What has come of the body since; empty where nothing has."""
        body = self._body
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        if self._size > HIGH_WATER_BYTES:
            self._connection.resume_reading()
        self._size = 0
        return data

    async def push(self, sink: Sink) -> bool:
        """Hand on to `sink` what comes, all of one read at once and without a switch of tasks, until it says that it
        wants no more or the body ends; whether it has ended. Called after `flow`: `since` is then when the last came.
        Raises as `chunk` does, or what `sink` raised."""
        self.since = started = monotonic()
        try:
            if self._body and not sink(self.taken()):
                return self.complete
            self._sink = sink
            while self._sink is not None and not self.complete:
                if self.failure is not None:
                    raise self.failure
                await self.something()
            if self._sink_error is not None:
                raise self._sink_error
            return self.complete and not self._body
        finally:
            self._sink = self.since = None
            self.waited_s += monotonic() - started

    @property
    def refuses(self) -> bool:
        """Nothing more of the request is wanted: it failed, its answer is an error, or has ended already."""
        return self.failure is not None or self.complete or (self.has_head and self.status >= 400)

    def something(self) -> asyncio.Future[None]:
        """To be awaited: done when anything has happened to it."""
        self._waiter = waiter = self._connection.loop.create_future()
        return waiter

    def keep(self, data: bytes) -> None:
        """A piece of the body has come, and nobody pushes."""
        self._body.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER_BYTES:
            self._connection.pause_reading()

    def fail(self, failure: UpstreamFailure) -> None:
        """What comes after what was received: a failure instead of more. The first one counts."""
        if not self.complete and self.failure is None:
            self.failure = failure
            self.wake()

    def expire(self) -> None:
        """The time for it, or for its next bytes, is over."""
        self.since = None
        self.fail(UpstreamTimeout("The upstream took too long to answer. Retry."))

    def wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time. `idle_since` is its time of release."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._incoming: Incoming | None = None
        self._head_bytes = 0
        self._interim = False
        self._in_body = False
        self._keep_alive = False
        self._full = False
        self._cut_short = False
        self._lost = False
        self._pieces: list[bytes] = []  # of a body, from one read
        self.on_body = self._pieces.append  # the parser calls it for every chunk: no line of Python is run for one
        self._parser = HttpResponseParser(self)  # ready for the next answer whenever the connection is

    def send(self, request: bytes, body: bytes, incoming: Incoming) -> None:
        """Write a request, whose answer is `incoming`."""
        assert self._transport is not None
        self._head_bytes = 0
        self._interim = self._in_body = self._keep_alive = self._cut_short = False
        self._incoming = incoming
        if self._lost:  # closed as soon as it was made: nobody would tell later
            incoming.fail(UpstreamReset(_CUT))
        elif len(body) < HIGH_WATER_BYTES:
            self._transport.write(request + body)
        else:
            self._transport.writelines((request, body))

    async def send_body(self, pieces: AsyncIterator[bytes]) -> None:
        """Write the body of the request just sent, as fast as it is taken. An error, or a failure, before its end ends
        the sending: nobody reads the rest. An answer that only begins early does not."""
        incoming, transport = self._incoming, self._transport
        assert incoming is not None
        assert transport is not None
        async for piece in pieces:
            while self._full and not incoming.refuses:
                await incoming.something()
            if incoming.refuses:
                self._cut_short = True
                return
            transport.write(piece)

    def release(self) -> bool:
        """The exchange is over. Whether the connection may carry another one; if not it is dropped."""
        incoming, self._incoming = self._incoming, None
        self._in_body = False
        transport = self._transport
        if (
            incoming is not None
            and transport is not None
            and incoming.complete
            and self._keep_alive
            and not self._cut_short
            and not self._lost
            and not transport.is_closing()
            and not transport.get_write_buffer_size()  # answered before it had read the whole request
        ):
            if incoming._size > HIGH_WATER_BYTES:
                self.resume_reading()
            self.idle_since = monotonic()
            return True
        self.drop()
        return False

    @property
    def usable(self) -> bool:
        return not self._lost and self._transport is not None and not self._transport.is_closing()

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None and not self._lost:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._lost and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- from the transport ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._incoming is not None:
            self._incoming.wake()

    def data_received(self, data: bytes) -> None:
        if not self._in_body and not self._is_wanted(data):
            return
        broken = False
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            broken = True
        incoming, pieces = self._incoming, self._pieces
        assert incoming is not None
        if pieces:
            body = pieces.pop()
            if pieces:
                body = b"".join([*pieces, body])
                pieces.clear()
            sink = incoming._sink
            if sink is None:
                incoming.keep(body)
            else:
                incoming.since = monotonic()
                try:
                    if not sink(body):
                        incoming._sink = None
                    elif self._in_body and not broken:
                        return
                except Exception as error:  # noqa: BLE001 - it belongs to the task that pushes, not to the event loop
                    incoming._sink_error, incoming._sink = error, None
        incoming.wake()
        if broken:
            # More than was announced leaves the answer whole (`fail` then does nothing) and the connection useless.
            self._keep_alive = False
            self._break(UpstreamBadResponse("The upstream's answer was not valid HTTP. Retry."))

    def _is_wanted(self, data: bytes) -> bool:
        """Whether this may be the rest of a head. If not it has been dealt with."""
        if self._incoming is None or self._incoming.complete:
            self._keep_alive = False
            self.drop()  # bytes that answer nothing: what follows them cannot be trusted
            return False
        room = MAX_HEAD_BYTES - self._head_bytes
        if not room:
            self._break(UpstreamBadResponse("The head of the upstream's answer is too large. Retry."))
            return False
        if len(data) > room:  # what is large may be the body behind the head
            self.data_received(data[:room])
            self.data_received(data[room:])
            return False
        self._head_bytes += len(data)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        incoming = self._incoming
        if incoming is None:
            return
        if exc is None and incoming.has_head and self._ends_by_close():
            incoming.complete = True
            incoming.wake()
        else:
            incoming.fail(UpstreamReset(_CUT))

    def _ends_by_close(self) -> bool:
        """Only an answer without a length of its own may end with its connection (RFC 9112, section 6.3)."""
        assert self._incoming is not None
        headers = self._incoming.headers
        return b"content-length" not in headers and b"transfer-encoding" not in headers

    def _break(self, failure: UpstreamFailure) -> None:
        if self._incoming is not None:
            self._incoming.fail(failure)
        self.drop()

    # --- from the parser ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._incoming is None or self._incoming.complete:
            raise HttpParserError("an answer that nobody asked for")  # else it would overwrite the one that was

    def on_header(self, name: bytes, value: bytes) -> None:
        incoming = self._incoming
        if incoming is not None and not incoming.has_head:  # else a trailer, which nobody needs
            incoming.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        incoming = self._incoming
        assert incoming is not None
        status, keep_alive = self._parser.get_status_code(), self._parser.should_keep_alive()
        # Only in 1.1 a connection is kept without a word of it; the parser makes a text of its version each time.
        is_11 = keep_alive and b"connection" not in incoming.headers
        if not 100 <= status <= 599 or not (is_11 or self._parser.get_http_version() in ("1.1", "1.0")):
            raise HttpParserError("no status line of HTTP/1.1")  # the parser takes 2.0, 0.9 and a status of 0
        self._interim = 100 <= status < 200
        if self._interim:
            incoming.headers.clear()
            return
        incoming.status = status
        incoming.has_head = self._in_body = True
        self._keep_alive = keep_alive

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        incoming = self._incoming
        assert incoming is not None
        incoming.complete = True
        self._in_body = False
