import orjson

from oxyy_proxy.simulator.answers import Usage, event, json_answer, sse_answer


def test_a_json_answer_joins_to_json_with_the_usage_last():
    answer = json_answer({"id": "x"}, Usage(1), {"prompt_tokens": 1})
    assert list(orjson.loads(b"".join(answer.pieces))) == ["id", "usage"]
    assert orjson.loads(b"".join((*answer.content, answer.end))) == {"id": "x"}


def test_a_stream_without_a_report_is_its_events_and_done():
    answer = sse_answer([event({"a": 1})], Usage(1), b"")
    assert answer.stream
    assert answer.pieces == (b'data: {"a":1}\n\n', b"data: [DONE]\n\n")
