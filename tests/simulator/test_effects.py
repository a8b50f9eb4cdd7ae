"""Every fault as a bare socket sees it, and as the bill does."""

import asyncio
import time

import orjson
import pytest

from oxyy_proxy.simulator.effects import KINDS

from .conftest import dial, hear, question

USAGE = {"include_usage": True}
STREAM = {"stream": True, "stream_options": USAGE}

NOT_BILLED = {"status", "refuse", "error_event"}
STREAMS_ONLY = {"malformed_sse", "error_mid_stream", "no_done"}


def fault(name, **parameters):
    return {"simulate": {"fault": name, "words": 20, **parameters}}


def test_these_are_the_faults():
    assert {name for name, kind in KINDS.items() if not kind.billed} == NOT_BILLED
    assert {name for name, kind in KINDS.items() if kind.only} == STREAMS_ONLY


QUICK = {"drip": {"every_ms": 0}, "hang_before_headers": {"for_s": 0}, "hang_mid_body": {"for_s": 0}}
EVERY = [(name, more) for name in KINDS for more in ({}, STREAM) if more or name not in STREAMS_ONLY]


@pytest.mark.parametrize(("name", "more"), EVERY, ids=[f"{name}-{'sse' if more else 'json'}" for name, more in EVERY])
async def test_a_fault_is_billed_in_full_or_not_at_all(sim, ask, name, more):
    await ask(**more, **fault(name, **QUICK.get(name, {})))
    await sim.accept()
    await ask(**more, simulate={"words": 20})
    hit, sound = sim.bill
    assert sound.cost_nusd == 5 * 1250 + 20 * 10_000
    assert (hit.fault, hit.billed) == (name, name not in NOT_BILLED)
    assert hit.cost_nusd == (0 if name in NOT_BILLED else sound.cost_nusd)


async def test_status_answers_the_documented_error_with_the_headers_asked_for(sim, ask):
    heard = await ask(**fault("status", status=503, headers={"Retry-After": "2"}))
    assert (heard.status, heard.whole) == (503, True)
    assert b"Retry-After: 2" in heard.head
    error = orjson.loads(heard.body)["error"]
    assert error == {
        "message": "Model temporarily unavailable",
        "type": "server_error",
        "code": "model_unavailable",
    }
    assert sim.bill[0].status == 503


async def test_status_is_500_unless_told_otherwise(ask):
    assert (await ask(**fault("status"))).status == 500


async def test_refuse_resets_this_request_and_then_the_port_is_shut_for_a_while(sim):
    waiting = await dial(sim, question(simulate={"fault": "hang_before_headers"}))
    await sim.wait_for(lambda: sim.in_flight == 1)
    heard = await hear(await dial(sim, question(**fault("refuse", for_s=0.2))))
    assert (heard.data, heard.end) == (b"", "reset")
    assert (await hear(waiting)).end == "reset"
    with pytest.raises(ConnectionRefusedError):
        await dial(sim, question())
    while True:
        try:
            sock = await dial(sim, question())
        except ConnectionRefusedError:
            continue
        break
    assert (await hear(sock)).status == 200
    assert [(entry.fault, entry.billed, entry.status) for entry in sim.bill] == [
        ("hang_before_headers", True, 0),
        ("refuse", False, 0),
        (None, True, 200),
    ]


async def test_reset_before_headers_sends_nothing(sim, ask):
    heard = await ask(**fault("reset_before_headers"))
    assert (heard.data, heard.end, sim.bill[0].status) == (b"", "reset", 0)


@pytest.mark.parametrize("more", [{}, STREAM], ids=["json", "stream"])
async def test_reset_after_headers_sends_headers_alone(ask, more):
    heard = await ask(**more, **fault("reset_after_headers"))
    assert (heard.status, heard.body, heard.end) == (200, b"", "reset")


@pytest.mark.parametrize("more", [{}, STREAM], ids=["json", "stream"])
async def test_reset_mid_body_sends_half(ask, more):
    whole = await ask(**more, simulate={"words": 20})
    heard = await ask(**more, **fault("reset_mid_body"))
    assert heard.end == "reset"
    assert len(whole.body) * 0.4 < len(heard.body) < len(whole.body) * 0.6
    assert whole.body.startswith(heard.body)
    assert not heard.whole


@pytest.mark.parametrize("more", [{}, STREAM], ids=["json", "stream"])
async def test_reset_mid_body_can_be_told_the_byte(ask, more):
    assert len((await ask(**more, **fault("reset_mid_body", after_bytes=17))).body) == 17


async def test_hang_before_headers_ends_when_the_client_leaves(sim):
    sock = await dial(sim, question(**fault("hang_before_headers")))
    await sim.wait_for(lambda: sim.in_flight == 1 and len(sim.bill) == 1)
    sock.close()
    await sim.wait_for(lambda: sim.in_flight == 0)
    assert (sim.bill[0].billed, sim.bill[0].status) == (True, 0)


