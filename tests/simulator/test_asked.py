import orjson
import pytest

from oxyy_proxy.simulator import asked
from oxyy_proxy.simulator.errors import ApiError

from .conftest import question


def read(**more):
    return asked.read(orjson.dumps(question(**more)))


def test_the_seed_is_that_of_the_question_however_the_answer_is_sent():
    plain = read().seed
    assert plain == read(stream=True, stream_options={"include_usage": True}, simulate={"pace_ms": 3}).seed
    assert plain != read(temperature=0.5).seed
    assert plain != read(model="gpt-5-mini").seed


def test_wishes_are_read():
    wishes = read(simulate={"words": 64, "pace_ms": 3, "delay_ms": 50, "fault": "status", "status": 503}).wishes
    assert (wishes.words, wishes.pace_ms, wishes.delay_ms) == (64, 3, 50)
    assert wishes.fault.parameters.status == 503


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"messages": []}', "model"),
        (b'{"model": 5}', "model"),
        (b'{"model": "m", "stream": "yes"}', "'stream'"),
        (b'{"model": "m", "simulate": 1}', "must be an object"),
        (b'{"model": "m", "simulate": {"word": 1}}', "takes words, pace_ms, .* and fault; not word"),
        (b'{"model": "m", "simulate": {"words": -1}}', "words' must be a whole number"),
        (b'{"model": "m", "simulate": {"words": 99999999}}', "at most"),
        (b'{"model": "m", "simulate": {"pace_ms": "x"}}', "milliseconds"),
        (b'{"model": "m", "simulate": {"fault": "bang"}}', "there are: status, refuse"),
        (b'{"model": "m", "simulate": {"fault": "drip", "times": 1}}', "PUT /-/faults"),
    ],
)
def test_a_body_that_cannot_be_is_a_400_that_says_what_can(raw, sentence):
    with pytest.raises(ApiError, match=sentence) as refused:
        asked.read(raw)
    assert refused.value.status == 400


def test_a_body_deeper_than_can_be_written_again_still_has_a_seed():
    raw = b'{"model": "m", "x": ' + b"[" * 500 + b"]" * 500 + b"}"
    assert asked.read(raw).seed == asked.read(raw).seed


def test_a_count_may_be_zero_or_absent_but_not_true():
    assert (asked.count({"n": 0}, "n"), asked.count({}, "n"), asked.count({"n": None}, "n")) == (0, None, None)
    with pytest.raises(ApiError, match="whole number"):
        asked.count({"n": True}, "n")
