import pytest

from oxyy_proxy.simulator.effects import KINDS
from oxyy_proxy.simulator.faults import CHECKS, FaultBoard, FaultError, parse_fault


@pytest.fixture
def outages():
    return []


@pytest.fixture
def board(outages):
    return FaultBoard(outages.append)


def test_a_fault_hits_its_model_alone(board):
    board.add({"fault": "status", "model": "gpt-5"})
    assert board.match("gpt-5", False) is not None
    assert board.match("gpt-5-mini", False) is None


def test_times_counts_down_to_nothing(board):
    board.add({"fault": "status", "times": 2})
    assert [board.match("m", False) is not None for _ in range(3)] == [True, True, False]
    assert board.as_json() == [{"fault": "status", "times": 0}]


def test_the_first_that_fits_hits_and_the_next_takes_over(board):
    board.add({"fault": "status", "status": 503, "times": 1})
    board.add({"fault": "empty"})
    assert [board.match("m", False).name for _ in range(2)] == ["status", "empty"]


def test_a_fault_of_streams_is_kept_for_one(board):
    board.add({"fault": "no_done", "times": 1})
    assert board.match("m", stream=False) is None
    assert board.match("m", stream=True).name == "no_done"


def test_an_outage_of_everything_begins_at_once_and_does_not_wait_on_the_board(board, outages):
    board.add({"fault": "refuse", "for_s": 3})
    board.add({"fault": "refuse"})
    assert (outages, board.as_json()) == ([3, 5.0], [])


def test_an_outage_of_one_model_waits_for_its_request(board, outages):
    board.add({"fault": "refuse", "model": "gpt-5"})
    assert (outages, board.match("gpt-5", False).name) == ([], "refuse")


def test_a_fault_of_polls_hits_them_and_nothing_else(board, outages):
    board.add({"fault": "refuse", "polls": True})
    board.add({"fault": "empty", "times": 1})
    assert outages == []
    assert [board.match("m", False, poll).name for poll in (True, False)] == ["refuse", "empty"]
    assert board.match("m", False, poll=False) is None


def test_clear_and_replace(board):
    board.add({"fault": "empty"})
    board.replace([parse_fault({"fault": "drip"})])
    assert board.as_json() == [{"fault": "drip"}]
    board.clear()
    assert board.match("m", True) is None


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("status", "a fault is an object such as"),
        ({}, "there are: status, refuse, reset_before_headers"),
        ({"fault": "nope"}, "no fault 'nope'; there are: status"),
        ({"fault": ["x"]}, "there are"),
        (
            {"fault": "drip", "size": 3},
            "drip does not take size; it takes: fault, model, times, polls, bytes, every_ms",
        ),
        ({"fault": "empty", "model": 5}, "model must be"),
        ({"fault": "empty", "times": 0}, "times must be"),
        ({"fault": "empty", "polls": 1}, "polls must be true or false"),
        ({"fault": "status", "status": 200}, "status must be an HTTP status from 300 to 599"),
        ({"fault": "status", "headers": {"A": 1}}, "headers must be"),
        ({"fault": "status", "headers": {"A": "b\r\nC: d"}}, "headers must be"),
        ({"fault": "refuse", "for_s": -1}, "for_s must be"),
        ({"fault": "drip", "bytes": 0}, "bytes must be"),
        ({"fault": "drip", "every_ms": True}, "every_ms must be"),
        ({"fault": "reset_mid_body", "after_bytes": 1.5}, "after_bytes must be"),
    ],
)
def test_a_fault_that_cannot_be_says_what_can(written, sentence):
    with pytest.raises(FaultError, match=sentence):
        parse_fault(written)


def test_every_parameter_of_every_fault_is_checked():
    assert {name for kind in KINDS.values() for name in kind.parameters} == set(CHECKS)
