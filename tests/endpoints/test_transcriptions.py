"""Transcriptions: what is refused, what is held, what goes upstream, and what an answer is charged."""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import pytest

from oxyy_proxy.endpoints.base import Answer
from oxyy_proxy.endpoints.transcript import MAX_AUDIO_MS, TranscriptMeter
from oxyy_proxy.endpoints.transcriptions import (
    ENDPOINT,
    MAX_UPLOAD_BYTES,
    OUTPUT_LEAST,
    TranscriptionAsk,
    parse,
    parse_form,
)
from oxyy_proxy.errors import InvalidJson, InvalidValue, UpstreamBadResponse, UpstreamErrorAnswer
from oxyy_proxy.policyfiles.values import MAX_PRICE
from oxyy_proxy.rules.multipart import Span
from oxyy_proxy.rules.price import cost_nusd
from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, PartTokens, Price, Usage
from tests.endpoints.test_fields import sent, texts
from tests.rules.policies import model

PARTS = PartTokens()
WHISPER = model("whisper-1", prices={"audio_minute": Price(6 * NUSD_PER_USD * PRICE_SCALE // 1000)})
GPT = model("gpt-4o-transcribe", prices={"input": Price(6), "audio_input": Price(9), "output": Price(10)})
BOTH = model("both", prices={**GPT.prices, **WHISPER.prices})
URL = "https://example.org/a.mp3"
SOUND = b"ID3\x04--\r\n\0\xff" * 1000
FORMATS = ("text", "srt", "vtt")


def ask(**members: Any) -> TranscriptionAsk:
    return parse(json.dumps({"model": "whisper-1", "file_url": URL, **members}).encode())


def ask_form(*parts: tuple[str, str | bytes]) -> TranscriptionAsk:
    _, form, content_type = sent(("model", "whisper-1"), *parts)
    return parse_form(form, content_type)


def measured(audio_ms: int | None, sound: bytes = SOUND, **fields: str) -> TranscriptionAsk:
    asked = ask_form(("file", sound), *fields.items())
    asked.measured(audio_ms)
    return asked


def read(answer: object, asked: TranscriptionAsk | None = None, by: Any = WHISPER) -> Answer:
    return (asked or ask(response_format="verbose_json")).read(json.dumps(answer).encode(), by, PARTS)


# What is refused.


@pytest.mark.parametrize(
    ("members", "param"),
    [
        *(({"stream": value}, "stream") for value in ("true", 1, [])),
        *(({"response_format": value}, "response_format") for value in (1, [], {"type": "json"})),
        *(({"prompt": value}, "prompt") for value in (1, [], {})),
        *(({"file_url": value}, "file_url") for value in (1, [URL], {}, "")),
        *(({"file_url": None, "file_base64": value}, "file_base64") for value in (1, ["AAAA"], {}, "", "A")),
        ({"file_url": None}, "file"),
        ({"file_base64": "AAAA"}, "file"),
        *(({"file": value}, "file") for value in (URL, "", 1, {})),
        *(({"file_url": None, "file": value}, "file") for value in (URL, 1)),
        *(({"model": value}, "model") for value in (1, "", [])),
    ],
    ids=str,
)
def test_a_member_of_the_wrong_type_or_audio_twice_is_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ask(**members)
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([], "file"),
        ([("file", b"")], "file"),
        ([("file", "text")], "file"),
        ([("file", b"a"), ("file", b"b")], "file"),
        ([("file", b"a"), ("file[]", b"b")], "file"),
        ([("file", b"a"), ("file_url", URL)], "file"),
        ([("file", b"a"), ("file_base64", "AAAA")], "file"),
        ([("file_url", URL), ("file_base64", "AAAA")], "file"),
        ([("file_url", URL), ("file", "text")], "file"),
        ([("file_base64", "")], "file_base64"),
        ([("file_url", "")], "file_url"),
        ([("audio", b"a")], "file"),
        ([("file", b"a"), ("stream", "yes")], "stream"),
        ([("file", b"a"), ("prompt", b"a")], "prompt"),
    ],
    ids=str,
)
def test_a_form_must_hold_the_audio_once(parts: list[tuple[str, str | bytes]], param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ask_form(*parts)
    assert caught.value.param == param


def test_a_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidJson):
        parse(b"RIFF")


# What is looked at before it is held for.


def test_a_url_is_shown_and_has_no_length() -> None:
    for asked in (ask(), ask_form(("file_url", URL))):
        assert (asked.urls, asked.recording) == (((URL, "file_url"),), None)


def test_a_file_is_measured_where_it_stands() -> None:
    given = sent(("prompt", "ä"), ("file", SOUND), ("model", "whisper-1"))
    asked = parse_form(given.form, given.content_type)
    assert isinstance(asked.recording, Span)
    assert given.raw[asked.recording.start : asked.recording.end] == SOUND
    assert asked.urls == ()
    asked.measured(5420)
    assert asked.recording is None


def test_base64_is_measured_and_then_no_longer_kept() -> None:
    asked = ask(file_url=None, file_base64="A" * 8_000_000)
    assert asked.recording == "A" * 8_000_000
    assert asked.worst(WHISPER, PARTS).audio_ms == 6_000_000
    asked.measured(5420)
    gc.collect()
    assert asked.recording is None
    assert not [one for one in gc.get_referents(asked._fields.members) if sys.getsizeof(one) > 1000]  # type: ignore[attr-defined]
    assert asked.worst(WHISPER, PARTS).audio_ms == 6420
    assert len(asked.body_for(WHISPER)) > 8_000_000


# What goes upstream.


def test_what_is_unknown_passes_byte_for_byte() -> None:
    raw = b'{ "model":"whisper-1","file_url":"%b" ,"temperature":"x","language":7,"include":["\\ud83c"],"x":1e0 }\n'
    raw = raw.replace(b"%b", URL.encode())
    assert parse(raw).body_for(WHISPER) is raw
    assert parse(raw).body_for(GPT) == raw.replace(b"whisper-1", b"gpt-4o-transcribe")
    assert json.loads(parse(b'{"file_url":"x"}').body_for(WHISPER)) == {"file_url": "x", "model": "whisper-1"}  # type: ignore[arg-type]


def test_a_form_goes_up_with_its_file_as_it_is() -> None:
    words = ("timestamp_granularities[]", "word")
    given = sent(("file", SOUND), words, ("timestamp_granularities[]", "segment"), ("model", "whisper-1"))
    asked = parse_form(given.form, given.content_type)
    assert given.joined(asked.body_for(WHISPER)) == given.raw
    assert given.joined(asked.body_for(GPT)) == given.raw.replace(b"whisper-1", b"gpt-4o-transcribe")
    assert asked.content_type == given.content_type


def test_a_form_without_a_model_gets_one() -> None:
    given = sent(("file", SOUND), ("language", "en"))
    asked = parse_form(given.form, given.content_type)
    assert asked.model is None
    up = given.joined(asked.body_for(WHISPER))
    assert up.endswith(given.raw)
    assert texts(up, given.content_type) == {"model": "whisper-1", "language": "en"}


def test_a_form_that_cannot_hold_a_model_is_refused_before_it_is_held_for() -> None:
    _, form, content_type = sent(("file", SOUND.replace(b"--", b"")), boundary="1")
    with pytest.raises(InvalidValue, match="boundary"):
        parse_form(form, content_type).target(model("whisper--1", prices=WHISPER.prices), PARTS)


# What is held.


@pytest.mark.parametrize(
    ("audio_ms", "held_ms"), [(1, 1001), (5420, 6420), (100_000, 101_000), (200_000, 202_000), (3_600_000, 3_636_000)]
)
def test_a_length_is_held_with_some_slack(audio_ms: int, held_ms: int) -> None:
    asked = measured(audio_ms)
    assert asked.worst(WHISPER, PARTS) == Usage(audio_ms=held_ms)
    assert asked.target(WHISPER, PARTS).worst_nusd == held_ms * 100


@pytest.mark.parametrize("odd", [None, 0, -5, MAX_AUDIO_MS + 1, 10**30])
def test_a_length_that_is_not_known_is_held_by_size_and_estimated_by_it(odd: int | None) -> None:
    asked = measured(odd, b"a" * 80_000)
    assert asked.worst(WHISPER, PARTS).audio_ms == 80_000
    assert asked.likely_usage(WHISPER, PARTS, 0) == Usage(audio_ms=10_000, source="estimated")


def test_the_least_is_a_second_and_a_url_is_held_as_the_largest_file() -> None:
    assert measured(None, b"a").worst(WHISPER, PARTS).audio_ms == 1000
    assert measured(None, b"a").likely_usage(WHISPER, PARTS, 0).audio_ms == 1000
    assert ask().worst(WHISPER, PARTS).audio_ms == MAX_UPLOAD_BYTES


def test_tokens_are_held_for_the_sound_the_prompt_and_the_text() -> None:
    held = measured(60_000, prompt="ä" * 10).worst(GPT, PARTS)
    assert held == Usage(input_tokens=10 + 61 * 50 + 1, output_tokens=OUTPUT_LEAST + 610, audio_ms=61_000)
    few = model("few", prices=GPT.prices, max_output_tokens=7)
    assert measured(60_000).worst(few, PARTS).output_tokens == 7
    assert measured(60_000).target(GPT, PARTS).worst_tokens == 61 * 50 + 1 + 810


def test_the_longest_audio_at_the_dearest_price_fits_64_bits() -> None:
    each, million = Price(int(MAX_PRICE) * NUSD_PER_USD * PRICE_SCALE), Price(10**6 * NUSD_PER_USD)
    dearest = model("m", prices={"audio_minute": each, "request": each, "input": million, "output": million})
    assert measured(MAX_AUDIO_MS).target(dearest, PARTS).worst_nusd < 2**63


# What an answer is charged.


def test_the_answer_goes_before_the_file() -> None:
    asked = measured(5000, response_format="verbose_json")
    assert read({"text": "Hi", "duration": 5.42}, asked) == Answer(Usage(audio_ms=5420), 2)
    assert read({"text": "Hi"}, asked) == Answer(None, 2)
    assert asked.likely_usage(WHISPER, PARTS, 2) == Usage(audio_ms=5000, source="computed")


def test_tokens_are_charged_where_they_have_a_price() -> None:
    usage = {"input_tokens": 14, "output_tokens": 9, "input_token_details": {"audio_tokens": 12}}
    told = Usage(input_tokens=14, audio_input_tokens=12, output_tokens=9)
    for by, expected in ((GPT, told), (BOTH, told), (WHISPER, None)):
        assert read({"text": "Hi", "usage": usage}, by=by).usage == expected


@pytest.mark.parametrize(
    ("answer", "output_bytes"),
    [
        ({"text": "日本"}, 6),
        ({"text": "\ud83c"}, 3),
        ({"text": ""}, 0),
        ({"text": None}, 14),
        ({"text": [1]}, 13),
        ({}, 2),
    ],
    ids=ascii,
)
def test_text_is_measured_for_an_estimate(answer: dict[str, Any], output_bytes: int) -> None:
    assert read(answer) == Answer(None, output_bytes)


@pytest.mark.parametrize("body", [b"", b"Hello", b"<html>", b"[]", b'"x"', b"null", b'{"text":', b"\xff", b"{" * 9999])
@pytest.mark.parametrize("said", [None, "json", "verbose_json", "diarized_json"])
def test_what_is_no_json_where_json_was_asked_for_may_have_cost(body: bytes, said: str | None) -> None:
    with pytest.raises(UpstreamBadResponse):
        ask(response_format=said).read(body, WHISPER, PARTS)


@pytest.mark.parametrize("said", [None, "json", "verbose_json", *FORMATS, "unheard_of"])
def test_an_error_with_status_200_costs_nothing(said: str | None) -> None:
    for body in (b'{"error":{"message":"no"}}', b'\r\n {"error":"no","text":""}'):
        with pytest.raises(UpstreamErrorAnswer):
            ask(response_format=said).read(body, WHISPER, PARTS)


@pytest.mark.parametrize("said", [*FORMATS, "unheard_of"])
@pytest.mark.parametrize(
    "body",
    [
        b"Hello\n",
        b"",
        b"WEBVTT\n\n00:00.000 --> 00:01.000\nHi",
        b"{not json}",
        b'{"a"',
        b"[1]",
        b"\xff\xfe",
        b"{" * 9999,
    ],
)
def test_other_formats_are_text_of_any_kind(said: str, body: bytes) -> None:
    assert ask(response_format=said).read(body, WHISPER, PARTS) == Answer(None, len(body))


@pytest.mark.parametrize("said", [*FORMATS, "unheard_of"])
def test_json_in_place_of_text_is_read_too(said: str) -> None:
    assert read({"text": "Hi", "duration": 3}, ask(response_format=said)) == Answer(Usage(audio_ms=3000), 2)
    assert read({"text": "Hi"}, ask(response_format=said)) == Answer(None, 2)


@pytest.mark.parametrize("stream", [True, False, None])
def test_events_are_metered_whether_or_not_they_were_asked_for(stream: bool | None) -> None:
    asked = ask(stream=stream)
    assert asked.stream is bool(stream)
    for content_type in ("text/event-stream", "Text/Event-Stream; charset=utf-8"):
        assert isinstance(asked.meter(content_type, WHISPER), TranscriptMeter)
    for content_type in ("application/json", "text/plain", "", "text/event-streams"):
        assert asked.meter(content_type, WHISPER) is None


# What is estimated.


@pytest.mark.parametrize(
    ("output_bytes", "audio_ms"), [(0, 1000), (15, 1000), (150, 10_000), (10**9, MAX_UPLOAD_BYTES)]
)
def test_audio_that_is_elsewhere_is_estimated_by_its_text(output_bytes: int, audio_ms: int) -> None:
    assert ask().likely_usage(WHISPER, PARTS, output_bytes) == Usage(audio_ms=audio_ms, source="estimated")


def test_tokens_are_estimated_from_the_length_and_the_text() -> None:
    estimated = measured(60_000, prompt="ä" * 10).likely_usage(GPT, PARTS, 40)
    assert estimated == Usage(
        input_tokens=5 + 600, audio_input_tokens=600, output_tokens=10, audio_ms=60_000, source="estimated"
    )
    assert measured(60_000).likely_usage(GPT, PARTS, 0).output_tokens == 1
    assert measured(60_000).likely_usage(GPT, PARTS, 10**9).output_tokens == OUTPUT_LEAST + 610


def test_a_model_with_a_price_per_minute_is_estimated_by_it() -> None:
    estimated = measured(60_000).likely_usage(BOTH, PARTS, 40)
    assert estimated == Usage(audio_ms=60_000, source="computed")
    assert cost_nusd(estimated, BOTH.prices) == 6_000_000


def test_the_endpoint_is_charged_by_the_minute_or_by_tokens() -> None:
    assert (ENDPOINT.name, ENDPOINT.path) == ("transcriptions", "/audio/transcriptions")
    assert ENDPOINT.bases == (frozenset({"audio_minute"}), frozenset({"input", "output"}))
    assert (ENDPOINT.max_form_bytes, ENDPOINT.after_ambiguous) == (25 * 1024 * 1024, None)
    assert (ENDPOINT.parse, ENDPOINT.parse_form) == (parse, parse_form)
