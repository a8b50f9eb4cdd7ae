"""POST /v1/audio/speech: sound, relayed as it comes, priced by the characters of the text."""

from __future__ import annotations

from oxyy_proxy.endpoints.base import Answer, Ask, BytesMeter, Endpoint, read_object
from oxyy_proxy.endpoints.fields import JsonFields, media_type
from oxyy_proxy.errors import InvalidValue, UpstreamBadResponse
from oxyy_proxy.rules.types import Model, PartTokens, Usage


class SpeechAsk(Ask):
    """A text to be spoken. `voice` and `input` must be there; all else passes untouched."""

    __slots__ = ("_fields", "_usage", "model")

    stream = True

    def __init__(self, raw: bytes) -> None:
        """Raises InvalidJson or InvalidValue."""
        self._fields = fields = JsonFields(raw)
        self.model = fields.model
        self._usage = Usage(characters=len(fields.required("input")), source="computed")
        voice = fields.members.get("voice")
        if not isinstance(voice, str | dict) or not voice:
            raise InvalidValue("'voice' is missing. Name a voice, such as alloy.", param="voice")
        fields.forget()

    def worst(self, model: Model, parts: PartTokens) -> Usage:
        return self._usage

    def body_for(self, model: Model) -> bytes:
        return self._fields.changed({} if model.name == self.model else {"model": model.name})

    def meter(self, content_type: str, model: Model) -> SoundMeter | None:
        """JSON and pages are no sound: read whole, they are an error, or nothing that can be charged."""
        kind = media_type(content_type)
        is_text = kind.startswith("text/") and kind != "text/event-stream"  # of which some voices make pieces of sound
        return None if is_text or kind.endswith(("json", "xml")) else SoundMeter(self._usage)

    def read(self, body: bytes, model: Model, parts: PartTokens) -> Answer:
        read_object(body)
        raise UpstreamBadResponse("The upstream answered with text where sound was asked for. Retry.")

    def likely_usage(self, model: Model, parts: PartTokens, output_bytes: int) -> Usage:
        return self._usage


class SoundMeter(BytesMeter):
    """Sound on its way to the client."""

    __slots__ = ("promised",)

    def __init__(self, usage: Usage) -> None:
        """`usage`: what the whole costs."""
        super().__init__()
        self.promised = usage

    def feed(self, data: bytes) -> bytes:
        self.output_bytes += len(data)
        return super().feed(data)

    def finish(self) -> bytes:
        if self.started:
            self.ended = True
            self.usage = self.promised
        return b""


ENDPOINT = Endpoint(name="speech", path="/audio/speech", bases=(frozenset({"character"}),), parse=SpeechAsk)
