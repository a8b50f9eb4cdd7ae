"""Every fault of the upstream on one model without fallbacks: what the client gets, and what the ledger says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.rig import Rig
from tests.steps.wires import (
    SSE_HEAD,
    RawAnswer,
    ask_chat,
    assert_books_are_right,
    event,
    http,
    limits,
    raw_upstream,
    says,
)

ALONE = """
version: 1
models:
  gpt-5: {endpoints: [chat], price: {input: 1.25, cached_input: 0.125, output: 10.00}}
"""

SHORT = "version: 1\nretry: {first_byte: 150ms, answer: 150ms, idle: 100ms}\n"


@dataclass(frozen=True)
class Told:
    """A fault and its end. `calls`: how often upstream; `state`: of the row."""

    fault: dict[str, Any]
    status: int
    code: str | None
    calls: int
    state: str
    stream: bool = False
    headers: tuple[tuple[str, str], ...] = ()


def _status(status: int, **headers: str) -> dict[str, Any]:
    return {"fault": "status", "status": status, "headers": headers}


NO_RETRY = (("x-should-retry", "false"),)
S = True

FAULTS = {
    "500": Told(_status(500), 500, None, 2, "voided", headers=NO_RETRY),
    "503": Told(_status(503), 503, None, 2, "voided", headers=NO_RETRY),
    "503 streamed": Told(_status(503), 503, None, 2, "voided", S, NO_RETRY),
    "429": Told(_status(429, **{"Retry-After": "7"}), 429, None, 1, "voided", headers=(("retry-after", "7"),)),
    "400": Told(_status(400), 400, None, 1, "voided"),
    "404": Told(_status(404), 404, None, 1, "voided"),
    "422 streamed": Told(_status(422), 422, None, 1, "voided", S),
    "501": Told(_status(501), 501, None, 1, "voided"),
    "401": Told(_status(401), 503, "upstream_auth", 1, "voided", headers=NO_RETRY),
    "403": Told(_status(403), 503, "upstream_auth", 1, "voided", headers=NO_RETRY),
    "a redirect": Told(_status(307, Location="http://127.0.0.1:1/"), 502, "upstream_bad_response", 2, "voided"),
    "a gateway's 504": Told(_status(504), 504, None, 1, "unresolved"),
    "an error in a 200": Told({"fault": "error_event"}, 502, "upstream_bad_response", 2, "voided"),
    "an error as first event": Told({"fault": "error_event"}, 502, "upstream_bad_response", 2, "voided", S),
    "reset before headers": Told({"fault": "reset_before_headers"}, 502, "upstream_reset", 1, "unresolved"),
    "reset after headers": Told({"fault": "reset_after_headers"}, 502, "upstream_reset", 1, "unresolved"),
    "reset before the first event": Told({"fault": "reset_after_headers"}, 502, "upstream_reset", 1, "unresolved", S),
    "reset in the body": Told({"fault": "reset_mid_body"}, 502, "upstream_reset", 1, "unresolved"),
    "truncated": Told({"fault": "truncated"}, 502, "upstream_reset", 1, "unresolved"),
    "malformed JSON": Told({"fault": "malformed_json"}, 502, "upstream_bad_response", 1, "unresolved"),
    "empty": Told({"fault": "empty"}, 502, "upstream_bad_response", 1, "unresolved"),
    "an empty stream": Told({"fault": "empty"}, 502, "upstream_bad_response", 1, "unresolved", S),
    "silent": Told({"fault": "hang_before_headers"}, 504, "upstream_timeout", 1, "unresolved"),
    "a silent stream": Told({"fault": "hang_before_headers"}, 504, "upstream_timeout", 1, "unresolved", S),
    "silent after headers": Told({"fault": "hang_mid_body"}, 504, "upstream_timeout", 1, "unresolved"),
    "a stream silent after headers": Told(
        {"fault": "hang_mid_body", "after_bytes": 0}, 504, "upstream_timeout", 1, "unresolved", S
    ),
}


@pytest.mark.parametrize("told", FAULTS.values(), ids=FAULTS)
async def test_a_fault_before_the_answer_begins(make_rig: Callable[..., Any], told: Told) -> None:
    rig: Rig = await make_rig(models=ALONE, gateway=SHORT)
    answer = await ask_chat(rig, simulate=told.fault, stream=told.stream)

    assert answer.status == told.status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-oxyy-attempts"] == str(told.calls)
    assert [(name, answer.headers[name]) for name, _ in told.headers] == list(told.headers)
    if told.code is None:
        direct = {"model": "gpt-5", "messages": [{"role": "user", "content": "a"}], "simulate": told.fault}
        key = {"Authorization": rig.simulator.received[-1][0]["authorization"]}
        async with rig.client.post(f"{rig.simulator.url}/chat/completions", json=direct, headers=key) as upstreams:
            assert answer.body == await upstreams.read()  # to the byte
        calls = len(rig.simulator.received) - 1
    else:
        assert answer.error["code"] == told.code
        assert answer.error["type"] == "server_error"
        calls = len(rig.simulator.received)
    assert calls == told.calls
    (row,) = rig.rows()
    assert (row["state"], row["status"], row["attempts"]) == (told.state, told.status, told.calls)
    assert row["error_code"] == (told.code or f"upstream_{told.status}")
    (limit,) = await limits(rig)
    may_cost = row["unresolved_nusd"]
    assert (row["cost_nusd"], float(limit["spent"])) == (0, 0)
    assert round(float(limit["held"]) * 1e9) == may_cost
    assert (may_cost == row["hold_nusd"] > 0) if told.state == "unresolved" else may_cost == 0
    await assert_books_are_right(rig)


async def test_a_refused_connection_is_definite_and_tried_once_more(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=ALONE)
    await rig.simulator.refuse()
    answer = await ask_chat(rig)
    assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
    assert answer.headers["x-oxyy-attempts"] == "2"
    (row,) = rig.rows()
    assert (row["state"], row["attempts"], row["unresolved_nusd"]) == ("voided", 2, 0)
    await rig.simulator.accept()
    assert (await ask_chat(rig)).status == 200


async def test_the_same_model_answers_at_the_second_attempt(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=ALONE)
    rig.simulator.faults.add({"fault": "status", "status": 503, "times": 1})
    answer = await ask_chat(rig)
    assert (answer.status, answer.headers["x-oxyy-attempts"]) == (200, "2")
    (row,) = rig.rows()
    assert (row["state"], row["attempts"], row["cost_nusd"]) == ("settled", 2, rig.simulator.total_nusd)
    sent = [body for _, body in rig.simulator.received]
    assert sent[0] == sent[1]


@pytest.mark.parametrize("stream", [False, True])
async def test_missing_usage_is_estimated_flagged_and_never_zero(rig: Rig, stream: bool) -> None:
    answer = await ask_chat(rig, simulate={"fault": "missing_usage"}, stream=stream)
    assert (answer.status, answer.whole) == (200, True)
    (row,) = rig.rows()
    assert (row["state"], row["usage_source"]) == ("settled", "estimated")
    assert 0 < row["cost_nusd"] < row["hold_nusd"]
    assert row["input_tokens"] > 0 < row["output_tokens"]
    assert stream or answer.headers["x-oxyy-cost-usd"] != "0.00"
    async with rig.client.get(f"{rig.admin_url}/metrics") as scraped:
        assert 'oxyy_usage_estimated_total{model="gpt-5",team="search"} 1.0' in await scraped.text()


ODD: dict[str, tuple[RawAnswer, int, str]] = {
    "not HTTP": (says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), 502, "upstream_bad_response"),
    "closed without a word": (says(b""), 502, "upstream_reset"),
    "half a head": (says(b"HTTP/1.1 200 OK\r\nContent-Type: app"), 502, "upstream_reset"),
    "HTML": (says(http(b"<html>504</html>", "200 OK", "text/html")), 502, "upstream_bad_response"),
    "an array": (says(http(b"[]")), 502, "upstream_bad_response"),
    "bad chunks": (
        says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n"), 502, "upstream_bad_response",
    ),
    "less than announced": (says(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"), 502, "upstream_reset"),
}  # fmt: skip


@pytest.mark.parametrize(("answers", "status", "code"), ODD.values(), ids=ODD)
async def test_what_is_no_answer_is_ambiguous(
    make_rig: Callable[..., Any], answers: RawAnswer, status: int, code: str
) -> None:
    async with raw_upstream(answers) as upstream:
        rig: Rig = await make_rig(models=ALONE, upstream_url=upstream.url)
        answer = await ask_chat(rig)
        assert (answer.status, answer.error["code"]) == (status, code)
        assert len(upstream.seen) == 1
        (row,) = rig.rows()
        assert (row["state"], row["unresolved_nusd"]) == ("unresolved", row["hold_nusd"])


async def test_an_upstream_that_trickles_a_whole_answer_is_bounded_by_answer(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=ALONE, gateway=SHORT)
    async with asyncio.timeout(2):
        answer = await ask_chat(rig, simulate={"fault": "drip", "bytes": 1, "every_ms": 20})
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")


async def test_comments_before_the_first_event_do_not_commit(make_rig: Callable[..., Any]) -> None:
    failing = SSE_HEAD + b": wait\n\n: wait\n\n" + b'data: {"error": {"message": "overloaded"}}\n\n'
    good = SSE_HEAD + b": wait\n\n" + event("a") + event(usage={"prompt_tokens": 3, "completion_tokens": 1})
    async with raw_upstream(says(failing), says(good + b"data: [DONE]\n\n")) as upstream:
        rig: Rig = await make_rig(models=ALONE, upstream_url=upstream.url)
        answer = await ask_chat(rig, stream=True)
        assert answer.body == b": wait\n\n" + event("a") + b"data: [DONE]\n\n"
        (row,) = rig.rows()
        assert (row["state"], row["attempts"], row["input_tokens"]) == ("settled", 2, 3)


async def test_lines_that_are_no_events_never_pass_as_a_complete_stream(rig: Rig) -> None:
    answer = await ask_chat(rig, simulate={"fault": "malformed_sse"}, stream=True)
    assert b"\n\ndata: [DONE]" not in answer.body
    assert b'"code":"upstream_' in answer.body
    (row,) = rig.rows()
    assert (row["state"], row["unresolved_nusd"] > 0) == ("unresolved", True)
