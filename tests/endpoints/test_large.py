"""Large answers: what passes when, and that they are charged as if they had been read whole."""

from __future__ import annotations

import json
import random
import tracemalloc
from typing import Any

import pytest

from oxyy_proxy.endpoints import chat, embeddings, images, speech, transcriptions, videos
from oxyy_proxy.endpoints.base import Answer, Ask, StreamMeter
from oxyy_proxy.endpoints.fields import MAX_WORD_CHARS
from oxyy_proxy.endpoints.large import LargeMeter
from oxyy_proxy.errors import UpstreamBadResponse, UpstreamErrorAnswer
from oxyy_proxy.rules import slimjson
from oxyy_proxy.rules.slimjson import Slimmer
from oxyy_proxy.rules.types import NUSD_PER_USD, Model, PartTokens, Price, Usage
from tests.rules.policies import model

PARTS = PartTokens()
GPT = model("gpt-5")
DALL_E = model("dall-e-3", prices={"image": Price(NUSD_PER_USD, {"hd": 2 * NUSD_PER_USD})})
GPT_IMAGE = model("gpt-image-1", prices={"input": Price(5), "image_input": Price(10), "image_output": Price(40)})
WHISPER = model("whisper-1", prices={"audio_minute": Price(NUSD_PER_USD)})
VEO = model("veo-3", prices={"video_second": Price(NUSD_PER_USD)})

URL = "https://example.org/a.mp3"
STORY = 'She said: "Grüße aus 東京!" 🎈 \\o/\n' * 3000
BASE64 = "iVBORw0KGgo/AAAA+NSUhEUgAA" * 4000
ROW = [round(random.Random(1).uniform(-1, 1), 8) for _ in range(1536)]
TOKENS = {"prompt_tokens": 9, "completion_tokens": 12, "prompt_tokens_details": {"cached_tokens": 4}}
IMAGE_TOKENS = {"input_tokens": 50, "output_tokens": 4160, "input_tokens_details": {"image_tokens": 30}}
LOGPROBS = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "a", "bytes": [97]}] * 20}] * 200


def chat_ask() -> Ask:
    return chat.ENDPOINT.parse(b'{"model":"gpt-5","messages":[{"role":"user","content":"Hi"}]}')


def embeddings_ask() -> Ask:
    return embeddings.ENDPOINT.parse(b'{"model":"gpt-5","input":"Hi"}')


def images_ask(**members: Any) -> Ask:
    return images.parse(json.dumps({"model": "dall-e-3", "prompt": "a cat", **members}).encode())


def transcription_ask(said: str = "verbose_json") -> Ask:
    return transcriptions.parse(json.dumps({"file_url": URL, "response_format": said}).encode())


def choices(*contents: object, **more: object) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": one}, **more} for one in contents]}


def metered(asked: Ask, body: bytes, by: Model = GPT, piece_bytes: int = 16_000) -> LargeMeter:
    """A meter that the whole of `body` went through, to its end."""
    meter = LargeMeter(asked, by, PARTS)
    for at in range(0, len(body), piece_bytes):
        meter.feed(body[at : at + piece_bytes])
    assert meter.finish() == b""
    return meter


# What passes.


@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 10_000])
def test_all_but_the_last_byte_passes_at_once(piece_bytes: int) -> None:
    body = json.dumps({**choices("Hello"), "usage": TOKENS}).encode()
    meter: StreamMeter = LargeMeter(chat_ask(), GPT, PARTS)
    passed = b""
    for at in range(0, len(body), piece_bytes):
        passed += meter.feed(body[at : at + piece_bytes])
        assert passed == body[: at + piece_bytes][:-1]
        assert meter.feed(b"") == b""
        assert (meter.started, meter.ended, meter.usage, meter.failure) == (True, False, None, None)
    assert (meter.finish(), meter.farewell) == (b"", body[-1:])
    assert (meter.ended, meter.failure, meter.events, meter.mid_event) == (True, None, False, False)
    assert meter.usage == Usage(input_tokens=9, output_tokens=12, cached_input_tokens=4)


def test_an_answer_of_nothing_has_not_begun() -> None:
    meter = metered(transcription_ask("text"), b"", WHISPER)
    assert (meter.started, meter.ended, meter.farewell, meter.failure) == (False, False, b"", None)


def test_the_end_comes_once() -> None:
    for body in (json.dumps({**choices("Hello"), "usage": TOKENS}).encode(), b'{"error":"no"}'):
        meter = metered(chat_ask(), body)
        before = (meter.ended, meter.usage, meter.failure)
        assert meter.finish() == b""
        assert (meter.ended, meter.usage, meter.failure) == before


