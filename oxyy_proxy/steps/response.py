"""Answers as they go out: head and framing past aiohttp's writer, which costs more than a hold."""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from oxyy_proxy import web
from oxyy_proxy.connection import Answer
from oxyy_proxy.web import HttpVersion11

BEHIND_BYTES = 32 * 1024
"""Bytes that a client has not taken yet, at which it is waited for."""

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class _Answer(Answer):
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
    """Head and body at once; the connection waits until a client that is behind has taken them."""

    def __init__(self, status: int, lines: str, body: bytes) -> None:
        super().__init__(status, lines)
        self._whole = body

    def write_to(self, request: web.BaseRequest) -> None:
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


class StreamedAnswer(_Answer):
    """A body that comes in pieces, in chunks where its length is not known; the head goes out with the first. What is
    given is written at once; it is told whether the client keeps up, and if not `caught_up` waits until it does."""

    _protocol: web.RequestHandler

    def __init__(self, lines: str, length: str = "") -> None:
        """`length`: of the body, as a header says it; empty where it is not known."""
        super().__init__(200, lines)
        self._length = length
        self._chunked = False
        self._ended = False

    def begin(self, request: web.BaseRequest, first: bytes) -> bool:
        """The head and the first piece, which may be empty. Raises ConnectionResetError where the client has left."""
        protocol = request.protocol
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        self._protocol = protocol
        self._chunked = not self._length and request.version == HttpVersion11
        framing = f"Content-Length: {self._length}\r\n" if self._length else ""
        if self._chunked:
            framing = "Transfer-Encoding: chunked\r\n"
        head = self._head(request, framing, ends_by_close=not framing)
        transport.set_write_buffer_limits(BEHIND_BYTES)
        transport.write(b"%b%x\r\n%b\r\n" % (head, len(first), first) if first and self._chunked else head + first)
        return not protocol.writing_paused

    def put(self, data: bytes) -> bool:
        """A piece that is not empty."""
        protocol = self._protocol
        transport = protocol.transport
        if transport is None:
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return not protocol._paused

    def end(self, data: bytes) -> bool:
        """The last piece, which may be empty, and the end; once."""
        protocol = self._protocol
        transport = protocol.transport
        if self._ended or transport is None:
            return self._ended
        self._ended = True
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        transport.write(data)
        return not protocol.writing_paused

    async def caught_up(self) -> None:
        """Wait until a client that is behind has taken enough. Raises ConnectionError where it has left."""
        await self._protocol._drain_helper()

    def write_to(self, request: web.BaseRequest) -> None:
        """It is over when the connection has it."""


@lru_cache(maxsize=1)
def _date(epoch_s: int) -> str:
    return formatdate(epoch_s, usegmt=True)
