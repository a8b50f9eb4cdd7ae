"""What a transcript says of its own cost, whole or as a stream of events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from oxyy_proxy.endpoints.base import StreamMeter, count_of, error_answer, read_json, tokens_of, utf8_size
from oxyy_proxy.endpoints.fields import milliseconds
from oxyy_proxy.errors import UpstreamBadResponse
from oxyy_proxy.rules.sse import DONE, Framer, data_of
from oxyy_proxy.rules.types import Model, Usage

MAX_AUDIO_MS = 24 * 3600 * 1000
"""The longest that audio may be said to be; a claim beyond is none."""


def charged_by(answer: dict[str, Any], model: Model) -> Usage | None:
    """What an answer, or the last event of one, says was consumed: `usage` in tokens or seconds, or `duration`. None
    where it says nothing that the model has a price for."""
    said = answer.get("usage")
    usage = _tokens(said) if "input" in model.prices else None
    audio_ms = milliseconds(answer.get("duration"), MAX_AUDIO_MS)
    if audio_ms is None and isinstance(said, dict):
        audio_ms = milliseconds(said.get("seconds"), MAX_AUDIO_MS)
    if usage is not None:
        return replace(usage, audio_ms=audio_ms or 0)
    return Usage(audio_ms=audio_ms) if audio_ms is not None and "audio_minute" in model.prices else None


def _tokens(said: object) -> Usage | None:
    usage = tokens_of(said)
    if usage is None or not isinstance(said, dict):
        return None
    return replace(usage, audio_input_tokens=count_of(said.get("input_token_details"), "audio_tokens") or 0)


class TranscriptMeter(StreamMeter):
    """A stream of `transcript.text.delta` events on its way to the client (see `StreamMeter`). Events pass as they come
    whole; `transcript.text.done`, and what follows it, waits in `farewell` for the settlement."""

    __slots__ = ("_framer", "_holds_back", "_model", "mid_event")

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model
        self._framer = Framer()
        self._holds_back = False
        self.mid_event = False

    def feed(self, data: bytes) -> bytes:
        return self._sorted(self._framer.feed(data))

    def finish(self) -> bytes:
        tail = bytes(self._framer.tail)
        self._framer = Framer()
        passes = self._sorted([tail] if tail else [])
        self.mid_event = bool(passes)
        self.ended = self._holds_back
        return passes

    def _sorted(self, events: list[bytes]) -> bytes:
        """Read these events; the client gets now what is returned, and the others with the farewell."""
        passing = 0
        for event in events:
            data = data_of(event)
            if data.strip() == DONE:
                self._holds_back = self.ended = True
            elif data and not self._holds_back:
                self._read(data)
            passing += not self._holds_back
        if passing < len(events):
            self.farewell += b"".join(events[passing:])
        return b"".join(events[:passing])

    def _read(self, data: bytes) -> None:
        """Read the data of one event."""
        said = read_json(data)
        if not isinstance(said, dict):
            if not self.started:
                self.failure = UpstreamBadResponse("The upstream's stream did not begin with JSON. Retry.")
            return  # a client that has begun to read sees what the upstream sent
        error = said.get("error") or (said if said.get("type") == "error" else None)
        if error:
            self.failure = error_answer(error)
            return
        self.started = self.started or self.failure is None
        text, delta = said.get("text"), said.get("delta")
        if said.get("type") == "transcript.text.done":
            self._holds_back = True
            self.usage = charged_by(said, self._model)
            if isinstance(text, str):
                self.output_bytes = utf8_size(text)
        elif isinstance(delta, str):
            self.output_bytes += utf8_size(delta)
