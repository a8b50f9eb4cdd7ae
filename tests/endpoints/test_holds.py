"""What a cap rests on, over all endpoints: whatever an upstream can charge that keeps to what was asked was held.

Each case is a random request, and what a random answer to it is charged by the code under test. Which answers keep to
what was asked is modelled here anew, from the figures that the documentation of the hold names.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oxyy_proxy.endpoints import ENDPOINTS, chat, embeddings, images, speech, transcriptions, videos
from oxyy_proxy.endpoints.base import Ask, Endpoint
from oxyy_proxy.rules.price import cost_nusd
from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, Model, PartTokens, Price, Usage
from tests.endpoints.test_fields import sent

PARTS = PartTokens()
TOKEN_UNITS = ("input", "cached_input", "audio_input", "image_input", "output", "audio_output", "image_output")
ONE_UNITS = ("character", "audio_minute", "request")
RATE = st.one_of(st.integers(1, 9), st.integers(1, 1000 * NUSD_PER_USD)).map(Price)
UNIT_RATE = st.one_of(st.integers(1, 9), st.integers(1, 1000 * NUSD_PER_USD * PRICE_SCALE))
QUALITIES = ("hd", "low")
SIZES = ("1024x1024", "1080p")
PAIRS = tuple(f"{quality}:{size}" for quality in QUALITIES for size in SIZES)
VARIANTS = st.one_of(
    *(st.fixed_dictionaries(dict.fromkeys(names, UNIT_RATE)) for names in (SIZES, QUALITIES, PAIRS)),
    st.dictionaries(st.sampled_from([*QUALITIES, *SIZES, *PAIRS, "auto"]), UNIT_RATE, max_size=4),
)
VARIED = st.builds(Price, UNIT_RATE, VARIANTS)
PRICE_OF: dict[str, st.SearchStrategy[Price]] = {
    **dict.fromkeys(TOKEN_UNITS, RATE),
    **dict.fromkeys(ONE_UNITS, UNIT_RATE.map(Price)),
    **dict.fromkeys(("image", "video_second"), VARIED),
}
TEXT = st.text(min_size=1, max_size=60)
URL = "https://example.org/a"
Draw = Callable[[st.SearchStrategy[Any]], Any]


class Case(NamedTuple):
    """A request, what an answer to it is charged, and how many bytes of text its answer may have."""

    ask: Ask
    usage: Usage
    text_bytes: int


@st.composite
def models(draw: st.DrawFn, endpoint: Endpoint) -> Model:
    """A model that serves the endpoint, priced in one of the ways that it can be charged and in any others."""
    units = draw(st.sampled_from(endpoint.bases)) | draw(
        st.sets(st.sampled_from(sorted(PRICE_OF)), max_size=draw(st.sampled_from([0, 1, 5])))
    )
    most = draw(st.none() | st.integers(1, 9))
    return Model(
        "m",
        frozenset({endpoint.name}),
        {unit: draw(PRICE_OF[unit]) for unit in sorted(units)},
        max_output_tokens=draw(st.none() | st.integers(1, 20_000)),
        default_seconds=draw(st.none() | st.integers(1, most or 9)),
        max_seconds=most,
    )


def share(draw: Draw, most: float) -> int:
    """Anything up to `most`, and often all of it."""
    return int(draw(st.just(most) | st.floats(0, 1).map(lambda part: part * most)))


def members(draw: Draw, **given: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Some of these, some as null, some left out."""
    how = {name: draw(st.sampled_from(["said", "said", "null", "silent"])) for name in given}
    return {name: None if how[name] == "null" else draw(given[name]) for name in given if how[name] != "silent"}


def body(**given: Any) -> bytes:
    return json.dumps(given).encode()


def charged(ask: Ask, model: Model, answer: bytes, text_bytes: int) -> Usage:
    """As a whole answer is settled."""
    usage = ask.read(answer, model, PARTS).usage
    return ask.likely_usage(model, PARTS, text_bytes) if usage is None else usage


def spelt(draw: Draw, known: tuple[str, ...]) -> str:
    return draw(st.sampled_from([*known, known[0].upper() + " ", "", "auto", "4k"]))  # type: ignore[no-any-return]


def told(draw: Draw, asked: str | None, known: tuple[str, ...]) -> Any:
    """What an answer says of the quality or size that it has: what was asked, or anything where that was open."""
    kept = [asked, (asked or "").strip().lower()] if asked and asked != "auto" else [*known, "4k"]
    return draw(st.sampled_from([*kept, None, "", "auto"]))


