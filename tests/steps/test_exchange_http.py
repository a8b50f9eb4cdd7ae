"""HTTP as clients speak it: 100-continue, HTTP/1.0, connections that are kept, headers that are odd."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.rig import ORG_KEY, Rig, team_file
from tests.steps.wires import QUESTION, ask, ask_chat, dial, request

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHAT = request(QUESTION)


async def test_a_key_is_checked_before_the_body_is_asked_for(rig: Rig) -> None:
    async with dial(rig) as wire:
        await wire.send(request(None, key="wrong", headers={"Expect": "100-continue", "Content-Length": "9000"}))
        answer = await wire.answer()
    assert answer.status == 401


async def test_a_body_that_is_announced_too_large_is_not_asked_for(rig: Rig) -> None:
    async with dial(rig) as wire:
        await wire.send(request(None, headers={"Expect": "100-continue", "Content-Length": str(2**30)}))
        answer = await wire.answer()
    assert answer.status == 413


async def test_the_body_is_asked_for_and_then_answered(rig: Rig) -> None:
    head, _, body = request(QUESTION, headers={"Expect": "100-continue"}).partition(b"\r\n\r\n")
    async with dial(rig) as wire:
        await wire.send(head + b"\r\n\r\n")
        assert await wire.reader.readexactly(len(CONTINUE)) == CONTINUE
        assert rig.rows() == []
        await wire.send(body)
        answer = await wire.answer()
    assert (answer.status, answer.whole) == (200, True)
    assert rig.simulator.received[-1][1] == body


@pytest.mark.parametrize("stream", [False, True])
async def test_http_1_0_is_answered_without_chunks_and_closed(rig: Rig, stream: bool) -> None:
    async with dial(rig) as wire:
        await wire.send(request({**QUESTION, "stream": stream}, version="1.0"))
        answer = await wire.answer()
        assert await wire.closed()
    assert (answer.status, answer.whole) == (200, True)
    assert "transfer-encoding" not in answer.headers
    assert answer.body.endswith(b"data: [DONE]\n\n" if stream else b"}")
    assert [row["state"] for row in rig.rows()] == ["settled"]


async def test_a_connection_serves_request_after_request(rig: Rig) -> None:
    async with dial(rig) as wire:
        seen = []
        for body in (QUESTION, {**QUESTION, "stream": True}, {"model": "no"}, QUESTION):
            await wire.send(request(body))
            answer = await wire.answer()
            seen.append(answer.status)
        await wire.send(request(None, method="GET", path="/v1/usage"))
        assert (await wire.answer()).json["team"] == "search"
    assert seen == [200, 200, 400, 200]
    assert len(rig.rows()) == 3


async def test_requests_sent_at_once_are_answered_in_order(rig: Rig) -> None:
    async with dial(rig) as wire:
        slow = {**QUESTION, "simulate": {"delay_ms": 50, "words": 3}}
        await wire.send(request(slow) + request({**QUESTION, "model": "gpt-5-mini", "stream": True}) + CHAT)
        answers = [await wire.answer() for _ in range(3)]
    assert [answer.headers["x-oxyy-model"] for answer in answers] == ["gpt-5", "gpt-5-mini", "gpt-5"]
    assert all(answer.whole for answer in answers)
    assert sum(row["cost_nusd"] for row in rig.rows()) == rig.simulator.total_nusd


async def test_a_refused_upload_does_not_leave_its_rest_to_be_read_as_a_request(rig: Rig) -> None:
    hidden = request(QUESTION)
    async with dial(rig) as wire:
        await wire.send(request(hidden, headers={"Content-Encoding": "gzip"}))
        assert (await wire.answer()).status == 415
        assert await wire.closed()
    assert not rig.simulator.received


async def test_a_body_in_odd_pieces_goes_upstream_byte_for_byte(rig: Rig) -> None:
    body = b' {"messages" :[{"role":"user","content":"\\u00e9\xc3\xa9"}],\t"model":"gpt-5","seed":1e2,"user":"a\\/"} \n'
    async with dial(rig) as wire:
        await wire.send(request(None, headers={"Transfer-Encoding": "chunked"}))
        for at in range(0, len(body), 7):
            piece = body[at : at + 7]
            await wire.send(b"%x\r\n" % len(piece) + piece + b"\r\n")
        await wire.send(b"0\r\n\r\n")
        answer = await wire.answer()
    assert answer.status == 200
    assert rig.simulator.received[-1][1] == body


@pytest.mark.parametrize(
    ("model", "stream", "options", "sent"),
    [
        (b'"fast"', b"", b"", b'{"model" : "gpt-5-mini", "messages": [{"role": "user", "content": "a"}]}'),
        (
            b'"gpt-5"',
            b', "stream": true',
            b"",
            b'{"model" : "gpt-5", "messages": [{"role": "user", "content": "a"}], "stream": true,'
            b'"stream_options":{"include_usage":true}}',
        ),
        (
            b'"gpt-5"',
            b', "stream": true',
            b', "stream_options": {"include_obfuscation": false}',
            b'{"model" : "gpt-5", "messages": [{"role": "user", "content": "a"}], "stream": true, '
            b'"stream_options": {"include_obfuscation":false,"include_usage":true}}',
        ),
        (
            b'"gpt-5"',
            b', "stream": true',
            b', "stream_options": { "include_usage" : true }',
            b'{"model" : "gpt-5", "messages": [{"role": "user", "content": "a"}], "stream": true, '
            b'"stream_options": { "include_usage" : true }}',
        ),
    ],
    ids=["alias", "usage asked for", "options kept", "usage already asked for"],
)
async def test_only_model_and_stream_options_are_changed(
    rig: Rig, model: bytes, stream: bytes, options: bytes, sent: bytes
) -> None:
    body = b'{"model" : ' + model + b', "messages": [{"role": "user", "content": "a"}]' + stream + options + b"}"
    assert (await ask(rig, body)).status == 200
    assert rig.simulator.received[-1][1] == sent


async def test_only_the_allowlisted_headers_go_upstream(rig: Rig) -> None:
    sent = {
        "Accept": "application/json",
        "User-Agent": "OpenAI/Python 3.0",
        "Cookie": "session=1",
        "x-oxyy-tag": "project-x",
        "x-stainless-lang": "python",
        "OpenAI-Organization": "org-1",
        "x-api-key": "secret",
        "X-Forwarded-For": "10.0.0.1",
        "Accept-Encoding": "gzip",
        "Connection": "keep-alive, x-hop",
        "x-hop": "1",
        "TE": "trailers",
        "x-request-id": "mine",
    }
    answer = await ask(rig, QUESTION, headers=sent)
    headers, _ = rig.simulator.received[-1]
    assert set(headers) <= {
        "host", "content-type", "content-length", "accept", "user-agent", "x-request-id", "authorization",
        "accept-encoding",
    }  # fmt: skip
    assert headers["authorization"] == f"Bearer {ORG_KEY}"
    assert (headers["accept"], headers["user-agent"]) == ("application/json", "OpenAI/Python 3.0")
    assert headers["accept-encoding"] == "identity"
    assert headers["x-request-id"] == answer.headers["x-request-id"]


async def test_the_request_id_is_ours_and_unique(rig: Rig) -> None:
    answers = [await ask(rig, QUESTION, headers={"x-request-id": "req_mine"}) for _ in range(5)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 5
    assert all(re.fullmatch(r"req_[0-9a-f]{27}", one) for one in ids)
    assert [row["request_id"] for row in rig.rows()] == ids  # in the order of time
    assert [entry.request_id for entry in rig.simulator.bill] == ids


async def test_the_tag_is_stored_and_cut_at_64_characters(rig: Rig) -> None:
    for tag in ("project-x", "y" * 100, "naïve".encode().decode("latin-1"), "\xe9"):
        assert (await ask(rig, QUESTION, headers={"x-oxyy-tag": tag})).status == 200
    assert (await ask_chat(rig)).status == 200
    assert [row["tag"] for row in rig.rows()] == ["project-x", "y" * 64, "naïve", "\ufffd", None]


@pytest.mark.parametrize("name", ["x-oxyy-tag", "x-request-id", "User-Agent", "Accept"])
async def test_a_header_that_is_not_utf_8_harms_nothing(rig: Rig, name: str) -> None:
    answer = await ask(rig, QUESTION, headers={name: "caf\xe9"})
    assert answer.status == 200
    assert [row["state"] for row in rig.rows()] == ["settled"]


async def test_the_answers_headers_say_who_answered_and_what_is_left(make_rig: Callable[..., Any]) -> None:
    caps = "{meter: usd, per: month, cap: 10}, {meter: usd, per: day, cap: 5}, {meter: requests, per: minute, cap: 600}"
    caps += ", {meter: requests, per: day, cap: 100}, {meter: tokens, per: hour, cap: 90000}"
    rig = await make_rig(teams={"search": team_file(limits=caps)})
    rig.proxy.services.clock = lambda: 1_700_000_030.0  # 22:13:50 UTC
    answer = await ask_chat(rig, model="fast", max_tokens=100)
    (row,) = rig.rows()
    tokens = -(-len(rig.simulator.received[-1][1].replace(b"gpt-5-mini", b"fast")) // 2) + 100
    expected = {
        "x-oxyy-model": "gpt-5-mini",
        "x-oxyy-attempts": "1",
        "x-oxyy-cost-usd": f"{row['cost_nusd'] / 1e9:.9f}".rstrip("0"),
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "99",
        "x-ratelimit-reset-requests": "1h46m10s",
        "x-ratelimit-limit-tokens": "90000",
        "x-ratelimit-remaining-tokens": str(90000 - tokens),
        "x-ratelimit-reset-tokens": "46m10s",
        "x-oxyy-budget-remaining-usd": f"{5 - row['hold_nusd'] / 1e9:.9f}".rstrip("0"),
        "server": "oxyy-proxy",
    }
    assert {name: answer.headers.get(name) for name in expected} == expected


async def test_limits_that_do_not_apply_have_no_headers(rig: Rig) -> None:
    answer = await ask_chat(rig)
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
