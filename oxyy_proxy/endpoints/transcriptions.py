"""POST /v1/audio/transcriptions: JSON, text or subtitles, or a stream of events; priced by minutes or by tokens.

The length is what the answer says, else what the file says, else an estimate by its size, or by the text where there is
no file here.
"""

from __future__ import annotations

from oxyy_proxy.endpoints.base import Answer, Ask, Endpoint, error_answer, read_json, read_object, utf8_size
from oxyy_proxy.endpoints.fields import Fields, FormFields, JsonFields, media_type
from oxyy_proxy.endpoints.transcript import MAX_AUDIO_MS, TranscriptMeter, charged_by
from oxyy_proxy.errors import InvalidValue
from oxyy_proxy.rules.multipart import Form, Pieces, Span
from oxyy_proxy.rules.price import held_tokens, likely_tokens
from oxyy_proxy.rules.types import Model, PartTokens, Usage

MAX_UPLOAD_BYTES = 25 * 1024 * 1024
"""Of the file (the upstream's documentation, "File Size Limits")."""

BYTES_PER_SECOND_WORST = 1000
BYTES_PER_SECOND_LIKELY = 8000
"""Audio whose length cannot be read is held at 8 kbit/s, as few codecs for speech go below, and estimated at 64."""

TEXT_BYTES_PER_SECOND = 15
"""Of speech: 150 words a minute, six bytes each."""

TOKENS_PER_SECOND_WORST = 50
TOKENS_PER_SECOND_LIKELY = 10
"""Of audio as input: 10 with OpenAI's models, 32 with Google's."""

OUTPUT_PER_SECOND = 10
OUTPUT_LEAST = 200
"""Tokens of text that are held for a second of audio, and for any audio: nobody speaks faster."""

_JSON_FORMATS = frozenset({"json", "verbose_json", "diarized_json"})


class TranscriptionAsk(Ask):
    """A request for a transcript."""

    __slots__ = (
        "_audio_ms",
        "_fields",
        "_format",
        "_prompt_bytes",
        "_size_bytes",
        "content_type",
        "model",
        "recording",
        "stream",
        "urls",
    )

    def __init__(self, fields: Fields) -> None:
        """Raises InvalidValue."""
        self._fields = fields
        self.content_type = fields.content_type
        self.model = fields.model
        self.stream = fields.flag("stream")
        self._format = fields.text("response_format") or "json"
        self._prompt_bytes = utf8_size(fields.text("prompt") or "")
        self._audio_ms: int | None = None
        self._size_bytes: int | None = None
        self.recording: Span | str | None = None
        self.urls: tuple[tuple[str, str], ...] = ()
        self._find_audio()
        fields.forget()

    def _find_audio(self) -> None:
        """Exactly one of the three ways to give it. Raises InvalidValue."""
        files = self._fields.files("file")
        inline, text = self._fields.text("file_base64"), None if files else self._fields.text("file")
        self.urls = self._fields.address("file_url")
        if text is not None or len(files) + (inline is not None) + len(self.urls) != 1:
            raise InvalidValue(
                "Send the audio once: 'file' as a file of a multipart form, or 'file_url', or 'file_base64'.",
                param="file",
            )
        if files:
            self._size_bytes = files[0].size_bytes
            self.recording = Span(files[0].at, files[0].at + files[0].size_bytes)
        elif inline is not None:
            self._size_bytes = len(inline) * 3 // 4
            self.recording = inline
        if self._size_bytes == 0:
            raise InvalidValue("The audio is empty.", param="file_base64" if inline is not None else "file")

    def measured(self, audio_ms: int | None) -> None:
        self._audio_ms = audio_ms if audio_ms and 0 < audio_ms <= MAX_AUDIO_MS else None
        self.recording = None  # it has done its service, and may be large

    def worst(self, model: Model, parts: PartTokens) -> Usage:
        self._fields.require_room_for(model.name)
        if self._audio_ms is None:
            audio_ms = _at_rate(self._size_bytes or MAX_UPLOAD_BYTES, BYTES_PER_SECOND_WORST)
        else:  # others may measure a little more: silence at the ends, whole frames
            audio_ms = self._audio_ms + max(1000, self._audio_ms // 100)
        if "input" not in model.prices:
            return Usage(audio_ms=audio_ms)
        tokens_out = OUTPUT_LEAST + _tokens(audio_ms, OUTPUT_PER_SECOND)
        return Usage(
            input_tokens=held_tokens(self._prompt_bytes) + _tokens(audio_ms, TOKENS_PER_SECOND_WORST) + 1,
            output_tokens=min(tokens_out, model.max_output_tokens or tokens_out),
            audio_ms=audio_ms,
        )

    def body_for(self, model: Model) -> bytes | Pieces:
        return self._fields.changed({} if model.name == self.model else {"model": model.name})

    def read(self, body: bytes, model: Model, parts: PartTokens) -> Answer:
        if self._format in _JSON_FORMATS:
            answer = read_object(body)
        else:  # text, or whatever a format is that we do not know
            said = read_json(body) if body.lstrip()[:1] == b"{" else None
            if not isinstance(said, dict):
                return Answer(None, len(body))
            answer = said
            if answer.get("error"):
                raise error_answer(answer["error"])
        text = answer.get("text")
        size = utf8_size(text) if isinstance(text, str) else len(body)
        return Answer(charged_by(answer, model), size)

    def meter(self, content_type: str, model: Model) -> TranscriptMeter | None:
        return TranscriptMeter(model) if media_type(content_type) == "text/event-stream" else None

    def likely_usage(self, model: Model, parts: PartTokens, output_bytes: int) -> Usage:
        worst = self.worst(model, parts)
        audio_ms = self._audio_ms or min(self._likely_ms(output_bytes), worst.audio_ms)
        if "audio_minute" in model.prices:
            return Usage(audio_ms=audio_ms, source="computed" if self._audio_ms else "estimated")
        spoken = _tokens(audio_ms, TOKENS_PER_SECOND_LIKELY)
        return Usage(
            input_tokens=likely_tokens(self._prompt_bytes) + spoken,
            audio_input_tokens=spoken,
            output_tokens=min(max(1, likely_tokens(output_bytes)), worst.output_tokens),
            audio_ms=audio_ms,
            source="estimated",
        )

    def _likely_ms(self, output_bytes: int) -> int:
        if self._size_bytes is None:
            return _at_rate(output_bytes, TEXT_BYTES_PER_SECOND)
        return _at_rate(self._size_bytes, BYTES_PER_SECOND_LIKELY)


def _at_rate(size_bytes: int, bytes_per_second: int) -> int:
    """Milliseconds of so many bytes, at least a second and at most what audio may be."""
    return max(1000, min(MAX_AUDIO_MS, -(-size_bytes * 1000 // bytes_per_second)))


def _tokens(audio_ms: int, per_second: int) -> int:
    return -(-audio_ms * per_second // 1000)


def parse(raw: bytes) -> TranscriptionAsk:
    """A JSON body: the audio by URL or as base64. Raises InvalidJson or InvalidValue."""
    return TranscriptionAsk(JsonFields(raw))


def parse_form(form: Form, content_type: str) -> TranscriptionAsk:
    """A form, with the audio as a file. Raises InvalidValue."""
    return TranscriptionAsk(FormFields(form, content_type))


ENDPOINT = Endpoint(
    name="transcriptions",
    path="/audio/transcriptions",
    bases=(frozenset({"audio_minute"}), frozenset({"input", "output"})),
    parse=parse,
    parse_form=parse_form,
    max_form_bytes=MAX_UPLOAD_BYTES,
)
