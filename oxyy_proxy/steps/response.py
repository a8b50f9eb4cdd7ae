"""Answers as they go out: head and framing past aiohttp's writer, which costs more than a hold."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from oxyy_proxy import web
from oxyy_proxy.web import AbstractStreamWriter, HttpVersion11

BEHIND_BYTES = 32 * 1024
"""Bytes that a client has not taken yet, at which it is waited for."""

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class _Answer(web.StreamResponse):
    """What both kinds share. `lines`: headers, each ended by CRLF, without Content-Length, Transfer-Encoding, Date and
    Connection."""

    def __init__(self, status: int, lines: str) -> None:
        # Without `super().__init__`: nobody reads the state that it makes, which costs as much as all else here.
        self._status = status
        self._lines = lines
        self._stays: bool | None = None

    @property
    def keep_alive(self) -> bool | None:
        return self._stays

    def force_close(self) -> None:
        self._stays = False

    def _head(self, request: web.BaseRequest, framing: str, *, ends_by_close: bool = False) -> bytes:
        if self._stays is None:
            self._stays = request.keep_alive and not ends_by_close
        is_11 = request.version == HttpVersion11
        connection = ""
        if self._stays != is_11:
            connection = "Connection: keep-alive\r\n" if self._stays else "Connection: close\r\n"
        status = self._status
        return (
            f"HTTP/1.{'1' if is_11 else '0'} {status} {_PHRASES.get(status, '')}\r\n{self._lines}{framing}"
            f"Date: {_date(int(time.time()))}\r\n{connection}\r\n"
        ).encode("utf-8", "surrogateescape")


class WholeAnswer(_Answer):
    """Head and body at once; the connection waits until a client that is behind has taken them. Raises
    ConnectionResetError where the client has left, as aiohttp's own does."""

    def __init__(self, status: int, lines: str, body: bytes) -> None:
        super().__init__(status, lines)
        self._whole = body

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        body = self._whole
        head = self._head(request, f"Content-Length: {len(body)}\r\n")
        if request.method == "HEAD":
            transport.write(head)
        elif len(body) < BEHIND_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


class StreamedAnswer(_Answer):
    """A body that comes in pieces, in chunks where its length is not known; the head goes out with the first."""

    def __init__(self, lines: str, length: str = "") -> None:
        """`length`: of the body, as a header says it; empty where it is not known."""
        super().__init__(200, lines)
        self._length = length
        self._request: web.BaseRequest | None = None
        self._chunked = False
        self._unsent = b""
        self._ended = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Begin, once. Raises ConnectionResetError where the client has left."""
        if self._request is None:
            self._request = request
            self._chunked = not self._length and request.version == HttpVersion11
            framing = f"Content-Length: {self._length}\r\n" if self._length else ""
            if self._chunked:
                framing = "Transfer-Encoding: chunked\r\n"
            self._unsent = self._head(request, framing, ends_by_close=not framing)
            if request.transport is None:
                raise ConnectionResetError("the client has left")
            request.transport.set_write_buffer_limits(BEHIND_BYTES)  # beyond it `write` waits
        return None

    def put(self, data: bytes) -> bool:
        """Write a piece if the client keeps up, as most do: no switch of tasks, no timer. Whether that was so."""
        assert self._request is not None
        transport = self._request.transport
        if transport is None or transport.is_closing() or transport.get_write_buffer_size() > BEHIND_BYTES:
            return False
        frame, self._unsent = self._unsent + self._framed(data), b""
        transport.write(frame)
        return True

    async def write(self, data: bytes) -> None:  # type: ignore[override]
        """Write a piece, and wait until a client that is behind has taken enough of it. Raises ConnectionError where
        it has left."""
        await self._write(self._framed(data))

    async def write_eof(self, data: bytes = b"") -> None:
        """The last piece and the end, once."""
        if self._ended:
            return
        self._ended = True
        await self._write(self._framed(data) + (b"0\r\n\r\n" if self._chunked else b""))

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data

    async def _write(self, frame: bytes) -> None:
        assert self._request is not None
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        frame, self._unsent = self._unsent + frame, b""
        if frame:
            transport.write(frame)
        await self._request.protocol._drain_helper()


@lru_cache(maxsize=1)
def _date(epoch_s: int) -> str:
    return formatdate(epoch_s, usegmt=True)
