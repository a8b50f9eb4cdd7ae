"""A listening socket with aiohttp's low-level server behind it: who is let in, for how long, and what is answered when
HTTP itself is broken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import _ErrInfo

from oxyy_proxy.errors import MalformedRequest, Overloaded, StartupError
from oxyy_proxy.rules.requestid import request_id

SERVER = "oxyy-proxy"
"""What answers call themselves; aiohttp would tell its version and Python's."""

BACKLOG = 1024
ACCEPTS_AT_ONCE = 64

KEEPALIVE_S = 75.0
"""How long a connection may wait for its next request."""

HEAD_S = 15.0
"""How long a head may take, from its first byte; and a new connection until its first head is there."""

STALLED_S = 60.0
"""How long a client may take nothing of an answer that waits for it: the default of a policy's `idle`."""

PART_S = 2.0
"""How long a client may take to close a connection that is over."""

NO_DESCRIPTORS_S = 0.1
"""How long nobody is let in where the process is out of descriptors after all."""

MOST_CONNECTIONS = 10_000
"""Clients that are connected at most, whatever the limit on descriptors: an idle one takes some 10 KB."""

ADMIN_CONNECTIONS = 16
"""Those of the admin listener at most; they are among the reserved descriptors."""

DESCRIPTORS_PER_CONNECTION = 3
"""A request may need a connection to the upstream and a file for its body besides its client's connection."""

RESERVED_DESCRIPTORS = 64
"""For the ledger, the policies, the event loop, the admin listener and what is looked up: about 30 are in use."""

_silent = logging.getLogger("oxyy_proxy.http")
"""aiohttp's own messages quote what the client sent, keys included; the server gets a logger that says nothing."""
_silent.addHandler(logging.NullHandler())
_silent.propagate = False

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Connection(web.RequestHandler):
    """aiohttp's connection, except that an error it finds is answered in our form and quotes nothing, and that a client
    which is slow to ask or to take its answer is not waited for without end."""

    __slots__ = ("_asked", "_body", "_closing", "_finished", "_left_bytes", "_parts", "_stall")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._asked: asyncio.Future[None] | None = None
        self._body: StreamReader | None = None
        self._finished = False
        self._parts = False
        self._stall: asyncio.TimerHandle | None = None
        self._left_bytes = 0
        self._closing: asyncio.TimerHandle | None = None

    @property
    def _waits(self) -> bool:
        """For a request, or the rest of its head."""
        return self._waiter is not None and not self._waiter.done()

    # --- a client that is slow to ask --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Two kinds of requests are the last of their connection. Behind chunks may stand trailers, and aiohttp's
        parser puts them before the next request's headers: a key among them would be the next client's, where a load
        balancer shares the connection. Behind CONNECT stands what was meant for somebody else."""
        super().data_received(data)
        messages = self._messages
        if messages:
            for at in range(len(messages)):
                message, body = messages[at]
                if isinstance(message, _ErrInfo):
                    self._break_off()
                elif message.chunked or message.method == "CONNECT":
                    messages[at] = message._replace(should_close=True), body
                self._body = body
            return
        waiter = self._waiter
        if waiter is not None and waiter is not self._asked and not waiter.done():
            self._asked = waiter  # the first bytes of a head, and not all of it
            self._expect_head()

    def _break_off(self) -> None:
        """Nothing more of the last body comes: behind what is not HTTP aiohttp would let its reader wait. Told twice,
        as one who was just woken by the end of a chunk waits again without a look at what was said meanwhile."""
        if self._body is not None and not self._body.is_eof():
            error = ConnectionResetError("broken off")
            self._body.set_exception(error)
            self._loop.call_soon(self._body.set_exception, error)

    def _expect_head(self) -> None:
        """Bring aiohttp's timer for idle connections forward; it does nothing once a request is there."""
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
        late = min(self._next_keepalive_close_time, self._loop.time() + HEAD_S)
        self._next_keepalive_close_time = late
        self._keepalive_handle = self._loop.call_at(late, self._process_keepalive)

    # --- a client that has sent all it will, and waits for its answers -----------------------------------------

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Whether the connection stays: as long as a request is under way. Else it closes."""
        if self._close or self._force_close or self._waits:
            return None
        self._break_off()
        self._finished = True
        self._loop.call_soon(self._close_if_idle)  # the last answer may just have been given
        return True

    def _close_if_idle(self) -> None:
        if self._waits:
            self.force_close()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if not request.content.is_eof() and "Expect" in request.headers:
            resp.force_close()  # not asked for, the body may not come: the next request would be taken for it
        finished = await super().finish_response(request, resp, start_time)
        if self._paused:  # answers are written without waiting: one who only asks and never reads must not go on
            with contextlib.suppress(ConnectionError):  # it has left
                await self._drain_helper()
        if self._finished and not self._messages:
            resp.force_close()
        elif not resp.keep_alive and request.content.is_eof():  # for the rest of a body aiohttp waits
            self._parts = self._force_close = True  # aiohttp takes no more, and leaves the closing to `start`
        return finished

    # --- a client that is slow to take its answers -------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    def _watch(self) -> None:
        if self.transport is not None:
            self._left_bytes = self.transport.get_write_buffer_size()
            self._stall = self._loop.call_later(STALLED_S, self._still_behind, self.transport)

    def _still_behind(self, transport: asyncio.Transport) -> None:
        if transport.get_write_buffer_size() < self._left_bytes:
            self._watch()
        else:
            transport.abort()

    async def start(self) -> None:
        await super().start()
        if self.transport is None:
            return
        if self._parts and self.transport.can_write_eof():
            # The client closes first: a socket that is closed with something unread, such as a request behind the last
            # one, resets the connection, and the answer may be lost with it.
            self.transport.write_eof()
            self._closing = self._loop.call_later(PART_S, self._leave, self.transport)
        else:
            self._leave(self.transport)

    def _leave(self, transport: asyncio.Transport) -> None:
        """Close; asyncio waits for that without end where a client does not take the last bytes."""
        transport.close()
        self._closing = self._loop.call_later(STALLED_S, transport.abort)

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        if transport is not None and transport.get_write_buffer_size():
            self._closing = self._loop.call_later(STALLED_S, transport.abort)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        for timer in (self._stall, self._closing):
            if timer is not None:
                timer.cancel()

    # --- the end ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no further request. One that waits for a request is closed at once: aiohttp would leave it open and
        deaf, and the client's next request would hang on it."""
        waits = self._waits
        super().close()
        if waits:
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        error = MalformedRequest("The request is not valid HTTP/1.1, or a header is too long. Check the client.")
        response = web.Response(status=error.status, body=orjson.dumps(error.payload()), headers=_headers())
        response.force_close()
        return response


