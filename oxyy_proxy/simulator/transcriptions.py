"""POST /v1/audio/transcriptions: what the fake model has heard."""

from __future__ import annotations

from . import durations, subtitles, tokens, words
from .answers import Answer, Usage, event, json_answer, sse_answer, text_answer
from .asked import Asked, text
from .errors import ApiError

FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
LINKED_MS = 5420
"""Duration of every sound that is a URL: that of the documentation's example."""
MS_PER_TOKEN = 100
TEXT, VTT = "text/plain; charset=utf-8", "text/vtt"


def answer(asked: Asked) -> Answer:
    """The answer to a request to transcribe. Raises ApiError 400."""
    duration_ms = _duration_ms(asked)
    spelled = text(asked.body, "response_format") or "json"
    if spelled not in FORMATS:
        raise ApiError(400, f"'response_format' must be one of {', '.join(FORMATS)}")
    wished = asked.wishes.words
    said = words.sentence(asked.seed, words.how_many(asked.seed) if wished is None else wished)
    usage = _usage(asked, duration_ms, len(said))
    report = _report(asked, usage)
    if asked.stream:
        return _streamed(said, usage, report)
    parts = subtitles.segments(said, duration_ms)
    match spelled:
        case "text":
            return text_answer("".join(said) + "\n", usage, TEXT)
        case "srt":
            return text_answer(subtitles.srt(parts), usage, TEXT)
        case "vtt":
            return text_answer(subtitles.vtt(parts), usage, VTT)
    payload: dict[str, object] = {"text": "".join(said)}
    if spelled == "verbose_json":
        payload["language"] = text(asked.body, "language") or "en"
        payload["duration"] = duration_ms / 1000
        payload["segments"] = [part.as_json() for part in parts]
    return json_answer(payload, usage, report, asked.wishes.omit)


def _streamed(said: list[str], usage: Usage, report: dict[str, object] | None) -> Answer:
    deltas = [event({"type": "transcript.text.delta", "delta": piece}) for piece in said]
    done: dict[str, object] = {"type": "transcript.text.done", "text": "".join(said)}
    if report is None:
        return sse_answer(deltas, usage, event(done), event(done))
    return sse_answer(deltas, usage, event({**done, "usage": report}), event(done))


def _duration_ms(asked: Asked) -> int:
    """Of the one sound that was given. Raises ApiError 400 if there is none."""
    for file in asked.files:
        if file.role == "file":
            if not file.data:
                raise ApiError(400, f"'{file.part}' is empty")
            return durations.milliseconds(file.data)
    if text(asked.body, "file_url"):
        return LINKED_MS
    raise ApiError(400, "One of 'file', 'file_url' or 'file_base64' is required", "missing_required_parameter")


def _usage(asked: Asked, duration_ms: int, output_tokens: int) -> Usage:
    if not asked.by_tokens:
        return Usage(audio_ms=duration_ms)
    audio_tokens = -(-duration_ms // MS_PER_TOKEN)
    input_tokens = tokens.of_text(text(asked.body, "prompt")) + audio_tokens
    return Usage(input_tokens, output_tokens, audio_input_tokens=audio_tokens, audio_ms=duration_ms)


def _report(asked: Asked, usage: Usage) -> dict[str, object] | None:
    """Tokens where the model is priced by them; seconds where the request wishes for a report all the same."""
    if asked.by_tokens:
        text_tokens = usage.input_tokens - usage.audio_input_tokens
        return {
            "type": "tokens",
            "input_tokens": usage.input_tokens,
            "input_token_details": {"text_tokens": text_tokens, "audio_tokens": usage.audio_input_tokens},
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.input_tokens + usage.output_tokens,
        }
    return {"type": "duration", "seconds": usage.audio_ms / 1000} if asked.wishes.usage else None
