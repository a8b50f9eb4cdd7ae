"""Streams that do not end as they should, once the answer has begun: nothing is tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.rig import Rig
from tests.steps.wires import (
    SSE_HEAD,
    ask_chat,
    assert_books_are_right,
    ended_rows,
    event,
    limits,
    raw_upstream,
    says,
)

DONE = b"data: [DONE]\n\n"
USAGE = event(usage={"prompt_tokens": 100, "completion_tokens": 1000})


def _events(body: bytes) -> list[bytes]:
    assert body.endswith(b"\n\n")
    return body.split(b"\n\n")[:-1]


CUTS = {
    "reset": ({"fault": "reset_mid_body"}, "upstream_reset"),
    "ended": ({"fault": "truncated"}, "upstream_reset"),
    "silent": ({"fault": "hang_mid_body"}, "upstream_timeout"),
}


@pytest.mark.parametrize(("fault", "code"), CUTS.values(), ids=CUTS)
async def test_a_stream_cut_by_the_upstream_says_so_and_stays_unresolved(
    make_rig: Callable[..., Any], fault: dict[str, Any], code: str
) -> None:
    rig: Rig = await make_rig(gateway="version: 1\nretry: {idle: 100ms}\n")
    answer = await ask_chat(rig, stream=True, simulate={**fault, "words": 20})
    assert (answer.status, answer.whole) == (200, True)
    *content, last = _events(answer.body)
    error = orjson.loads(last.removeprefix(b"data: "))["error"]
    assert (error["code"], error["type"], set(error)) == (code, "server_error", {"message", "type", "param", "code"})
    assert 5 < len(content) < 20
    assert all(b'"choices"' in one for one in content)
    assert b"[DONE]" not in answer.body
    assert len(rig.simulator.received) == 1  # gpt-5 has a fallback, which is not asked
    (row,) = rig.rows()
    assert (row["state"], row["status"], row["error_code"], row["cost_nusd"]) == ("unresolved", 200, code, 0)
    assert row["unresolved_nusd"] > rig.simulator.total_nusd > 0
    (limit,) = await limits(rig)
    assert round(float(limit["held"]) * 1e9) == row["unresolved_nusd"]
    await assert_books_are_right(rig)


async def test_an_error_event_in_the_middle_reaches_the_client_as_it_is(rig: Rig) -> None:
    answer = await ask_chat(rig, stream=True, simulate={"fault": "error_mid_stream", "words": 20})
    events = _events(answer.body)
    assert [b'"error"' in one for one in events].count(True) == 1
    assert b'"error"' in events[-1]
    assert b"[DONE]" not in answer.body
    (row,) = rig.rows()
    assert (row["state"], row["unresolved_nusd"] > 0) == ("unresolved", True)


async def test_usage_without_done_is_settled_and_no_done_is_made_up(rig: Rig) -> None:
    answer = await ask_chat(rig, stream=True, simulate={"fault": "no_done"})
    assert answer.whole
    assert b"[DONE]" not in answer.body
    assert b"error" not in answer.body
    (row,) = rig.rows()
    assert (row["state"], row["usage_source"], row["cost_nusd"]) == ("settled", "upstream", rig.simulator.total_nusd)


async def test_a_reset_after_the_usage_is_settled_at_it(make_rig: Callable[..., Any]) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = event("a") + USAGE
    async with raw_upstream(says(cut + b"%x\r\n" % len(body) + body + b"\r\n")) as upstream:
        rig: Rig = await make_rig(upstream_url=upstream.url)
        answer = await ask_chat(rig, stream=True)
        assert answer.body.startswith(event("a"))
        assert b"[DONE]" not in answer.body
        (row,) = rig.rows()
        assert (row["state"], row["output_tokens"], row["unresolved_nusd"]) == ("settled", 1000, 0)


async def test_what_comes_behind_done_is_not_waited_for(make_rig: Callable[..., Any]) -> None:
    async with raw_upstream(says(SSE_HEAD + event("a") + USAGE + DONE + event("late"))) as upstream:
        rig: Rig = await make_rig(upstream_url=upstream.url)
        answer = await ask_chat(rig, stream=True)
        assert answer.whole
        assert answer.body.startswith(event("a") + DONE)
        assert rig.rows()[0]["state"] == "settled"


async def test_a_malformed_event_in_the_middle_passes_and_the_usage_counts(rig: Rig) -> None:
    answer = await ask_chat(rig, stream=True, simulate={"fault": "malformed_json", "words": 10})
    assert answer.body.endswith(DONE)
    assert rig.rows()[0]["cost_nusd"] == rig.simulator.total_nusd


async def test_a_last_event_without_its_blank_line_is_not_lost(make_rig: Callable[..., Any]) -> None:
    async with raw_upstream(says(SSE_HEAD + event("a") + USAGE[:-2])) as upstream:
        rig: Rig = await make_rig(upstream_url=upstream.url)
        answer = await ask_chat(rig, stream=True)
        assert answer.body.startswith(event("a"))
        (row,) = await ended_rows(rig)
        assert (row["state"], row["output_tokens"]) == ("settled", 1000)


async def test_a_stream_that_is_answered_whole_is_passed_on_and_charged(make_rig: Callable[..., Any]) -> None:
    body = b'{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with raw_upstream(says(head + body)) as upstream:
        rig: Rig = await make_rig(upstream_url=upstream.url)
        answer = await ask_chat(rig, stream=True)
        assert (answer.status, answer.body) == (200, body)
        assert rig.rows()[0]["output_tokens"] == 7
