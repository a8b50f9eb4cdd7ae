"""What the fake model says to one request, before any fault touches it."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

JSON = "application/json"
SSE = "text/event-stream"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer; the cached ones are part of the input."""

    input_tokens: int
    output_tokens: int = 0
    cached_input_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer in three parts, so that a fault can leave one out.

    `content` is what was asked for: the events of a stream, or the start of a JSON object. `report` is where the
    usage stands (empty if nobody asked for it), `end` closes the answer: `[DONE]`, or the last brace.
    """

    usage: Usage
    content_type: str
    content: tuple[bytes, ...]
    report: bytes
    end: bytes

    @property
    def stream(self) -> bool:
        """Whether it goes out as server-sent events."""
        return self.content_type == SSE

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """All of it, in the pieces in which it is sent."""
        return tuple(piece for piece in (*self.content, self.report, self.end) if piece)


def event(payload: object) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def json_answer(payload: dict[str, object], usage: Usage, report: dict[str, object]) -> Answer:
    """A JSON answer: the payload with `usage` as its last key."""
    return Answer(usage, JSON, (orjson.dumps(payload)[:-1],), b',"usage":' + orjson.dumps(report), b"}")


def sse_answer(events: list[bytes], usage: Usage, report: bytes) -> Answer:
    """A stream of events, closed by `[DONE]`; `report` is the event with the usage, or empty."""
    return Answer(usage, SSE, tuple(events), report, DONE)
