"""Speech: what is refused, what is held and goes upstream, and how sound passes."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest

from oxyy_proxy.endpoints.speech import ENDPOINT, SoundMeter, SpeechAsk
from oxyy_proxy.errors import InvalidJson, InvalidValue, UpstreamBadResponse, UpstreamErrorAnswer
from oxyy_proxy.rules.price import cost_nusd
from oxyy_proxy.rules.types import NUSD_PER_USD, PartTokens, Price, Usage
from tests.rules.policies import model

PARTS = PartTokens()
TTS = model("tts-1", prices={"character": Price(30 * NUSD_PER_USD)})
WHOLE = Usage(characters=2, source="computed")


def ask(**members: Any) -> SpeechAsk:
    return SpeechAsk(json.dumps({"model": "tts-1", "voice": "alloy", "input": "Hi", **members}).encode())


def meter() -> SoundMeter:
    found = ask().meter("audio/mpeg", TTS)
    assert found is not None
    return found


# What is refused.


@pytest.mark.parametrize(
    ("members", "param"),
    [
        *(({"input": value}, "input") for value in (None, "", 1, True, ["a"], {})),
        *(({"voice": value}, "voice") for value in (None, "", 1, True, [], ["alloy"], {})),
        *(({"model": value}, "model") for value in (1, "", [])),
    ],
    ids=str,
)
def test_a_member_of_the_wrong_type_is_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ask(**members)
    assert (caught.value.param, caught.value.code) == (param, "invalid_value")


def test_a_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidJson):
        SpeechAsk(b"Hello")


# What is held, and what goes upstream.


@pytest.mark.parametrize(
    ("written", "characters"),
    [
        ('"Hello"', 5),
        ('" "', 1),
        ('"日本"', 2),
        ('"🎈"', 1),
        ('"\\ud83c\\udf88"', 1),
        ('"\\ud83c"', 1),
        ('"\\udf88\\ud83c"', 2),
        ('"e\\u0301"', 2),
        ('"👩‍👩‍👧"', 5),
        ('"\\u0000\\n"', 2),
    ],
)
def test_characters_are_code_points_and_go_up_as_they_were_written(written: str, characters: int) -> None:
    raw = f'{{"model":"tts-1","input":{written}, "voice":"alloy"}}'.encode()
    asked = SpeechAsk(raw)
    usage = Usage(characters=characters, source="computed")
    assert asked.worst(TTS, PARTS) == asked.likely_usage(TTS, PARTS, 12345) == usage
    assert asked.target(TTS, PARTS).worst_nusd == cost_nusd(usage, TTS.prices) == characters * 30_000
    assert asked.body_for(TTS) is raw
    assert asked.body_for(model("tts-2")) == raw.replace(b"tts-1", b"tts-2")


def test_what_is_unknown_passes_byte_for_byte() -> None:
    raw = b'{ "input":"a", "voice" :{"id":"v"},"response_format":7,"speed":1e0,"stream_format":"audio","x":[{}] }\n'
    assert SpeechAsk(raw).model is None
    assert SpeechAsk(raw).body_for(TTS) == raw.replace(b" }\n", b',"model":"tts-1" }\n')
    assert SpeechAsk(raw).stream
    assert SpeechAsk(raw).content_type == "application/json"


def test_the_longest_text_at_the_dearest_price_fits_64_bits() -> None:
    dearest = model("m", prices={"character": Price(10**6 * NUSD_PER_USD)})
    assert ask(input="x" * 33_000_000).target(dearest, PARTS).worst_nusd < 2**63


def test_the_text_is_not_kept_beside_the_body() -> None:
    asked = ask(input="x" * 1_000_000)
    assert sum(map(sys.getsizeof, asked._fields.members.values())) < 1000
    assert asked.worst(TTS, PARTS).characters == 1_000_000


# What is sound.


@pytest.mark.parametrize(
    "content_type",
    [
        "audio/mpeg",
        "Audio/WAV",
        "application/octet-stream",
        "",
        "audio/ogg; codecs=opus",
        "text/event-stream",
        "video/mp4",
    ],
)
def test_sound_is_relayed_as_it_comes(content_type: str) -> None:
    assert isinstance(ask().meter(content_type, TTS), SoundMeter)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        " application/json ",
        "application/problem+json",
        "text/json",
        "text/html",
        "text/plain; charset=utf-8",
        "application/xml",
    ],
)
def test_text_in_place_of_sound_is_an_error(content_type: str) -> None:
    assert ask().meter(content_type, TTS) is None


def test_json_is_an_error_that_costs_nothing_or_an_answer_that_may_have_cost() -> None:
    with pytest.raises(UpstreamErrorAnswer):
        ask().read(b'{"error":{"message":"no such voice"}}', TTS, PARTS)
    for body in (b"{}", b'{"audio":"AAAA"}', b"", b"<html>", b"[]", b"\xff\xfb", b'{"error":null}'):
        with pytest.raises(UpstreamBadResponse):
            ask().read(body, TTS, PARTS)


# How it passes.

SOUND = b'ID3\x04\0{"error"\n\ndata: [DONE]\n\n\xff\xfb\0'


def test_sound_passes_the_same_wherever_it_is_cut_and_its_last_byte_waits() -> None:
    cuts = [[SOUND[:at], SOUND[at:]] for at in range(len(SOUND) + 1)]
    for pieces in [*cuts, [bytes([byte]) for byte in SOUND], [SOUND], [b"", SOUND, b""]]:
        sound = meter()
        out = came = b""
        for piece in pieces:
            out += sound.feed(piece)
            came += piece
            assert out == came[:-1]
            assert out + sound.farewell == came
            assert (sound.ended, sound.usage, sound.failure) == (False, None, None)
        assert (out, sound.farewell) == (SOUND[:-1], SOUND[-1:])
        assert sound.finish() == b""
        assert (out + sound.farewell, sound.usage) == (SOUND, WHOLE)
        assert (sound.started, sound.ended, sound.output_bytes) == (True, True, len(SOUND))


def test_it_has_begun_with_its_first_byte() -> None:
    sound = meter()
    assert (sound.feed(b""), sound.started) == (b"", False)
    assert (sound.feed(b"I"), sound.started) == (b"", True)
    assert (sound.feed(b"D3"), sound.farewell) == (b"ID", b"3")


def test_no_sound_is_no_answer() -> None:
    sound = meter()
    assert sound.feed(b"") + sound.finish() == b""
    assert (sound.started, sound.ended, sound.usage, sound.farewell) == (False, False, None, b"")


def test_sound_that_is_cut_off_has_not_ended() -> None:
    sound = meter()
    sound.feed(SOUND)
    assert (sound.ended, sound.usage) == (False, None)
    assert (sound.events, sound.mid_event) == (False, False)


def test_ten_megabytes_in_small_pieces_take_linear_time() -> None:
    sound, piece = meter(), b"a" * 256
    began = time.process_time()
    size = sum(len(sound.feed(piece)) for _ in range(40 * 1024))
    assert time.process_time() - began < 2
    assert size == 40 * 1024 * 256 - 1


def test_the_endpoint_is_charged_by_the_character() -> None:
    assert (ENDPOINT.name, ENDPOINT.path, ENDPOINT.parse) == ("speech", "/audio/speech", SpeechAsk)
    assert ENDPOINT.bases == (frozenset({"character"}),)
    assert ENDPOINT.after_ambiguous is None
