"""POST /v1/audio/speech: a sound for a text, as binary pieces."""

from __future__ import annotations

from . import sounds
from .answers import Answer, Usage, binary_answer
from .asked import Asked, required, text
from .errors import ApiError

BYTES_PER_CHARACTER = 1024
MOST_BYTES = 4 * 2**20
"""A sound whose size nobody asked for is at most this long, however long its text."""


def answer(asked: Asked) -> Answer:
    """The answer to a request for speech. Raises ApiError 400."""
    said = required(asked.body, "input")
    required(asked.body, "voice")
    spelled = text(asked.body, "response_format") or "mp3"
    sound = sounds.SOUNDS.get(spelled)
    if sound is None:
        raise ApiError(400, f"'response_format' must be one of {', '.join(sounds.SOUNDS)}")
    wished = asked.wishes.bytes
    size_bytes = min(BYTES_PER_CHARACTER * len(said), MOST_BYTES) if wished is None else wished
    data = sound.make(asked.seed, size_bytes)
    return binary_answer(data, Usage(characters=len(said)), sound.content_type, asked.wishes.chunked)