# What is charged.

WORD = {"size": "1024x1792", "quality": "hd"}

ANSWERS: dict[str, tuple[Ask, Model, Any]] = {
    "chat": (chat_ask(), GPT, {"id": "x", **choices(STORY, STORY), "usage": TOKENS}),
    "chat, total": (chat_ask(), GPT, {"usage": {"prompt_tokens": 3, "total_tokens": 8}, **choices(STORY)}),
    "chat, log-probabilities": (
        chat_ask(),
        GPT,
        {**choices("a" * 200, logprobs={"content": LOGPROBS}), "usage": TOKENS},
    ),
    "chat, parts": (chat_ask(), GPT, {**choices([{"type": "text", "text": STORY}]), "usage": TOKENS}),
    "chat, no usage": (chat_ask(), GPT, choices("A story. " * 9999, "in two")),
    "chat, a long key": (chat_ask(), GPT, {"usage" + " " * 600: {"prompt_tokens": 7}, **choices(""), "usage": TOKENS}),
    "chat, tool calls, no usage": (
        chat_ask(),
        GPT,
        {
            "choices": [
                {
                    "message": {
                        "tool_calls": [{"function": {"name": "f", "arguments": "{}" * 50}}] * 200,
                        "refusal": "No. " * 999,
                    }
                }
            ]
        },
    ),
    "embeddings": (
        embeddings_ask(),
        GPT,
        {"data": [{"index": n, "embedding": ROW} for n in range(20)], "usage": {"prompt_tokens": 5, "total_tokens": 5}},
    ),
    "embeddings, base64": (
        embeddings_ask(),
        GPT,
        {
            "data": [{"index": n, "embedding": BASE64} for n in range(20)],
            "usage": {"prompt_tokens": 5, "total_tokens": 5},
        },
    ),
    "embeddings, no usage": (embeddings_ask(), GPT, {"data": [{"index": 0, "embedding": ROW}]}),
    "images": (images_ask(n=3), DALL_E, {"created": 1, "data": [{"b64_json": BASE64}] * 3}),
    "images, fewer": (images_ask(n=9), DALL_E, {"data": [{"b64_json": BASE64}, {"url": URL}], **WORD}),
    "images, of strings": (images_ask(n=9), DALL_E, {"data": [BASE64] * 5, "size": BASE64, "quality": BASE64}),
    "images, tokens": (images_ask(n=2), GPT_IMAGE, {"data": [{"b64_json": BASE64}] * 2, "usage": IMAGE_TOKENS}),
    "images, no usage": (images_ask(n=2), GPT_IMAGE, {"data": [{"b64_json": BASE64}] * 2}),
    "transcript": (transcription_ask("json"), WHISPER, {"text": STORY, "usage": {"type": "duration", "seconds": 61.5}}),
    "transcript, words": (
        transcription_ask(),
        WHISPER,
        {
            "task": "transcribe",
            "duration": "3600.25",
            "text": STORY,
            "words": [{"word": "hello", "start": n / 2, "end": n / 2 + 0.4} for n in range(7200)],
            "segments": [{"id": n, "tokens": list(range(400)), "text": STORY[:700]} for n in range(20)],
        },
    ),
    "transcript, nothing said": (transcription_ask("json"), WHISPER, {"text": "So he said. " * 3000}),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("is_ascii", [False, True])
def test_it_is_charged_as_if_it_had_been_read_whole(name: str, indent: int | None, is_ascii: bool) -> None:
    asked, by, said = ANSWERS[name]
    body = json.dumps(said, indent=indent, ensure_ascii=is_ascii).encode()
    whole = asked.read(body, by, PARTS)
    meter = metered(asked, body, by)
    assert (meter.ended, meter.failure, meter.usage) == (True, None, whole.usage)
    if body.isascii() and b"\\" not in body and whole.output_bytes:
        assert meter.output_bytes == whole.output_bytes
    slimmer = Slimmer()
    slimmer.feed(body)
    assert len(slimmer.finish()) < len(body)


def test_a_word_of_escapes_alone_is_read() -> None:
    word = "\\u0031" * MAX_WORD_CHARS
    body = b'{"data":[{}],"size":"' + word.encode() + b'","quality":"' + word.encode() + b'\\u0031"}'
    usage = metered(images_ask(), body, DALL_E).usage
    assert usage is not None
    assert (usage.size, usage.quality) == ("1" * MAX_WORD_CHARS, "")


def test_a_transcript_that_is_no_json_is_estimated_by_its_size() -> None:
    body = ('1\n00:00:00,000 --> 00:00:02,000\nHe said "no", and [left].\n\n' * 2000).encode()
    for said in ("srt", "text", "vtt"):
        meter = metered(transcription_ask(said), body, WHISPER)
        assert (meter.ended, meter.usage, meter.output_bytes) == (True, None, len(body))


def test_what_is_larger_than_can_be_read_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slimjson, "MAX_SLIM_BYTES", 1000)
    body = json.dumps({**choices("a" * 50_000), "many": ["x"] * 1000, "usage": TOKENS}).encode()
    meter = metered(chat_ask(), body)
    assert (meter.ended, meter.usage, meter.failure) == (True, None, None)
    assert 49_000 < meter.output_bytes < 50_000


