"""Two other parsers of HTTP/1.1, to hold against what the proxy has read: h11, which is strict, and httptools."""

from __future__ import annotations

from typing import NamedTuple

import h11
import httptools


class Read(NamedTuple):
    """What a parser has read before its input ended, or what it did not like came: the bodies of requests that came
    whole, in order, by method."""

    requests: tuple[tuple[str, bytes], ...]
    refused: str | None


def by_h11(data: bytes) -> Read:
    """Any number of requests, one behind the other."""
    found: list[tuple[str, bytes]] = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=2**17)
    connection.receive_data(data)
    try:
        while True:
            method, body = "", b""
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    method = event.method.decode()
                elif isinstance(event, h11.Data):
                    body += event.data
                else:  # it needs more, or waits for an answer, or for its client to close
                    return Read(tuple(found), None)
            found.append((method, body))
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE:
                return Read(tuple(found), "it reads no more")
            connection.start_next_cycle()
    except h11.ProtocolError as error:
        return Read(tuple(found), str(error))


def by_httptools(data: bytes) -> Read:
    """Any number of requests, one behind the other."""
    reading = _Reading()
    try:
        reading.parser.feed_data(data)
    except httptools.HttpParserUpgrade:  # what is behind it, a body for one, is not read
        plain = reading.found if reading.found[-1][0] == "GET" else reading.found[:-1]
        return Read(tuple(plain), "an upgrade")
    except httptools.HttpParserError as error:
        return Read(tuple(reading.found), str(error))
    return Read(tuple(reading.found), None)


class _Reading:
    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.found: list[tuple[str, bytes]] = []
        self._body = b""

    def on_message_begin(self) -> None:
        self._body = b""

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self.found.append((self.parser.get_method().decode(), self._body))
