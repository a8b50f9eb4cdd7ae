"""The half of aiohttp that serves HTTP, without its routes, its client's certificates and what else is not used here.

`aiohttp.web` would import its whole framework: 3 MB and 30 ms of every start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _no_certificates() -> Iterator[None]:
    """aiohttp's client, which comes along and is called by nobody, reads the system's certificates twice as it is
    imported: 60 ms and 3 MB. Without them it would trust no server."""
    kept = {name: os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")}
    os.environ.update(dict.fromkeys(kept, os.devnull))
    try:
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


with _no_certificates():
    from aiohttp import HttpVersion10, HttpVersion11
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.hdrs import ACCEPT, AUTHORIZATION, TRANSFER_ENCODING, USER_AGENT
    from aiohttp.http_exceptions import HttpProcessingError
    from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy, RawRequestMessage
    from aiohttp.http_writer import StreamWriter
    from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
    from aiohttp.web_protocol import ERROR, RequestHandler, RequestPayloadError, _ErrInfo
    from aiohttp.web_request import BaseRequest
    from aiohttp.web_response import Response, StreamResponse
    from aiohttp.web_server import Server

ErrInfo = _ErrInfo
"""Stands among the messages of a connection for one that is not HTTP."""


def taken(whole: StreamReader) -> bytes:
    """A body that has come to its end and of which nothing was read. `read_nowait` gives the same; it also keeps
    account of what it reads, and of the reading of more, at the cost of all else that makes a body."""
    if whole is EMPTY_PAYLOAD:
        return b""
    pieces = whole._buffer
    body = pieces.popleft() if len(pieces) == 1 else b"".join(pieces)
    pieces.clear()
    return body


__all__ = [
    "ACCEPT",
    "AUTHORIZATION",
    "EMPTY_PAYLOAD",
    "ERROR",
    "TRANSFER_ENCODING",
    "USER_AGENT",
    "AbstractStreamWriter",
    "BaseRequest",
    "ErrInfo",
    "HttpProcessingError",
    "HttpRequestParser",
    "HttpRequestParserPy",
    "HttpVersion10",
    "HttpVersion11",
    "RawRequestMessage",
    "RequestHandler",
    "RequestPayloadError",
    "Response",
    "Server",
    "StreamReader",
    "StreamResponse",
    "StreamWriter",
    "taken",
]
