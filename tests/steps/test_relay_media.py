"""Sound, pictures and transcripts on their way to the client: the same bytes, and none has all of what is not paid."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy.rules.price import usd
from tests.audio_files import wav
from tests.rig import MODELS, Rig
from tests.steps.wires import (
    Heard,
    ask,
    assert_books_are_right,
    dial,
    ended_rows,
    http,
    limits,
    own_rig,
    raw_upstream,
    request,
    says,
    until,
)

SPEECH = "/v1/audio/speech"
TEXT = {"model": "tts-1-hd", "voice": "alloy", "input": "Grüße, 世界! 🎧"}
SPEECH_NUSD = len(TEXT["input"]) * 30_000
TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}


async def speak(rig: Rig, **members: Any) -> Heard:
    return await ask(rig, {**TEXT, **members}, path=SPEECH)


def sent(rig: Rig) -> str:
    """The hash of what the simulator sent last."""
    return str(rig.simulator.sent[-1][-1])


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [1, 5000, 300_000])
@pytest.mark.parametrize("name", TYPES)
async def test_sound_comes_as_it_was_sent(rig: Rig, name: str, size: int, chunked: bool) -> None:
    answer = await speak(rig, response_format=name, simulate={"bytes": size, "chunked": chunked})
    assert (answer.status, answer.whole) == (200, True)
    assert sha(answer.body) == sent(rig)
    assert answer.headers["content-type"] == TYPES[name]
    assert answer.headers.get("content-length") == (None if chunked else str(len(answer.body)))
    assert answer.headers["x-oxyy-cost-usd"] == usd(SPEECH_NUSD)
    (row,) = rig.rows()
    assert (row["state"], row["cost_nusd"], row["characters"]) == ("settled", SPEECH_NUSD, len(TEXT["input"]))
    assert (row["usage_source"], row["stream"]) == ("computed", 1)
    assert row["cost_nusd"] == rig.simulator.total_nusd
    await assert_books_are_right(rig)


async def test_sound_flows_before_it_is_complete(tmp_path: Path) -> None:
    async with own_rig(tmp_path, gateway="version: 1\ndrain: 0s\n") as rig, dial(rig) as wire:
        wishes = {"bytes": 40_000, "fault": "hang_mid_body", "after_bytes": 20_000}
        await wire.send(request({**TEXT, "simulate": wishes}, path=SPEECH))
        await wire.head()
        assert len(await asyncio.wait_for(wire.reader.readexactly(19_999), 5)) == 19_999
        assert [row["state"] for row in rig.rows()] == ["open"]


async def test_the_last_byte_waits_for_the_settlement(rig: Rig) -> None:
    async with dial(rig) as wire:
        await wire.send(request({**TEXT, "simulate": {"bytes": 20_000, "delay_ms": 200}}, path=SPEECH))
        with closing(sqlite3.connect(rig.ledger_path, isolation_level=None)) as other:
            await until(lambda: bool(rig.rows()))
            other.execute("BEGIN EXCLUSIVE")
            _, headers = await wire.head()
            size = int(headers["content-length"])
            await asyncio.wait_for(wire.reader.readexactly(size - 1), 5)
            last = asyncio.create_task(wire.reader.readexactly(1))
            done, _ = await asyncio.wait({last}, timeout=0.3)
            assert not done
            other.execute("ROLLBACK")
        assert len(await last) == 1
    assert [row["state"] for row in rig.rows()] == ["settled"]


CUTS = {
    "reset": ({"fault": "reset_mid_body"}, "upstream_reset", False),
    "reset among chunks": ({"fault": "reset_mid_body"}, "upstream_reset", True),
    "ended": ({"fault": "truncated"}, "upstream_reset", False),
    "silent": ({"fault": "hang_mid_body"}, "upstream_timeout", False),
    "silent among chunks": ({"fault": "hang_mid_body"}, "upstream_timeout", True),
}


@pytest.mark.parametrize(("fault", "code", "chunked"), CUTS.values(), ids=CUTS)
async def test_sound_that_is_cut_is_broken_off_and_stays_unresolved(
    make_rig: Callable[..., Any], fault: dict[str, Any], code: str, chunked: bool
) -> None:
    rig: Rig = await make_rig(gateway="version: 1\nretry: {idle: 100ms}\n")
    answer = await speak(rig, simulate={**fault, "bytes": 50_000, "chunked": chunked})
    assert (answer.status, answer.whole) == (200, False)
    assert b"error" not in answer.body
    (row,) = await ended_rows(rig)
    assert (row["state"], row["cost_nusd"], row["unresolved_nusd"]) == ("unresolved", 0, SPEECH_NUSD)
    assert row["error_code"] == code
    (limit,) = await limits(rig)
    assert round(float(limit["held"]) * 1e9) == SPEECH_NUSD
    await assert_books_are_right(rig)


@pytest.mark.parametrize("how", ["drain", "cancel"])
async def test_a_client_that_leaves_in_the_middle_pays_for_the_text(make_rig: Callable[..., Any], how: str) -> None:
    rig: Rig = await make_rig(gateway=f"version: 1\non_disconnect: {how}\n")
    async with dial(rig) as wire:
        body = {**TEXT, "simulate": {"bytes": 400_000, "pace_ms": 10}}
        await wire.send(request(body, path=SPEECH))
        await wire.head()
        wire.reset()
    (row,) = await ended_rows(rig)
    assert (row["state"], row["cost_nusd"]) == ("settled", SPEECH_NUSD)
    await assert_books_are_right(rig)


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (http(b'{"error": {"message": "no"}}'), 502, "upstream_bad_response"),
        (http(b'{"audio": "none"}'), 502, "upstream_bad_response"),
        (http(b"", "200 OK", "audio/mpeg"), 502, "upstream_bad_response"),
        (http(b'{"error": {"message": "voice"}}', "400 Bad Request"), 400, None),
    ],
)
async def test_what_is_no_sound_is_not_passed_for_it(
    tmp_path: Path, said: bytes, status: int, code: str | None
) -> None:
    async with raw_upstream(says(said)) as upstream, own_rig(tmp_path, upstream_url=upstream.url) as rig:
        answer = await speak(rig)
        assert answer.status == status
        if code:
            assert answer.error["code"] == code
        (row,) = rig.rows()
        assert row["cost_nusd"] == 0


async def test_sound_fails_over_before_its_first_byte(make_rig: Callable[..., Any]) -> None:
    models = MODELS.replace("  tts-1-hd: {", "  tts-1: {endpoints: [speech], price: {character: 15}}\n  tts-1-hd: {")
    rig: Rig = await make_rig(models=models.replace("  tts-1-hd: {", "  tts-1-hd: {fallbacks: [tts-1], "))
    rig.simulator.faults.add({"fault": "status", "status": 503, "model": "tts-1-hd"})
    answer = await speak(rig)
    assert answer.status == 404  # the simulator does not know the other model, but was asked
    assert [json.loads(body)["model"] for _, body in rig.simulator.received] == ["tts-1-hd", "tts-1"]


async def test_sound_is_cut_and_charged_when_the_proxy_must_stop(tmp_path: Path) -> None:
    async with own_rig(tmp_path, gateway="version: 1\ndrain: 100ms\n") as rig, dial(rig) as wire:
        await wire.send(request({**TEXT, "simulate": {"bytes": 9000, "fault": "hang_mid_body"}}, path=SPEECH))
        waiting = asyncio.create_task(wire.answer())
        await until(lambda: bool(rig.rows()))
        await rig.proxy.stop()
        assert not (await waiting).whole
        (row,) = rig.rows()
        assert (row["state"], row["cost_nusd"]) == ("settled", SPEECH_NUSD)
        await rig.start_proxy()


# Pictures.


async def test_images_are_charged_as_they_come(rig: Rig) -> None:
    body = {"model": "dall-e-3", "prompt": "A lake", "n": 3, "size": "1024x1792", "simulate": {"images": 2}}
    answer = await ask(rig, body, path="/v1/images/generations")
    assert len(answer.json["data"]) == 2
    assert sha(answer.body) == sent(rig)
    (row,) = rig.rows()
    assert (row["hold_nusd"], row["cost_nusd"], row["images"]) == (240_000_000, 160_000_000, 2)
    assert row["cost_nusd"] == rig.simulator.total_nusd
    assert answer.headers["x-oxyy-cost-usd"] == "0.16"


async def test_pictures_come_whole_and_unchanged(rig: Rig) -> None:
    body = {"model": "dall-e-3", "prompt": "A lake", "n": 2, "response_format": "b64_json"}
    answer = await ask(rig, body, path="/v1/images/generations")
    assert sha(answer.body) == sent(rig)
    for picture in answer.json["data"]:
        assert base64.b64decode(picture["b64_json"]).startswith(b"\x89PNG\r\n\x1a\n")


async def test_images_by_tokens_are_charged_by_what_the_answer_reports(rig: Rig) -> None:
    answer = await ask(rig, {"model": "gpt-image-1", "prompt": "A lake", "n": 2}, path="/v1/images/generations")
    usage = answer.json["usage"]
    (row,) = rig.rows()
    assert (row["input_tokens"], row["output_tokens"]) == (usage["input_tokens"], usage["output_tokens"])
    assert (row["images"], row["usage_source"]) == (2, "upstream")
    assert row["cost_nusd"] == rig.simulator.total_nusd > 0
    assert row["hold_nusd"] >= row["cost_nusd"]


async def test_images_by_tokens_without_a_report_are_estimated_and_never_free(rig: Rig) -> None:
    body = {"model": "gpt-image-1", "prompt": "A lake", "simulate": {"fault": "missing_usage"}}
    await ask(rig, body, path="/v1/images/generations")
    (row,) = rig.rows()
    assert (row["usage_source"], row["images"]) == ("estimated", 1)
    assert rig.simulator.total_nusd < row["cost_nusd"] <= row["hold_nusd"]


@pytest.mark.parametrize(
    ("path", "body", "calls"),
    [
        ("/v1/images/generations", {"model": "dall-e-3", "prompt": "A lake"}, 2),
        ("/v1/videos/generations", {"model": "veo-3", "prompt": "A lake"}, 1),
        ("/v1/audio/transcriptions", {"model": "whisper-1", "file_url": "https://a.example/a.mp3"}, 3),
    ],
)
async def test_how_often_one_may_try_after_an_unknown_outcome(
    tmp_path: Path, path: str, body: dict[str, str], calls: int
) -> None:
    price = "price: {image: 0.1, video_second: 0.1, audio_minute: 0.1}"
    more = "".join(f"  m{n}: {{endpoints: [images, videos, transcriptions], {price}}}\n" for n in range(3))
    models = MODELS.replace("  unpriced:", f"{more}  unpriced:")
    for name in ("veo-3", "whisper-1"):
        models = models.replace(f"  {name}: {{", f"  {name}: {{fallbacks: [m0, m1, m2], ")
    models = models.replace("  dall-e-3:\n", "  dall-e-3:\n    fallbacks: [m0, m1, m2]\n")
    async with raw_upstream(says(b"")) as upstream, own_rig(tmp_path, upstream_url=upstream.url, models=models) as rig:
        answer = await ask(rig, body, path=path)
        assert (answer.status, answer.error["code"]) == (502, "upstream_reset")
        assert len(upstream.seen) == calls
        (row,) = rig.rows()
        assert (row["state"], row["attempts"]) == ("unresolved", calls)
        await assert_books_are_right(rig)


# Transcripts.

ASK = {"model": "whisper-1"}
SOUND = wav(5.42)
SOUND_NUSD = 5_420 * 6_000_000 // 60_000


async def transcribe(rig: Rig, data: bytes = SOUND, **fields: str) -> Any:
    return await rig.send_form("/audio/transcriptions", {**ASK, **fields, "file": ("interview.wav", data)})


@pytest.mark.parametrize(
    ("name", "content_type", "source"),
    [
        ("json", "application/json", "computed"),
        ("text", "text/plain; charset=utf-8", "computed"),
        ("verbose_json", "application/json", "upstream"),
        ("srt", "text/plain; charset=utf-8", "computed"),
        ("vtt", "text/vtt", "computed"),
    ],
)
async def test_every_format_of_a_transcript_is_passed_on_and_charged(
    rig: Rig, name: str, content_type: str, source: str
) -> None:
    body = (await _raw_transcript(rig, name)).body
    assert sha(body) == sent(rig)
    (row,) = rig.rows()
    assert (row["state"], row["usage_source"], row["audio_seconds"]) == ("settled", source, 5.42)
    assert row["cost_nusd"] == rig.simulator.total_nusd == SOUND_NUSD
    assert rig.simulator.sent[-1][2].startswith(content_type.partition(";")[0])


async def _raw_transcript(rig: Rig, name: str) -> Heard:
    text = base64.b64encode(SOUND).decode()
    return await ask(rig, {**ASK, "file_base64": text, "response_format": name}, path="/v1/audio/transcriptions")


async def test_a_file_and_its_base64_cost_the_same(rig: Rig) -> None:
    await transcribe(rig, response_format="text")
    await _raw_transcript(rig, "text")
    assert [row["cost_nusd"] for row in rig.rows()] == [SOUND_NUSD] * 2


async def test_what_cannot_be_measured_is_estimated_by_its_size(rig: Rig) -> None:
    await transcribe(rig, b"\x01" * 80_000, response_format="text")
    (row,) = rig.rows()
    assert (row["usage_source"], row["audio_seconds"]) == ("estimated", 10.0)
    assert row["cost_nusd"] == 1_000_000


async def test_a_file_by_url_is_charged_by_what_the_answer_says(rig: Rig) -> None:
    body = {**ASK, "file_url": "https://sounds.example/a.mp3", "response_format": "verbose_json"}
    answer = await ask(rig, body, path="/v1/audio/transcriptions")
    assert answer.status == 200
    (row,) = rig.rows()
    assert (row["usage_source"], row["cost_nusd"]) == ("upstream", rig.simulator.total_nusd)
    assert row["hold_nusd"] >= row["cost_nusd"] > 0


async def test_a_model_by_tokens_is_settled_by_usage(rig: Rig) -> None:
    await transcribe(rig, model="gpt-4o-mini-transcribe", response_format="json")
    (row,) = rig.rows()
    assert (row["usage_source"], row["cost_nusd"]) == ("upstream", rig.simulator.total_nusd)
    assert row["input_tokens"] > 0
    assert row["hold_nusd"] >= row["cost_nusd"] > 0


@pytest.mark.parametrize("model", ["whisper-1", "gpt-4o-mini-transcribe"])
async def test_a_transcript_streams_and_its_end_waits_for_the_settlement(rig: Rig, model: str) -> None:
    status, headers, body = await transcribe(rig, model=model, stream="true")
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert sha(body) == sent(rig)
    assert b"transcript.text.done" in body
    (row,) = rig.rows()
    assert (row["state"], row["stream"], row["cost_nusd"]) == ("settled", 1, rig.simulator.total_nusd)
    await assert_books_are_right(rig)


async def test_a_transcript_that_is_cut_says_so_and_stays_unresolved(rig: Rig) -> None:
    status, _, body = await transcribe(rig, stream="true", simulate='{"fault": "reset_mid_body"}')
    assert status == 200
    assert b'"upstream_reset"' in body
    assert b"transcript.text.done" not in body
    (row,) = await ended_rows(rig)
    assert row["state"] == "unresolved"


async def test_a_transcript_that_is_complete_is_given_though_the_connection_breaks_behind_it(tmp_path: Path) -> None:
    events = [
        b'data: {"type": "transcript.text.delta", "delta": "Hello"}\n\n',
        b'data: {"type": "transcript.text.done", "text": "Hello", "usage": {"type": "duration", "seconds": 5.42}}\n\n',
    ]
    body = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)  # and no last chunk
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with raw_upstream(says(head + body)) as upstream, own_rig(tmp_path, upstream_url=upstream.url) as rig:
        status, _, heard = await transcribe(rig, stream="true")
        assert (status, heard) == (200, b"".join(events))
        (row,) = rig.rows()
        assert (row["state"], row["cost_nusd"]) == ("settled", SOUND_NUSD)
