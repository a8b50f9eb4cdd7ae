"""Server-sent events: where one ends and what it says (WHATWG HTML, section 9.2).

Pure objects that are fed bytes; they know nothing of sockets or awaiting.
"""

from __future__ import annotations

import re

_EVENT_END = re.compile(rb"\r\n\r\n|\n\r?\n|\r\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")

DONE = b"[DONE]"


class Framer:
    """Cuts a byte stream into events, whatever the chunk boundaries.

    `feed` returns the complete events, each with its blank line; `tail` is the event that has begun. Joined, the
    events and the tail are the bytes that were fed.
    """

    __slots__ = ("_searched", "tail")

    def __init__(self) -> None:
        self.tail = bytearray()  # grows in place: an event of megabytes may come in many small pieces
        self._searched = 0

    def feed(self, data: bytes) -> list[bytes]:
        buffer: bytes | bytearray = data
        if self.tail:
            self.tail += data
            buffer = self.tail
        elif is_one_event(data):
            return [data]
        events, start, search = [], 0, self._searched
        while found := _EVENT_END.search(buffer, search):
            events.append(bytes(buffer[start : found.end()]))
            start = search = found.end()
        if start or buffer is data:
            self.tail = bytearray(buffer[start:])
        # An end may begin in the last three bytes that were searched (\r\n\r | \n).
        self._searched = max(0, len(self.tail) - 3)
        return events


def is_one_event(data: bytes) -> bool:
    """Whether this is one whole event of one line of data, as most pieces of a stream are: its data is then
    `data[6:-2]`. Spares the general way where it is walked for every token that a model says."""
    end = len(data) - 2
    return data.find(b"\n") == end and data[end:] == b"\n\n" and data[:6] == b"data: " and data.find(b"\r") < 0


def data_of(event: bytes) -> bytes:
    """The data of an event: its `data:` lines joined by newlines; empty for a comment or a lone `retry:`."""
    lines = []
    for line in _LINE_END.split(event):
        if line.startswith(b"data:"):
            value = line[5:]
            lines.append(value[1:] if value.startswith(b" ") else value)
    return b"\n".join(lines)
