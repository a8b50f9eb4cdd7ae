"""The one upstream: a pool of connections to it, and its errors as ours.

What is sent is an allowlist: Content-Type, Accept, User-Agent, x-request-id and the organisation's key. Redirects are
not followed, cookies not kept, proxies of the environment not used, compression not asked for.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from oxyy_proxy.errors import StartupError, UpstreamBadResponse, UpstreamReset
from oxyy_proxy.http1 import Connection, Incoming
from oxyy_proxy.pool import Pool
from oxyy_proxy.sweep import Sweeper

MOST_CONNECTIONS = 8192
"""How many connections there may be at a time, unless told otherwise."""

MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""The largest answer that is read whole where it must be."""


class Outgoing(NamedTuple):
    """A request body that is sent as it is read."""

    size_bytes: int
    pieces: AsyncGenerator[bytes]


class UpstreamAnswer(Incoming):
    """An answer of the upstream, to be closed."""

    __slots__ = ("_upstream",)

    def __init__(self, upstream: Upstream, connection: Connection, limit_s: float) -> None:
        super().__init__(connection, limit_s)
        self._upstream: Upstream | None = upstream

    def header(self, name: str) -> str:
        """A header of the answer; empty where it has none."""
        return self.headers.get(name.lower().encode(), b"").decode("latin-1")

    async def read(self) -> bytes:
        """The whole body. Raises as `chunk` does."""
        body, whole = await self.read_up_to(MAX_ANSWER_BYTES)
        if not whole:
            raise UpstreamBadResponse(f"The upstream's answer is larger than {MAX_ANSWER_BYTES} bytes.")
        return body

    async def read_up_to(self, size_bytes: int) -> tuple[bytes, bool]:
        """The body, and that it is all of it; or the beginning of one that is larger. Raises as `chunk` does."""
        pieces, size = [], 0
        while piece := self.taken() or await self.chunk():
            pieces.append(piece)
            size += len(piece)
            if size > size_bytes:
                return b"".join(pieces), False
            if self.complete:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), True

    def close(self) -> None:
        """Give the connection back if the answer came to its end, else drop it."""
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.give_back(self._connection, self)


class Upstream:
    """A client of one base URL with the organisation's key. Made and closed on the event loop that uses it."""

    def __init__(self, base_url: str, org_key: str, sweeper: Sweeper, most_connections: int = MOST_CONNECTIONS) -> None:
        """Raises StartupError for a URL that is not http(s)."""
        url = urlsplit(base_url.rstrip("/"))
        odd = url.query or url.fragment or not base_url.isprintable() or " " in base_url
        if url.scheme not in ("http", "https") or not url.hostname or odd:
            raise StartupError(f"the upstream {base_url!r} is not a URL such as https://api.oxyy.ai/v1")
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
        except ValueError:
            raise StartupError(f"the upstream {base_url!r} has a port that cannot be") from None
        self._pool = Pool(url.hostname, port, _tls() if url.scheme == "https" else None, most_connections)
        self._prefix = url.path
        authority = url.netloc.rpartition("@")[2]
        self._headers = (
            f" HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {org_key}\r\nAccept-Encoding: identity\r\n"
        )
        self._sweeper = sweeper

    def post(
        self, path: str, body: bytes | Outgoing, headers: str, limit_s: float
    ) -> Coroutine[Any, Any, UpstreamAnswer]:
        """Send one request and give its answer once the head is there; the caller closes it. `headers`: lines that end
        in CRLF. `limit_s` bounds the head and the body together, until `flow` is called. Raises UpstreamUnreachable
        (nothing was sent), UpstreamReset, UpstreamTimeout or UpstreamBadResponse."""
        size = len(body) if isinstance(body, bytes) else body.size_bytes
        head = f"POST {self._prefix}{path}{self._headers}{headers}Content-Length: {size}\r\n\r\n"
        return self._send(head, body, limit_s)

    async def get(self, path: str, headers: str, limit_s: float) -> UpstreamAnswer:
        """As `post`, for what may be asked twice: it is, on a new connection, where the upstream closed the first."""
        head = f"GET {self._prefix}{path}{self._headers}{headers}\r\n"
        started = monotonic()
        try:
            return await self._send(head, b"", limit_s)
        except UpstreamReset:  # others that are idle may be closed as well
            return await self._send(head, b"", limit_s - (monotonic() - started), afresh=True)

    async def fetch(self, path: str, headers: str, limit_s: float) -> tuple[int, str, bytes]:
        """The status, the Content-Type and the body of what `get` gives. Raises as `get` and `read` do."""
        answer = await self.get(path, headers, limit_s)
        try:
            return answer.status, answer.header("Content-Type"), await answer.read()
        finally:
            answer.close()

    async def _send(self, head: str, body: bytes | Outgoing, limit_s: float, *, afresh: bool = False) -> UpstreamAnswer:
        started = monotonic()
        connection = None if afresh else self._pool.take_idle()
        if connection is None:
            connection = await self._pool.take(limit_s, afresh=afresh)
        answer = UpstreamAnswer(self, connection, limit_s)
        answer.since = started
        self._sweeper.add(answer)
        whole = body if isinstance(body, bytes) else b""
        connection.send(head.encode("utf-8", "surrogateescape"), whole, answer)
        try:
            if not isinstance(body, bytes):
                async with aclosing(body.pieces) as pieces:
                    await connection.send_body(pieces)
            while not answer.has_head:
                if answer.failure is not None:
                    raise answer.failure
                await answer.something()
        except BaseException:
            connection.drop()
            answer.close()
            raise
        return answer

    def give_back(self, connection: Connection, incoming: Incoming) -> None:
        self._sweeper.remove(incoming)
        self._pool.give_back(connection)

    async def close(self) -> None:
        """Drop what is idle; what is in use is dropped when it is given back."""
        await self._pool.close()


def _tls() -> ssl.SSLContext:
    """Certificates and host names are verified; HTTP/1.1 is agreed on."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
