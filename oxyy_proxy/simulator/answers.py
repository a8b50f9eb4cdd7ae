"""What the fake model says to one request, before any fault touches it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import orjson

from .jobs import Job

JSON = "application/json"
SSE = "text/event-stream"
DONE = b"data: [DONE]\n\n"
PIECE_BYTES = 4096
"""Binary answers go out in pieces of this size."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer used: tokens, and what is counted in other units.

    `cached_input_tokens`, `image_input_tokens` and `audio_input_tokens` are parts of the input, `image_output_tokens`
    and `audio_output_tokens` of the output. `size` is that of an image, or the resolution of a video: it chooses the
    variant of a price, as `quality` does.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    images: int = 0
    video_ms: int = 0
    audio_ms: int = 0
    characters: int = 0
    size: str = ""
    quality: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer in three parts, so that a fault can leave one out.

    `content` is what was asked for: the events of a stream, the start of a JSON object, or all of a text or sound.
    `report` is where the usage stands (empty if nobody asked for it) and `unreported` what stands there without it;
    `end` closes the answer: `[DONE]`, or the last brace. `chunked`: sent without a Content-Length though its length
    is known. `job` is the video that the answer promises.
    """

    usage: Usage
    content_type: str
    content: tuple[bytes, ...]
    report: bytes = b""
    end: bytes = b""
    unreported: bytes = b""
    chunked: bool = False
    job: Job | None = None

    @property
    def stream(self) -> bool:
        """Whether it goes out as server-sent events."""
        return self.content_type == SSE

    @property
    def textual(self) -> bool:
        """Whether it is JSON or text, sent in one piece; neither events nor binary."""
        return self.content_type == JSON or (self.content_type.startswith("text/") and not self.stream)

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """All of it, in the pieces in which it is sent."""
        return tuple(piece for piece in (*self.content, self.report, self.end) if piece)


def event(payload: object) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def json_answer(
    payload: dict[str, object],
    usage: Usage,
    report: dict[str, object] | None,
    omit: Collection[str] = (),
    job: Job | None = None,
) -> Answer:
    """A JSON answer: the payload without the keys in `omit`, with `usage` as its last key unless `report` is None."""
    kept = orjson.dumps({key: value for key, value in payload.items() if key not in omit})[:-1]
    if report is None or "usage" in omit:
        return Answer(usage, JSON, (kept,), end=b"}", job=job)
    comma = b"" if kept == b"{" else b","
    return Answer(usage, JSON, (kept,), comma + b'"usage":' + orjson.dumps(report), b"}", job=job)


def sse_answer(events: list[bytes], usage: Usage, report: bytes, unreported: bytes = b"") -> Answer:
    """A stream of events, closed by `[DONE]`; `report` is the event with the usage, or empty."""
    return Answer(usage, SSE, tuple(events), report, DONE, unreported)


def text_answer(text: str, usage: Usage, content_type: str) -> Answer:
    """A text in one piece."""
    return Answer(usage, content_type, (text.encode(),))


def binary_answer(data: bytes, usage: Usage, content_type: str, chunked: bool = False) -> Answer:
    """Bytes, in pieces of PIECE_BYTES."""
    pieces = tuple(data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES))
    return Answer(usage, content_type, pieces, chunked=chunked)
