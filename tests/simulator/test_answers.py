import orjson
import pytest

from oxyy_proxy.simulator.answers import (
    JSON,
    PIECE_BYTES,
    SSE,
    Usage,
    binary_answer,
    event,
    json_answer,
    sse_answer,
    text_answer,
)


def test_a_json_answer_joins_to_json_with_the_usage_last():
    answer = json_answer({"id": "x"}, Usage(1), {"prompt_tokens": 1})
    assert list(orjson.loads(b"".join(answer.pieces))) == ["id", "usage"]
    assert orjson.loads(b"".join((*answer.content, answer.end))) == {"id": "x"}


def test_a_stream_without_a_report_is_its_events_and_done():
    answer = sse_answer([event({"a": 1})], Usage(1), b"")
    assert answer.stream
    assert answer.pieces == (b'data: {"a":1}\n\n', b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("payload", "report", "omit", "keys"),
    [
        ({"a": 1, "b": 2}, {"n": 1}, {"a"}, ["b", "usage"]),
        ({"a": 1}, {"n": 1}, {"usage"}, ["a"]),
        ({"a": 1}, None, (), ["a"]),
        ({"a": 1}, {"n": 1}, {"a"}, ["usage"]),
        ({}, None, (), []),
    ],
)
def test_keys_are_left_out_of_json(payload, report, omit, keys):
    answer = json_answer(payload, Usage(), report, omit)
    assert list(orjson.loads(b"".join(answer.pieces))) == keys


def test_a_sound_is_in_pieces_and_a_text_is_not():
    sound = binary_answer(b"x" * (PIECE_BYTES + 1), Usage(), "audio/mpeg")
    text = text_answer("ü", Usage(), "text/plain; charset=utf-8")
    assert [len(piece) for piece in sound.pieces] == [PIECE_BYTES, 1]
    assert text.pieces == ("ü".encode(),)


def test_what_is_sent_in_one_piece_is_textual():
    kinds = (JSON, "text/plain; charset=utf-8", "text/vtt", SSE, "audio/mpeg")
    assert [text_answer("", Usage(), kind).textual for kind in kinds] == [True, True, True, False, False]


def test_a_stream_may_have_another_event_in_place_of_its_report():
    answer = sse_answer([], Usage(), b"data: 1\n\n", b"data: 2\n\n")
    assert answer.pieces == (b"data: 1\n\n", b"data: [DONE]\n\n")
    assert answer.unreported == b"data: 2\n\n"
