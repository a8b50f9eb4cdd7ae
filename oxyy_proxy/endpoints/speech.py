"""POST /v1/audio/speech: sound, relayed as it comes, priced by the characters of the text."""

from __future__ import annotations

from oxyy_proxy.endpoints.base import Answer, Ask, Endpoint, read_object
from oxyy_proxy.endpoints.fields import JsonFields, media_type
from oxyy_proxy.errors import InvalidValue, UpstreamBadResponse, UpstreamFailure
from oxyy_proxy.rules.types import Model, PartTokens, Usage


class SpeechAsk(Ask):
    """A text to be spoken. `voice` and `input` must be there; all else passes untouched."""

    __slots__ = ("_characters", "_fields", "model")

    stream = True

    def __init__(self, raw: bytes) -> None:
        """Raises InvalidJson or InvalidValue."""
        self._fields = fields = JsonFields(raw)
        self.model = fields.model
        self._characters = len(fields.required("input"))
        voice = fields.members.get("voice")
        if not isinstance(voice, str | dict) or not voice:
            raise InvalidValue("'voice' is missing. Name a voice, such as alloy.", param="voice")
        fields.forget()

    def worst(self, model: Model, parts: PartTokens) -> Usage:
        return Usage(characters=self._characters, source="computed")

    def body_for(self, model: Model) -> bytes:
        return self._fields.changed({} if model.name == self.model else {"model": model.name})

    def meter(self, content_type: str, model: Model) -> SoundMeter | None:
        """JSON and pages are no sound: read whole, they are an error, or nothing that can be charged."""
        kind = media_type(content_type)
        is_text = kind.startswith("text/") and kind != "text/event-stream"  # of which some voices make pieces of sound
        if is_text or kind.endswith(("json", "xml")):
            return None
        return SoundMeter(Usage(characters=self._characters, source="computed"))

    def read(self, body: bytes, model: Model, parts: PartTokens) -> Answer:
        read_object(body)
        raise UpstreamBadResponse("The upstream answered with text where sound was asked for. Retry.")

    def likely_usage(self, model: Model, parts: PartTokens, output_bytes: int) -> Usage:
        return self.worst(model, parts)


class SoundMeter:
    """Bytes on their way to the client (see `StreamMeter`): all but the last, which waits for the settlement, so that
    nobody has the whole of what is not yet charged."""

    __slots__ = ("ended", "failure", "farewell", "output_bytes", "promised", "started", "usage")

    events = False
    mid_event = False

    def __init__(self, usage: Usage) -> None:
        """`usage`: what the whole costs."""
        self.promised = usage
        self.started = False
        self.ended = False
        self.failure: UpstreamFailure | None = None
        self.usage: Usage | None = None
        self.farewell = b""
        self.output_bytes = 0

    def feed(self, data: bytes) -> bytes:
        if not data:
            return b""
        self.started = True
        self.output_bytes += len(data)
        kept, self.farewell = self.farewell, data[-1:]
        return kept + data[:-1]

    def finish(self) -> bytes:
        if self.started:
            self.ended = True
            self.usage = self.promised
        return b""


ENDPOINT = Endpoint(name="speech", path="/audio/speech", bases=(frozenset({"character"}),), parse=SpeechAsk)
