"""Answers that are there as a whole, written in one piece past aiohttp's writer: it costs more than a hold."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from oxyy_proxy import web
from oxyy_proxy.web import AbstractStreamWriter, HttpVersion11

AT_ONCE_BYTES = 64 * 1024
"""Larger bodies go through aiohttp's writer, which waits for a client that is slow to take them."""

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


def whole_response(status: int, headers: Mapping[str, str], body: bytes) -> web.StreamResponse:
    """A response to return from a handler. `headers` are without Content-Length, Date and Connection."""
    if len(body) > AT_ONCE_BYTES:
        return web.Response(status=status, headers=headers, body=body)
    return _AtOnce(status, headers, body)


class _AtOnce(web.StreamResponse):
    """Head and body in one write. Raises ConnectionResetError where the client has left, as aiohttp's own does."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        # Without `super().__init__`: nobody reads the state that it makes, which costs as much as all else here.
        self._status = status
        self._fields = headers
        self._whole = body
        self._stays: bool | None = None

    @property
    def keep_alive(self) -> bool | None:
        return self._stays

    def force_close(self) -> None:
        self._stays = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        if self._stays is None:
            self._stays = request.keep_alive
        is_11 = request.version == HttpVersion11
        connection = ""
        if self._stays != is_11:
            connection = "Connection: keep-alive\r\n" if self._stays else "Connection: close\r\n"
        status = self._status
        lines = "\r\n".join(map(": ".join, self._fields.items()))
        head = (
            f"HTTP/1.{'1' if is_11 else '0'} {status} {_PHRASES.get(status, '')}\r\n{lines}\r\n"
            f"Content-Length: {len(self._whole)}\r\nDate: {_date(int(time.time()))}\r\n{connection}\r\n"
        ).encode("utf-8", "surrogateescape")
        transport.write(head if request.method == "HEAD" else head + self._whole)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


@lru_cache(maxsize=1)
def _date(epoch_s: int) -> str:
    return formatdate(epoch_s, usegmt=True)