@pytest.mark.parametrize("name", ["hang_before_headers", "hang_mid_body"])
@pytest.mark.parametrize("more", [{}, STREAM], ids=["json", "stream"])
async def test_a_hang_of_some_seconds_then_goes_on_to_the_end(sim, ask, more, name):
    sound = await ask(**more, simulate={"words": 20})
    began = time.monotonic()
    heard = await ask(**more, **fault(name, for_s=0.1))
    assert time.monotonic() - began >= 0.1
    assert heard.body == sound.body
    assert heard.whole
    assert sim.bill[1].status == 200


async def test_hang_mid_body_sends_half_and_then_nothing(sim, ask):
    sound = await ask(**STREAM, simulate={"words": 20})
    sock = await dial(sim, question(**STREAM, **fault("hang_mid_body")))
    got = b""
    while got.count(b"data: ") < len(sound.events) // 2 - 1:
        got += await asyncio.get_running_loop().sock_recv(sock, 65536)
    assert sim.in_flight == 1
    sock.close()
    await sim.wait_for(lambda: sim.in_flight == 0)


async def test_drip_sends_small_pieces_one_after_the_other(sim, ask):
    sound = await ask(simulate={"words": 20})
    began = time.monotonic()
    heard = await ask(**fault("drip", bytes=100, every_ms=20))
    assert heard.body == sound.body
    assert time.monotonic() - began >= 0.02 * (len(sound.body) // 100)


async def test_drip_cuts_events_anywhere_but_loses_nothing(ask):
    sound = await ask(**STREAM, simulate={"words": 20})
    heard = await ask(**STREAM, **fault("drip", bytes=7, every_ms=0))
    assert heard.body == sound.body
    assert heard.data.count(b"\r\n7\r\n") > 100


async def test_malformed_json_is_a_complete_answer_that_does_not_parse(ask):
    heard = await ask(**fault("malformed_json"))
    assert (heard.status, heard.whole) == (200, True)
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(heard.body)


async def test_malformed_json_breaks_one_event_of_a_stream(ask):
    heard = await ask(**STREAM, **fault("malformed_json"))
    broken = []
    for event in heard.events[:-1]:
        try:
            orjson.loads(event.removeprefix(b"data: "))
        except orjson.JSONDecodeError:
            broken.append(event)
    assert len(broken) == 1
    assert heard.events[-1] == b"data: [DONE]"


async def test_malformed_sse_has_no_events(ask):
    heard = await ask(**STREAM, **fault("malformed_sse"))
    assert b"text/event-stream" in heard.head
    assert (heard.events, b"data:" in heard.body, heard.whole) == ([], False, True)


async def test_error_event_is_the_first_and_only_event(ask):
    heard = await ask(**STREAM, **fault("error_event"))
    assert heard.status == 200
    (only,) = heard.events
    assert orjson.loads(only.removeprefix(b"data: "))["error"]["type"] == "server_error"


async def test_error_event_of_a_json_request_is_a_200_with_an_error(ask):
    heard = await ask(**fault("error_event"))
    assert heard.status == 200
    assert set(orjson.loads(heard.body)) == {"error"}


async def test_error_mid_stream_comes_after_half_of_the_events(ask):
    sound = await ask(**STREAM, simulate={"words": 20})
    heard = await ask(**STREAM, **fault("error_mid_stream"))
    assert heard.events[:-1] == sound.events[: len(heard.events) - 1]
    assert 10 <= len(heard.events) <= 13
    assert b'"error"' in heard.events[-1]
    assert heard.whole


@pytest.mark.parametrize("more", [{}, STREAM], ids=["json", "stream"])
async def test_missing_usage_is_complete_but_for_the_usage(ask, more):
    heard = await ask(**more, **fault("missing_usage"))
    assert heard.whole
    assert b"prompt_tokens" not in heard.body
    if more:
        assert heard.events[-1] == b"data: [DONE]"
    else:
        assert set(orjson.loads(heard.body)) == {"id", "object", "created", "model", "choices"}


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_truncated_json_is_shorter_than_its_content_length_and_ends_in_order(sim, connection):
    heard = await hear(await dial(sim, question(**fault("truncated")), connection))
    assert (heard.end, heard.whole) == ("eof", False)
    assert heard.body


async def test_a_truncated_stream_just_ends(ask):
    heard = await ask(**STREAM, **fault("truncated"))
    assert (heard.end, heard.whole) == ("eof", True)
    assert heard.events
    assert b"[DONE]" not in heard.body
    assert b"prompt_tokens" not in heard.body


@pytest.mark.parametrize("more", [{}, STREAM], ids=["json", "stream"])
async def test_empty_is_a_200_without_a_body(ask, more):
    heard = await ask(**more, **fault("empty"))
    assert (heard.status, heard.body, heard.whole) == (200, b"", True)


async def test_no_done_lacks_nothing_else(ask):
    sound = await ask(**STREAM, simulate={"words": 20})
    heard = await ask(**STREAM, **fault("no_done"))
    assert heard.body + b"data: [DONE]\n\n" == sound.body


@pytest.mark.parametrize("name", sorted(STREAMS_ONLY))
async def test_a_fault_of_streams_asked_for_without_one_is_a_400(sim, ask, name):
    heard = await ask(**fault(name))
    assert heard.status == 400
    assert b"streamed" in heard.body
    assert sim.bill == []


async def test_a_fault_for_another_model_does_not_hit(ask):
    assert (await ask(**fault("status", model="gpt-5-mini"))).status == 200
    assert (await ask(**fault("status", model="gpt-5"))).status == 500


URL = "https://example.com/a.mp3"
ANSWERS = {
    "images": ("/v1/images/generations", {"model": "gpt-image-1", "prompt": "A lake"}),
    "text": ("/v1/audio/transcriptions", {"model": "whisper-1", "file_url": URL, "response_format": "srt"}),
    "sound": ("/v1/audio/speech", {"model": "tts-1-hd", "voice": "alloy", "input": "Hello! " * 3}),
}
BY_KIND = pytest.mark.parametrize(("path", "body"), ANSWERS.values(), ids=ANSWERS)
SOUND_PATH, SOUND = ANSWERS["sound"]


async def hear_at(sim, path, body, **wishes):
    return await hear(await dial(sim, {**body, "simulate": wishes}, path=path))


@BY_KIND
@pytest.mark.parametrize("name", sorted(KINDS.keys() - STREAMS_ONLY))
async def test_a_fault_hits_every_kind_of_answer_and_is_billed_in_full_or_not_at_all(sim, path, body, name):
    await hear_at(sim, path, body, fault=name, **QUICK.get(name, {}))
    await sim.accept()
    await hear_at(sim, path, body)
    hit, sound = sim.bill
    assert sound.cost_nusd > 0
    assert (hit.fault, hit.cost_nusd) == (name, 0 if name in NOT_BILLED else sound.cost_nusd)
    assert sim.sent[0] == sim.sent[1]


@BY_KIND
async def test_less_than_was_promised_and_then_the_end(sim, path, body):
    whole = await hear_at(sim, path, body)
    truncated = await hear_at(sim, path, body, fault="truncated")
    reset = await hear_at(sim, path, body, fault="reset_mid_body", after_bytes=60)
    length = f"Content-Length: {len(whole.body)}".encode()
    for heard, end, size_bytes in ((truncated, "eof", len(whole.body) // 2), (reset, "reset", 60)):
        assert (heard.end, len(heard.body)) == (end, size_bytes)
        assert whole.body.startswith(heard.body)
        assert length in heard.head


async def test_a_sound_without_a_length_is_truncated_by_a_missing_last_chunk(sim):
    heard = await hear_at(sim, SOUND_PATH, SOUND, fault="truncated", chunked=True)
    assert (heard.end, heard.whole) == ("eof", False)
    assert heard.body


@pytest.mark.parametrize("pace_ms", [0, 1])
async def test_a_sound_hangs_half_way_and_goes_on(sim, pace_ms):
    whole = await hear_at(sim, SOUND_PATH, SOUND)
    heard = await hear_at(sim, SOUND_PATH, SOUND, fault="hang_mid_body", for_s=0.01, pace_ms=pace_ms)
    assert (heard.body, heard.whole) == (whole.body, True)


async def test_a_sound_that_drips_is_the_same_sound(sim):
    whole = await hear_at(sim, SOUND_PATH, SOUND)
    heard = await hear_at(sim, SOUND_PATH, SOUND, fault="drip", bytes=1000, every_ms=0)
    assert (heard.body, heard.whole) == (whole.body, True)


@BY_KIND
async def test_an_error_event_is_json_whatever_was_asked_for(sim, path, body):
    heard = await hear_at(sim, path, body, fault="error_event")
    assert (heard.status, heard.whole) == (200, True)
    assert b"Content-Type: application/json\r\n" in heard.head + b"\r\n"
    assert set(orjson.loads(heard.body)) == {"error"}


@BY_KIND
async def test_malformed_is_half_of_it_with_a_length_that_is_right(sim, path, body):
    whole = await hear_at(sim, path, body)
    heard = await hear_at(sim, path, body, fault="malformed_json")
    assert heard.whole
    assert heard.body == whole.body[: len(whole.body) // 2]


async def test_missing_usage_of_images_is_a_whole_answer_and_a_sound_has_none_to_miss(sim):
    heard = await hear_at(sim, *ANSWERS["images"], fault="missing_usage")
    assert set(orjson.loads(heard.body)) == {"created", "data"}
    whole = await hear_at(sim, SOUND_PATH, SOUND)
    assert (await hear_at(sim, SOUND_PATH, SOUND, fault="missing_usage")).body == whole.body
