import math

import pytest

from oxyy_proxy.simulator import wishes
from oxyy_proxy.simulator.errors import ApiError

ALL = {
    "words": 64,
    "pace_ms": 3,
    "delay_ms": 50,
    "images": 0,
    "job_s": 1.5,
    "fail": True,
    "actual_seconds": 3.5,
    "actual_resolution": "1080p",
    "bytes": 9,
    "chunked": True,
    "usage": True,
}


def test_every_wish_is_read():
    read = wishes.read({**ALL, "omit": ["duration"], "fault": "status", "status": 503})
    assert {key: getattr(read, key) for key in ALL} == ALL
    assert read.omit == {"duration"}
    assert (read.fault.name, read.fault.parameters.status) == ("status", 503)


def test_no_wishes_are_the_defaults():
    assert wishes.read(None) == wishes.read({}) == wishes.Wishes()
    assert wishes.read(dict.fromkeys([*ALL, "omit"])) == wishes.Wishes(job_s=math.inf)


def test_bytes_belong_to_a_fault_that_takes_them():
    read = wishes.read({"fault": "drip", "bytes": 7})
    assert (read.bytes, read.fault.parameters.bytes) == (None, 7)
    read = wishes.read({"fault": "empty", "bytes": 7})
    assert (read.bytes, read.fault.name) == (7, "empty")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "must be an object"),
        ({"word": 1}, "takes words, .*omit and fault; not word"),
        *(({key: bad}, f"'simulate.{key}' must be") for key in ALL for bad in (-1, [])),
        *(({key: True}, f"'simulate.{key}' must be") for key in ("words", "images", "job_s", "bytes", "pace_ms")),
        ({"omit": "duration"}, "'simulate.omit' must be"),
        ({"omit": [1]}, "'simulate.omit' must be"),
        ({"fault": "drip", "times": 1}, "times belongs to PUT /-/faults"),
        ({"fault": "drip", "polls": True}, "polls belongs to PUT /-/faults"),
        ({"fault": "nope"}, "there are: status"),
        ({"fault": ["x"], "bytes": 1}, "there are: status"),
    ],
)
def test_a_wish_that_cannot_be_is_a_400_that_says_what_can(value, sentence):
    with pytest.raises(ApiError, match=sentence) as refused:
        wishes.read(value)
    assert refused.value.status == 400