class _Server(web.Server):
    """`open` are the connections there are, and those that are being made."""

    def __init__(self, handler: Handler, **options: Any) -> None:
        super().__init__(handler, **options)
        self.open: set[web.RequestHandler] = set()

    def __call__(self) -> _Connection:
        return _Connection(self, loop=self._loop, **self._kwargs)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self.open.discard(handler)


class Listener:
    """One address, one handler. `address` is what it really listens on once it is open.

    Connections are accepted here and not by asyncio: beyond `most_connections` one is told to come back and closed
    without having become anything, and asyncio logs a thousand lines a second where descriptors run out."""

    def __init__(self, handler: Handler, most_connections: int = MOST_CONNECTIONS) -> None:
        options: dict[str, Any] = {
            "handler_cancellation": False,  # a request that was sent upstream is settled, whoever leaves
            "access_log": None,
            "logger": _silent,
            "auto_decompress": False,
            "keepalive_timeout": KEEPALIVE_S,
            "lingering_time": 5.0,
        }
        self._server = _Server(handler, **options)
        self._most = most_connections
        self._sockets: list[socket.socket] = []
        self._arriving: set[asyncio.Task[None]] = set()
        self.address = ""

    async def open(self, host: str, port: int) -> None:
        """Listen. Raises StartupError."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, where in dict.fromkeys((family, where) for family, _, _, _, where in found):
                self._sockets.append(socket.create_server(where, family=family, backlog=BACKLOG))
        except (OSError, UnicodeError) as error:  # the latter for a host that no name can be
            self.stop_accepting()
            reason = "the port is in use" if "in use" in str(error) else getattr(error, "strerror", None) or str(error)
            raise StartupError(
                f"cannot listen on {host}:{port}: {reason}; choose another with --listen / --admin"
            ) from None
        first = self._sockets[0]
        name = first.getsockname()
        self.address = f"[{name[0]}]:{name[1]}" if first.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
        for listening in self._sockets:
            listening.setblocking(False)
            loop.add_reader(listening, self._accept, listening)

    def stop_accepting(self) -> None:
        """Refuse new connections, and close those that wait for a request."""
        for listening in self._sockets:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._sockets.clear()
        self._server.pre_shutdown()

    async def close(self) -> None:
        """End what is left of the connections."""
        self.stop_accepting()
        await self._server.shutdown(timeout=1.0)

    def _accept(self, listening: socket.socket) -> None:
        """Some of those who wait to be let in; what is left of them is seen the next time."""
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                client, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors, or no memory: it would be told again at once
                loop.remove_reader(listening)
                loop.call_later(NO_DESCRIPTORS_S, self._accept_again, listening)
                return
            client.setblocking(False)
            if len(self._server.open) >= self._most:
                _turn_away(client)
                continue
            connection = self._server()
            self._server.open.add(connection)
            arriving = loop.create_task(self._let_in(client, connection))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arriving.discard)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    async def _let_in(self, client: socket.socket, connection: _Connection) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, client)
        except OSError:  # it has left again
            self._server.open.discard(connection)
            client.close()


def connection_limit() -> int:
    """How many clients may be connected, so that descriptors never run out. Raises the process's soft limit on them as
    far as its hard limit allows, and as it needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS * DESCRIPTORS_PER_CONNECTION + RESERVED_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
            soft = allowed
        allowed = soft
    return max(1, (allowed - RESERVED_DESCRIPTORS) // DESCRIPTORS_PER_CONNECTION)


def _turn_away(client: socket.socket) -> None:
    """Answer a connection that is one too many, and close it. What it has sent is read, once: a socket that is closed
    with something unread resets the connection, and the answer may be lost with it."""
    error = Overloaded("The proxy has as many connections as it can hold. Retry.", headers={"Retry-After": "1"})
    body = orjson.dumps(error.payload())
    headers = {**_headers(), **error.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    with contextlib.suppress(OSError), client:
        client.send(f"HTTP/1.1 {error.status} Service Unavailable\r\n{lines}\r\n".encode() + body)
        client.shutdown(socket.SHUT_WR)
        client.recv(2**16)


def _headers() -> dict[str, str]:
    """Of an answer to what never became a request."""
    return {
        "Content-Type": "application/json",
        "Server": SERVER,
        "x-request-id": request_id(time.time(), secrets.token_hex(8)),
    }
