"""A listening socket with aiohttp's low-level server behind it: who is let in, and when nobody is any more."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from oxyy_proxy import web
from oxyy_proxy.connection import KEEPALIVE_S, Connection, plain_headers, silent
from oxyy_proxy.errors import Overloaded, StartupError

BACKLOG = 1024
ACCEPTS_AT_ONCE = 64

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

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Server(web.Server):
    """`open` are the connections there are, and those that are being made."""

    def __init__(self, handler: Handler, **options: Any) -> None:
        super().__init__(handler, **options)
        self.open: set[web.RequestHandler] = set()

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)

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
            "logger": silent,
            "auto_decompress": False,
            "keepalive_timeout": KEEPALIVE_S,
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

    async def _let_in(self, client: socket.socket, connection: Connection) -> None:
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
    headers = {**plain_headers(), **error.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    with contextlib.suppress(OSError), client:
        client.send(f"HTTP/1.1 {error.status} Service Unavailable\r\n{lines}\r\n".encode() + body)
        client.shutdown(socket.SHUT_WR)
        client.recv(2**16)
