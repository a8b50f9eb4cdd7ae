"""A listening socket with aiohttp's low-level server behind it, and what is answered when HTTP itself is broken."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from oxyy_proxy.errors import MalformedRequest, StartupError
from oxyy_proxy.rules.requestid import request_id

SERVER = "oxyy-proxy"
"""What answers call themselves; aiohttp would tell its version and Python's."""

BACKLOG = 1024
KEEPALIVE_S = 75.0

_silent = logging.getLogger("oxyy_proxy.http")
"""aiohttp's own messages quote what the client sent, keys included; the server gets a logger that says nothing."""
_silent.addHandler(logging.NullHandler())
_silent.propagate = False

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class _Connection(web.RequestHandler):
    """aiohttp's connection, except that an error it finds is answered in our form and quotes nothing."""

    __slots__ = ()

    def close(self) -> None:
        """Take no further request. One that waits for a request is closed at once: aiohttp would leave it open and
        deaf, and the client's next request would hang on it."""
        waits = self._waiter is not None and not self._waiter.done()
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
        headers = {
            "Content-Type": "application/json",
            "Server": SERVER,
            "x-request-id": request_id(time.time(), secrets.token_hex(8)),
        }
        response = web.Response(status=error.status, body=orjson.dumps(error.payload()), headers=headers)
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Listener:
    """One address, one handler. `address` is what it really listens on once it is open."""

    def __init__(self, handler: Handler) -> None:
        options: dict[str, Any] = {
            "handler_cancellation": False,  # a request that was sent upstream is settled, whoever leaves
            "access_log": None,
            "logger": _silent,
            "auto_decompress": False,
            "keepalive_timeout": KEEPALIVE_S,
            "lingering_time": 5.0,
        }
        self._server = _Server(handler, **options)
        self._listening: asyncio.Server | None = None
        self.address = ""

    async def open(self, host: str, port: int) -> None:
        """Listen. Raises StartupError."""
        loop = asyncio.get_running_loop()
        try:
            self._listening = await loop.create_server(self._server, host, port, backlog=BACKLOG)
        except (OSError, UnicodeError) as error:  # the latter for a host that no name can be
            reason = "the port is in use" if "in use" in str(error) else getattr(error, "strerror", None) or str(error)
            raise StartupError(
                f"cannot listen on {host}:{port}: {reason}; choose another with --listen / --admin"
            ) from None
        name = self._listening.sockets[0].getsockname()
        self.address = (
            f"[{name[0]}]:{name[1]}" if self._listening.sockets[0].family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
        )

    def stop_accepting(self) -> None:
        """Refuse new connections, and close those that wait for a request."""
        if self._listening is not None:
            self._listening.close()
        self._server.pre_shutdown()

    async def close(self) -> None:
        """End what is left of the connections."""
        self.stop_accepting()
        await self._server.shutdown(timeout=1.0)
