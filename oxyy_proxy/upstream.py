"""The one upstream, spoken to through aiohttp; its errors become ours here and nowhere else.

What is sent upstream is an allowlist: Content-Type, Accept, User-Agent, x-request-id and the organisation's key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

import aiohttp
from yarl import URL

from oxyy_proxy.errors import (
    UpstreamBadResponse,
    UpstreamFailure,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from oxyy_proxy.sweep import Sweeper, Wait

CONNECT_S = 10.0
"""Longest wait for a connection; nothing has been sent then, so another target may be tried."""

MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""The largest answer that is read whole: 2,048 embeddings of 3,072 dimensions in text are about 130 MB."""


class UpstreamAnswer:
    """The head of an answer, and its body as it comes. `waited_s`: time spent waiting for the body so far."""

    __slots__ = ("_content", "_response", "_sweeper", "_timed_out", "_wait", "status", "waited_s")

    def __init__(self, response: aiohttp.ClientResponse, sweeper: Sweeper, idle_s: float) -> None:
        self.status = response.status
        self.waited_s = 0.0
        self._response = response
        self._content = response.content
        self._sweeper = sweeper
        self._timed_out = False
        self._wait = Wait(idle_s, self._idle_too_long)
        sweeper.add(self._wait)

    def header(self, name: str) -> str:
        """A header of the answer; empty where it has none."""
        return self._response.headers.get(name, "")

    async def chunk(self) -> bytes:
        """The next bytes of the body as they came; empty at its end. Raises UpstreamReset (cut off), UpstreamTimeout
        (silent for `idle_s`) or UpstreamBadResponse (not HTTP)."""
        wait = self._wait
        wait.since = started = monotonic()
        try:
            return await self._content.readany()
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            if self._timed_out:
                raise UpstreamTimeout("The upstream fell silent in the middle of its answer. Retry.") from None
            raise _translated(error) from None
        finally:
            wait.since = None
            self.waited_s += monotonic() - started

    async def read(self) -> bytes:
        """The whole body. Raises as `chunk` does."""
        pieces, size = [], 0
        while piece := await self.chunk():
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamBadResponse(f"The upstream's answer is larger than {MAX_ANSWER_BYTES} bytes.")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Give the connection back if the answer was read to its end, else drop it."""
        self._sweeper.remove(self._wait)
        if self._content.at_eof():
            self._response.release()
        else:
            self._response.close()

    def _idle_too_long(self) -> None:
        self._timed_out = True
        self._content.set_exception(TimeoutError("idle"))
        self._response.close()


class Upstream:
    """A client of one base URL with the organisation's key. Made and closed on the event loop that uses it."""

    def __init__(self, base_url: str, org_key: str, sweeper: Sweeper) -> None:
        self._base = base_url.rstrip("/")
        self._sweeper = sweeper
        self._urls: dict[str, URL] = {}
        self._headers = {"Authorization": f"Bearer {org_key}", "Accept-Encoding": "identity"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            auto_decompress=False,  # identity is asked for; a bomb is not unpacked
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        )

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], idle_s: float) -> UpstreamAnswer:
        """Send one request and give its answer once the head is there; the caller closes it. Raises
        UpstreamUnreachable (nothing was sent), UpstreamReset or UpstreamBadResponse."""
        with _translating():
            response = await self._session.post(
                self._url(path), data=body, headers={**self._headers, **headers}, allow_redirects=False
            )
        return UpstreamAnswer(response, self._sweeper, idle_s)

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self._base + path)
        return url

    async def close(self) -> None:
        await self._session.close()


@contextmanager
def _translating() -> Iterator[None]:
    """aiohttp's errors, as ours."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        raise _translated(error) from None


def _translated(error: Exception) -> UpstreamFailure:
    """What an error of the client means: whether the request may have been done, and may be billed."""
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return UpstreamUnreachable("The upstream cannot be reached. Retry shortly; your platform team can see why.")
    if isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL)):
        return UpstreamBadResponse("The upstream's answer was not valid HTTP. Retry.")
    return UpstreamReset("The upstream cut the connection before its answer was complete. Retry.")
