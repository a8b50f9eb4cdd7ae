"""The listening socket: opened, shut for an outage, opened again on the same port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from .play import reset

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

BACKLOG = 4096
RETRY_S = 0.1


class Listener:
    """An HTTP server whose port can refuse connections for a while. `port` 0 picks a free one, once."""

    def __init__(self, handler: Handler, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._web = web.Server(handler, handler_cancellation=True, access_log=None)
        self._server: asyncio.Server | None = None
        self._reopening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Accepts connections. Raises OSError if the port is taken."""
        self._forget_reopening()
        if self._server is not None:
            return
        self._server = await self._listen()
        self.port = self._server.sockets[0].getsockname()[1]

    def shut(self, for_s: float | None = None) -> None:
        """Refuses new connections and resets the open ones; opens again after `for_s` seconds, if given."""
        self._forget_reopening()
        if self._server is not None:
            self._server.close()
            if isinstance(self._server, asyncio.Server):  # and not uvloop's, which has no need of it
                # Else it forgets, without closing them, the connections that it has accepted in this moment.
                self._server._sockets = []  # type: ignore[attr-defined]
            self._server = None
        for connection in self._web.connections:
            if connection.transport is not None and not connection.transport.is_closing():
                reset(connection.transport)
        if for_s is not None:
            # Held by this object until it is done or the listener is closed.
            self._reopening = asyncio.get_running_loop().create_task(self._reopen(for_s))

    async def close(self) -> None:
        """Ends everything: no request is waited for."""
        self.shut()
        await self._web.shutdown(0.1)

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(self._web, self.host, self.port, backlog=BACKLOG, reuse_address=True)

    async def _reopen(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        while self._server is None:
            try:
                self._server = await self._listen()
            except OSError:  # somebody else took the port meanwhile
                await asyncio.sleep(RETRY_S)

    def _forget_reopening(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
