"""Connections to one origin: kept for the next request, no more of them than a limit, and made by any of its addresses.

Who finds all of them taken waits in line, not for ever; nothing has been sent then.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from oxyy_proxy.errors import UpstreamUnreachable
from oxyy_proxy.http1 import Connection

CONNECT_S = 10.0
"""Longest wait for a connection; nothing has been sent then, so another target may be tried."""

NEXT_ADDRESS_S = 0.25
"""How long an address is tried alone before the next one is tried beside it (RFC 8305, section 5)."""

KEEP_IDLE_S = 4.0
"""How long a connection is kept for another request. Servers close theirs after 5 s and more; a request that meets the
close on its way is of unknown outcome, and its hold would stay."""


class Pool:
    """At most `most` connections to a host, those that are idle included. `tls` None: in the clear."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, most: int) -> None:
        self.idle: deque[Connection] = deque()
        self._host = host
        self._port = port
        self._tls = tls
        self._most = most
        self._taken = 0  # those that are being made included
        self._line: deque[asyncio.Future[Connection | None]] = deque()
        self._closed = False

    async def take(self, limit_s: float, *, afresh: bool = False) -> Connection:
        """A connection that nobody else uses, until it is given back; `afresh`: a new one. Raises UpstreamUnreachable
        where there is none within `CONNECT_S` or `limit_s`."""
        if not afresh and (connection := self.take_idle()) is not None:
            return connection
        try:
            async with asyncio.timeout(min(CONNECT_S, limit_s)):
                return await self._turn(afresh=afresh)
        except (OSError, UnicodeError):  # refused, no such host, TLS, too slow
            raise UpstreamUnreachable(
                "The upstream cannot be reached. Retry shortly; your platform team can see why."
            ) from None

    def take_idle(self) -> Connection | None:
        """As `take`, without waiting: the connection that was used last. Those that have been idle too long are
        closed."""
        idle = self.idle
        if not idle or self._taken >= self._most:
            return None
        oldest_allowed = monotonic() - KEEP_IDLE_S
        while idle and idle[0].idle_since < oldest_allowed:
            idle.popleft().drop()
        while idle:
            connection = idle.pop()
            if connection.usable:
                self._taken += 1
                return connection
        return None

    def give_back(self, connection: Connection) -> None:
        """The exchange on it is over: the next one in line has it, or it is kept; if it is of no more use, its place is
        free."""
        self._pass_on(connection if connection.release() else None)

    async def close(self) -> None:
        """Drop what is idle; what is in use is dropped when it is given back."""
        self._closed = True
        while self.idle:
            self.idle.pop().drop()

    async def _turn(self, *, afresh: bool) -> Connection:
        """Wait for a place, and for a connection in it."""
        if self._taken < self._most:
            self._taken += 1
            if self.idle and self._taken + len(self.idle) > self._most:
                self.idle.popleft().drop()
        else:
            connection = await self._stand_in_line()
            if connection is not None:
                if connection.usable and not afresh:
                    return connection
                connection.drop()
        try:
            return await self._connect()
        except BaseException:
            self._pass_on(None)
            raise

    async def _stand_in_line(self) -> Connection | None:
        """A place that has become free, with the connection in it if that can be used again."""
        waiting: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._line.append(waiting)
        try:
            return await waiting
        except BaseException:
            if waiting.done() and not waiting.cancelled():
                self._pass_on(waiting.result())
            else:
                self._line.remove(waiting)
            raise

    def _pass_on(self, connection: Connection | None) -> None:
        """A place has become free, and there may be a connection in it."""
        if connection is not None and self._closed:
            connection.drop()
            connection = None
        while self._line:
            waiting = self._line.popleft()
            if not waiting.done():
                waiting.set_result(connection)
                return
        self._taken -= 1
        if connection is not None:
            self.idle.append(connection)

    async def _connect(self) -> Connection:
        """A new connection, by the first address that answers. Raises OSError or UnicodeError."""
        loop = asyncio.get_running_loop()
        addresses = await _addresses(self._host, self._port)
        if not addresses:
            raise OSError("no address")
        try:
            sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_S, loop=loop)
        except RuntimeError as error:  # uvloop's, for an address that cannot be
            raise OSError from error
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(loop), sock=sock, ssl=self._tls, server_hostname=self._host if self._tls else None
            )
        except BaseException:
            with suppress(OSError):  # the loop may not have taken it yet
                sock.close()
            raise
        return connection


async def _addresses(host: str, port: int) -> Sequence[AddrInfoType]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