def test_what_was_generated_so_far_is_known_in_mid_answer() -> None:
    meter = LargeMeter(chat_ask(), GPT, PARTS)
    meter.feed(json.dumps(choices("a" * 500_000)).encode())
    assert 400_000 < meter.output_bytes <= 500_000


# What is no answer.


@pytest.mark.parametrize(
    ("asked", "by", "body"),
    [
        (chat_ask(), GPT, json.dumps({**choices(STORY), "usage": TOKENS}).encode()[:-1]),
        (chat_ask(), GPT, json.dumps({"usage": TOKENS, **choices(STORY)}).encode()[:50_000]),
        (chat_ask(), GPT, json.dumps([choices(STORY), TOKENS]).encode()),
        (chat_ask(), GPT, b"<html>" + b"<p>Bad gateway</p>" * 5000),
        (embeddings_ask(), GPT, json.dumps({"usage": TOKENS, "data": [ROW] * 5}).encode()[:40_000]),
        (images_ask(), DALL_E, json.dumps({"data": []}).encode()),
        (images_ask(), DALL_E, json.dumps({"data": BASE64}).encode()),
        (images_ask(), DALL_E, b'{"data":[' + b"{}," * images.MAX_MADE + b"{}]}"),
        (transcription_ask("json"), WHISPER, STORY.encode()),
        (videos.parse(b'{"model":"veo-3","prompt":"a cat"}'), VEO, b'{"id":"v1","status":"queued"}'),
        (speech.SpeechAsk(b'{"model":"tts","voice":"a","input":"Hi"}'), GPT, json.dumps({"a": STORY}).encode()),
    ],
    ids=["last byte", "broken off", "array", "page", "row", "none", "string", "too many", "text", "job", "speech"],
)
def test_what_is_no_answer_has_not_ended(asked: Ask, by: Model, body: bytes) -> None:
    meter = metered(asked, body, by)
    assert isinstance(meter.failure, UpstreamBadResponse)
    assert (meter.started, meter.ended, meter.usage, meter.farewell) == (True, False, None, body[-1:])


@pytest.mark.parametrize(
    "error", [{"message": STORY}, STORY, ["a" * 9999], [*ROW], {"a": {"b": ROW}}, "é" * 9999], ids=len
)
@pytest.mark.parametrize("name", ["chat", "embeddings", "images", "transcript"])
def test_an_error_is_one_however_long(name: str, error: object) -> None:
    asked, by, said = ANSWERS[name]
    meter = metered(asked, json.dumps({**said, "error": error}, ensure_ascii=False).encode(), by)
    assert isinstance(meter.failure, UpstreamErrorAnswer)
    assert (meter.ended, meter.usage) == (False, None)


def test_a_large_answer_is_not_kept() -> None:
    meter = LargeMeter(images_ask(n=10), DALL_E, PARTS)
    piece = b"iVBORw0KGgo/AAAA" * 4096
    tracemalloc.start()
    try:
        meter.feed(b'{"data":[')
        for at in range(10):
            meter.feed(b',{"b64_json":"' if at else b'{"b64_json":"')
            for _ in range(160):
                meter.feed(piece)
            meter.feed(b'"}')
        meter.feed(b"]}")
        meter.finish()
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert meter.usage == Usage(images=10, source="computed")


def test_reading_whole_is_what_it_is_compared_with() -> None:
    """The answers above are ones that are charged for, save those that say nothing."""
    silent = {"chat, no usage", "chat, tool calls, no usage", "embeddings, no usage", "transcript, nothing said"}
    for name, (asked, by, said) in ANSWERS.items():
        answer = asked.read(json.dumps(said).encode(), by, PARTS)
        assert (answer.usage is None) == (name in silent)
        assert answer != Answer(None) or name == "embeddings, no usage"