# What each upstream may answer.


def a_chat(draw: Draw, model: Model) -> Case:
    text = draw(TEXT)
    media = draw(st.lists(st.sampled_from(["image_url", "input_audio", "file"]), max_size=3))
    parts = [{"type": "text", "text": text}, *({"type": kind} for kind in media)]
    limits = members(
        draw, max_tokens=st.integers(0, 9000), max_completion_tokens=st.integers(0, 9000), n=st.sampled_from([1, 2, 4])
    )
    raw = body(messages=[{"role": "user", "content": parts}], **limits)
    figures = {"image_url": PARTS.image, "input_audio": PARTS.audio, "file": PARTS.file}
    asked = [limits[name] for name in ("max_tokens", "max_completion_tokens") if limits.get(name) is not None]
    most = max(asked) if asked else min(4096, model.max_output_tokens or 4096)
    most *= limits.get("n") or 1
    tokens_in, tokens_out = share(draw, len(raw) // 2 + sum(figures[kind] for kind in media)), share(draw, most)
    usage = {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "prompt_tokens_details": {"cached_tokens": share(draw, tokens_in), "audio_tokens": share(draw, tokens_in)},
        "completion_tokens_details": {"audio_tokens": share(draw, tokens_out)},
    }
    ask = chat.ChatAsk(raw)
    text_bytes = share(draw, 4 * most)
    return Case(ask, charged(ask, model, body(usage=draw(st.sampled_from([usage, None]))), text_bytes), text_bytes)


def an_embedding(draw: Draw, model: Model) -> Case:
    tokens = st.lists(st.integers(0, 99), min_size=1, max_size=9)
    given = draw(TEXT | tokens | st.lists(TEXT, min_size=1, max_size=4) | st.lists(tokens, min_size=1, max_size=4))
    items = [given] if isinstance(given, str) else given
    most = sum(
        max(1, len(item.encode()) // 2) if isinstance(item, str) else 1 if isinstance(item, int) else len(item)
        for item in items
    )
    tokens_in = share(draw, most)
    ask = embeddings.EmbeddingsAsk(body(input=given))
    return Case(ask, charged(ask, model, body(usage={"prompt_tokens": tokens_in, "total_tokens": tokens_in}), 0), 0)


def some_images(draw: Draw, model: Model) -> Case:
    prompt, (quality, size) = draw(TEXT), (spelt(draw, QUALITIES), spelt(draw, SIZES))
    limits = members(draw, n=st.sampled_from([1, 2, 4]), quality=st.just(quality), size=st.just(size))
    return _images(draw, model, images.parse(body(prompt=prompt, **limits)), prompt, limits, pictures=0)


def an_edit(draw: Draw, model: Model) -> Case:
    prompt, (quality, size) = draw(TEXT), (spelt(draw, QUALITIES), spelt(draw, SIZES))
    limits = members(draw, n=st.sampled_from([1, 2, 4]), quality=st.just(quality), size=st.just(size))
    pictures = draw(st.integers(1, 4))
    if draw(st.booleans()):
        ask = images.parse_edit(body(prompt=prompt, image=[URL] * (pictures - 1), image_base64="AAAA", **limits))
    else:
        fields = [(name, str(value)) for name, value in limits.items() if value is not None]
        files = [("image[]", b"png")] * (pictures - 1) + [("image", b"png")]
        _, form, content_type = sent(("prompt", prompt), *files, *fields)
        ask = images.parse_edit_form(form, content_type)
    return _images(draw, model, ask, prompt, limits, pictures)


def _images(draw: Draw, model: Model, ask: Ask, prompt: str, limits: dict[str, Any], pictures: int) -> Case:
    most = limits.get("n") or 1
    tokens_in = share(draw, -(-len(prompt.encode()) // 2) + PARTS.image * pictures)
    tokens_out = share(draw, (model.max_output_tokens or 8192) * most)
    usage = {
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
        "input_tokens_details": {"image_tokens": share(draw, tokens_in)},
        "output_tokens_details": draw(st.sampled_from([None, {"image_tokens": share(draw, tokens_out)}])),
    }
    answer = body(
        data=[{}] * (share(draw, most - 1) + 1),
        quality=told(draw, limits.get("quality"), QUALITIES),
        size=told(draw, limits.get("size"), SIZES),
        usage=draw(st.sampled_from([usage, None])),
    )
    return Case(ask, charged(ask, model, answer, 0), 0)


def a_video(draw: Draw, model: Model) -> Case:
    asked = members(draw, duration=st.integers(1, model.max_seconds or 60), resolution=st.just(spelt(draw, SIZES)))
    default = model.default_seconds or min(4, model.max_seconds or 4)
    ask = videos.parse(body(prompt="a lake", **asked))
    made_ms = share(draw, (asked.get("duration") or default) * 1000)
    answer = {
        "status": "completed",
        "duration": made_ms / 1000,
        "resolution": told(draw, asked.get("resolution"), SIZES),
    }
    seen, held = videos.read_job("j", body(**answer)), ask.worst(model, PARTS)
    # As `Jobs.seen` settles it.
    ms = held.video_ms if seen.video_ms is None else seen.video_ms
    return Case(ask, Usage(video_ms=ms, size=seen.size or held.size), 0)


def a_transcription(draw: Draw, model: Model) -> Case:
    prompt, said = draw(st.just("") | TEXT), draw(st.sampled_from(["json", "verbose_json", "text", "vtt"]))
    length = draw(st.none() | st.integers(1, 90_000_000))
    if draw(st.booleans()):
        ask, most_s = transcriptions.parse(body(file_url=URL, prompt=prompt, response_format=said)), 25 * 2**20 / 1000
    else:
        size = draw(st.integers(1, 20_000))
        file = ("file", b"a" * size)
        _, form, content_type = sent(file, ("prompt", prompt), ("response_format", said))
        ask, most_s = transcriptions.parse_form(form, content_type), max(1, size / 1000)
        ask.measured(length)
        if length is not None and length <= 86_400_000:
            most_s = max(length / 1000 + 1, length / 1000 * 1.01 - 0.001)
    tokens_in = share(draw, -(-len(prompt.encode()) // 2) + 50 * most_s)
    tokens_out = share(draw, min(200 + 10 * most_s, model.max_output_tokens or 10**9))
    usage = {"input_tokens": tokens_in, "output_tokens": tokens_out}
    usage["input_token_details"] = {"audio_tokens": share(draw, tokens_in)}  # type: ignore[assignment]
    text_bytes = share(draw, 10**6)
    duration = draw(st.sampled_from([share(draw, most_s * 1000) / 1000, None]))
    answer = {"text": "Hi", "usage": draw(st.sampled_from([usage, None])), "duration": duration}
    if draw(st.booleans()):
        return Case(ask, charged(ask, model, body(**answer), text_bytes), text_bytes)
    meter = ask.meter("text/event-stream", model)
    assert meter is not None
    meter.feed(b"data: " + body(type="transcript.text.done", **answer) + b"\n\n")
    return Case(ask, meter.usage or ask.likely_usage(model, PARTS, meter.output_bytes), text_bytes)


def a_speech(draw: Draw, model: Model) -> Case:
    text = draw(TEXT)
    ask = speech.SpeechAsk(body(input=text, voice="alloy"))
    meter = ask.meter("audio/mpeg", model)
    assert meter is not None
    meter.feed(draw(st.binary(min_size=1)))
    meter.finish()
    assert meter.usage == Usage(characters=len(text), source="computed")
    return Case(ask, meter.usage, 0)


CASES: dict[str, Callable[[Draw, Model], Case]] = {
    "chat": a_chat,
    "embeddings": an_embedding,
    "images": some_images,
    "image_edits": an_edit,
    "videos": a_video,
    "transcriptions": a_transcription,
    "speech": a_speech,
}


def test_every_endpoint_has_its_cases() -> None:
    assert CASES.keys() == {endpoint.name for endpoint in ENDPOINTS}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_an_answer_that_keeps_to_what_was_asked_never_costs_more_than_the_hold(
    endpoint: Endpoint, data: st.DataObject
) -> None:
    model = data.draw(models(endpoint))
    case = CASES[endpoint.name](data.draw, model)
    held = case.ask.target(model, PARTS)
    assert held.worst_nusd >= cost_nusd(case.usage, model.prices)
    assert held.worst_tokens >= case.usage.tokens


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_an_estimate_is_never_nothing_and_never_more_than_the_hold(endpoint: Endpoint, data: st.DataObject) -> None:
    model = data.draw(models(endpoint))
    case = CASES[endpoint.name](data.draw, model)
    held = case.ask.target(model, PARTS)
    for text_bytes in (0, case.text_bytes):
        estimate = case.ask.likely_usage(model, PARTS, text_bytes)
        assert 0 < cost_nusd(estimate, model.prices) <= held.worst_nusd
        assert estimate.tokens <= held.worst_tokens
        assert estimate.source in ("estimated", "computed")
