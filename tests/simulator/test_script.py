from oxyy_proxy.simulator.answers import PIECE_BYTES, Usage, binary_answer, json_answer, sse_answer
from oxyy_proxy.simulator.script import Act, Send, Wait, plain

STREAM = sse_answer([b"data: 1\n\n", b"data: 2\n\n"], Usage(1), b"data: u\n\n")


def test_events_are_paced_and_done_follows_the_last_at_once():
    assert plain(STREAM, 0.5).steps == (
        Act.HEAD,
        Send(b"data: 1\n\n"),
        Wait(0.5),
        Send(b"data: 2\n\n"),
        Wait(0.5),
        Send(b"data: u\n\n"),
        Send(b"data: [DONE]\n\n"),
    )


def test_without_a_pace_nothing_waits():
    assert not any(isinstance(step, Wait) for step in plain(STREAM, 0).steps)


def test_json_goes_out_in_one_piece_with_its_length():
    script = plain(json_answer({"a": 1}, Usage(1), {}), 5)
    assert script.steps == (Act.HEAD, Send(b'{"a":1,"usage":{}}'))
    assert script.length == 18


SOUND = b"a" * PIECE_BYTES + b"b"


def test_a_sound_goes_out_in_pieces_if_it_is_paced_and_else_at_once():
    answer = binary_answer(SOUND, Usage(), "audio/mpeg")
    assert plain(answer, 0).steps == (Act.HEAD, Send(SOUND))
    paced = plain(answer, 0.5)
    assert paced.steps == (Act.HEAD, Send(SOUND[:-1]), Wait(0.5), Send(b"b"))
    assert (paced.length, paced.content_type) == (len(SOUND), "audio/mpeg")


def test_a_chunked_sound_claims_no_length():
    assert plain(binary_answer(SOUND, Usage(), "audio/mpeg", chunked=True), 0).length is None
