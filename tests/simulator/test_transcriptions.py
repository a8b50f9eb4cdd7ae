import base64
import math

import pytest

from .test_durations import wav

WHISPER, BY_TOKENS = "whisper-1", "gpt-4o-mini-transcribe"
SOUND = wav(86_720)  # 5.42 s
FILE = [("file", "interview.wav", SOUND)]
URL = "https://example.com/a.mp3"
PATH = "/audio/transcriptions"
TOKENS = {
    "type": "tokens",
    "input_tokens": 55,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 55},
    "output_tokens": 9,
    "total_tokens": 64,
}


async def test_the_sdk_reads_verbose_json_and_the_tokens_are_billed(client, sim):
    answer = await client.audio.transcriptions.create(
        model=BY_TOKENS,
        file=("interview.mp3", SOUND),
        response_format="verbose_json",
        language="ja",
        extra_body={"simulate": '{"words": 9}'},
    )
    assert (float(answer.duration), answer.language) == (5.42, "ja")
    assert [segment.end for segment in answer.segments][-1] == 5.42
    assert " ".join(segment.text for segment in answer.segments) == answer.text
    (entry,) = sim.bill
    assert (entry.endpoint, entry.input_tokens, entry.output_tokens) == ("transcriptions", 55, 9)
    assert (entry.audio_ms, entry.cost_nusd) == (5420, 55 * 3000 + 9 * 5000)
    assert [(file.part, file.filename, file.size_bytes) for file in sim.uploads] == [
        ("file", "interview.mp3", len(SOUND))
    ]


async def test_verbose_json_has_the_documented_keys(post):
    answer = (await post(PATH, {"model": WHISPER, "response_format": "verbose_json"}, FILE)).json
    assert list(answer) == ["text", "language", "duration", "segments"]
    assert (answer["language"], answer["duration"]) == ("en", 5.42)
    assert all(list(segment) == ["start", "end", "text"] for segment in answer["segments"])


async def test_a_model_priced_by_the_minute_reports_text_alone_and_is_billed_by_time(post, sim):
    assert list((await post(PATH, {"model": WHISPER}, FILE)).json) == ["text"]
    (entry,) = sim.bill
    assert (entry.audio_ms, entry.input_tokens, entry.cost_nusd) == (5420, 0, 542_000)


async def test_its_seconds_are_reported_if_wished(post):
    answer = await post(PATH, {"model": WHISPER, "simulate": {"usage": True}}, FILE)
    assert answer.json["usage"] == {"type": "duration", "seconds": 5.42}


@pytest.mark.parametrize("spelled", ["json", "verbose_json", None])
async def test_a_model_priced_by_tokens_reports_them(post, spelled):
    body = {"model": BY_TOKENS, "file_url": URL, "response_format": spelled, "simulate": {"words": 9}}
    assert (await post(PATH, body)).json["usage"] == TOKENS


async def test_the_words_of_a_prompt_are_input(post, sim):
    answer = await post(PATH, {"model": BY_TOKENS, "prompt": "eight of", "file_url": URL})
    assert answer.json["usage"]["input_token_details"] == {"text_tokens": 2, "audio_tokens": 55}
    assert sim.bill[0].input_tokens == 57


@pytest.mark.parametrize(
    ("spelled", "content_type", "begins", "ends"),
    [
        ("text", "text/plain; charset=utf-8", b"", b".\n"),
        ("srt", "text/plain; charset=utf-8", b"1\n00:00:00,000 --> 00:00:0", b".\n\n"),
        ("vtt", "text/vtt", b"WEBVTT\n\n00:00:00.000 --> 00:00:0", b".\n\n"),
    ],
)
async def test_texts_have_their_content_types_and_are_billed_alike(post, sim, spelled, content_type, begins, ends):
    said = await post(PATH, {"model": WHISPER, "response_format": spelled}, FILE)
    assert (said.status, said.content_type) == (200, content_type)
    assert said.body.startswith(begins)
    assert said.body.endswith(ends)
    assert int(said.headers["Content-Length"]) == len(said.body)
    assert sim.total_nusd == 542_000


async def test_a_stream_has_deltas_and_then_the_whole_with_the_usage(post, sim):
    body = {"model": BY_TOKENS, "stream": "true", "simulate": {"words": 9}}
    said = await post(PATH, body, FILE)
    *deltas, done = said.events
    assert said.content_type == "text/event-stream"
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    text = "".join(event["delta"] for event in deltas)
    assert done == {"type": "transcript.text.done", "text": text, "usage": TOKENS}
    assert (sim.bill[0].stream, sim.bill[0].output_tokens) == (True, 9)


async def test_a_stream_of_a_model_priced_by_the_minute_has_no_usage(post):
    *_, done = (await post(PATH, {"model": WHISPER, "stream": True, "file_url": URL})).events
    assert list(done) == ["type", "text"]


async def test_missing_usage_leaves_a_stream_its_last_event(post):
    body = {"model": BY_TOKENS, "stream": True, "file_url": URL, "simulate": {"fault": "missing_usage"}}
    *_, done = (await post(PATH, body)).events
    assert list(done) == ["type", "text"]


async def test_a_sound_may_be_a_url_or_base64(post, sim):
    inline = {"model": WHISPER, "file_base64": base64.b64encode(wav(16_000)).decode()}
    assert (await post(PATH, inline)).status == 200
    assert (await post(PATH, {"model": WHISPER, "file_url": URL})).status == 200
    assert [entry.audio_ms for entry in sim.bill] == [1000, 5420]


async def test_a_large_sound_of_an_unknown_format_is_read_whole(post, sim):
    data = b"\r\n--x" * 1_000_000
    assert (await post(PATH, {"model": WHISPER}, [("file", "a.webm", data)])).status == 200
    assert sim.bill[0].audio_ms == math.ceil(5_000_000 / 16)


@pytest.mark.parametrize(
    ("body", "names"),
    [({}, "'file_url'"), ({"file_url": ""}, "'file_url'"), ({"file_base64": "%"}, "base64"),
     ({"file_url": URL, "response_format": "xml"}, "json, text, verbose_json, srt, vtt"),
     ({"file_url": 5}, "'file_url'"), ({"file_url": URL, "language": 5, "response_format": "verbose_json"}, "'lang")],
)  # fmt: skip
async def test_what_cannot_be_heard_is_a_400_and_not_billed(post, sim, body, names):
    assert names in (await post(PATH, {"model": WHISPER, **body})).error
    assert sim.bill == []


async def test_a_form_without_a_sound_or_with_an_empty_one_is_a_400(post):
    assert "'file'" in (await post(PATH, {"model": WHISPER}, [])).error
    assert "empty" in (await post(PATH, {"model": WHISPER}, [("file", "a.wav", b"")])).error
