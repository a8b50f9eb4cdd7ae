"""The checks can fail: each part of an outcome, made wrong, is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.checks import differences
from tests.faults.entries import MatrixError, read
from tests.faults.outcome import Answer, Call, Outcome

WRITTEN = """
[[fault]]
id = "503"
side = "upstream"
what = "503, then an answer"
stream = [false, true]
fallback = true
do = {simulator = {fault = "status", status = 503}}
client = {status = 200, contains = ["Hello"], lacks = ["sorry"], model = "spare", headers = {x-oxyy-attempts = "2"}}
upstream = {calls = [1, 2], models = ["main", "spare"]}
ledger = {state = "settled", charged = "bill", attempts = 2}
"""

ROW = {
    "request_id": "req_1", "state": "settled", "status": 200, "attempts": 2, "model_served": "gpt-5-mini",
    "usage_source": "upstream", "hold_nusd": 90, "cost_nusd": 7, "unresolved_nusd": 0, "error_code": None,
}  # fmt: skip
HEADERS = {"x-oxyy-model": "gpt-5-mini", "x-oxyy-attempts": "2"}
ANSWER = Answer(200, HEADERS, b'data: "Hello"\n\ndata: [DONE]\n\n')
GOOD = Outcome(
    answers=[ANSWER],
    calls=[Call("gpt-5"), Call("gpt-5-mini")],
    billed={"req_1": {"gpt-5-mini": 7}},
    rows=[ROW],
    events=[{"event": "request"}],
)


def _answered(**wrong: Any) -> Outcome:
    return replace(GOOD, answers=[replace(ANSWER, **wrong)])


def _recorded(**wrong: Any) -> Outcome:
    return replace(GOOD, rows=[{**ROW, **wrong}])


WRONG = {
    "status": _answered(status=500),
    "cut": _answered(whole=False),
    "not in the body": _answered(body=b"data: [DONE]\n\n"),
    "in the body": _answered(body=b"Hello, sorry\n\ndata: [DONE]\n\n"),
    "no done": _answered(body=b"Hello"),
    "another model": _answered(headers={**HEADERS, "x-oxyy-model": "gpt-5"}),
    "another header": _answered(headers={**HEADERS, "x-oxyy-attempts": "1"}),
    "two answers": _answered(more=b"HTTP/1.1 200 OK"),
    "no answer": replace(GOOD, answers=[]),
    "one call too many": replace(GOOD, calls=[Call("gpt-5"), Call("gpt-5-mini"), Call("gpt-5-mini")]),
    "the wrong model asked": replace(GOOD, calls=[Call("gpt-5"), Call("gpt-5")]),
    "no row": replace(GOOD, rows=[]),
    "state": _recorded(state="voided"),
    "open": _recorded(state="open"),
    "attempts": _recorded(attempts=1),
    "too cheap": _recorded(cost_nusd=6),
    "too dear": _recorded(cost_nusd=8),
    "still held": _recorded(unresolved_nusd=1),
    "billed to nobody": replace(GOOD, billed={**GOOD.billed, "req_2": {"gpt-5": 1}}),
    "a broken promise": replace(GOOD, broken=("totals equal the rows",)),
    "something left": replace(GOOD, left={"requests running": 1}),
    "a defect": replace(GOOD, events=[{"event": "defect"}]),
    "a line that is none": replace(GOOD, events=[{"event": None, "line": "Traceback"}]),
}


def test_what_is_as_the_matrix_says_is_no_difference() -> None:
    whole, streamed = read(WRITTEN)
    assert (whole.id, streamed.id, streamed.stream) == ("503-whole", "503-stream", True)
    assert differences(streamed, GOOD) == []


@pytest.mark.parametrize("outcome", WRONG.values(), ids=WRONG)
def test_whatever_is_wrong_is_told(outcome: Outcome) -> None:
    assert differences(read(WRITTEN)[1], outcome) != []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('side = "upstream"', 'side = "moon"'),
        ("status = 200", "state = 200"),
        ('state = "settled"', 'sate = "settled"'),
    ],
)
def test_an_entry_that_cannot_be_is_refused(old: str, new: str) -> None:
    with pytest.raises(MatrixError, match="503"):
        read(WRITTEN.replace(old, new))
