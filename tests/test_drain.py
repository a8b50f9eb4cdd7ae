"""Draining, as an operator asks for it: nothing begins, what runs ends whole or is told of it, and all is settled."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from time import monotonic
from typing import Any

import orjson
import pytest

from tests.rig import Rig
from tests.steps.wires import (
    QUESTION,
    Heard,
    Wire,
    ask,
    ask_chat,
    assert_books_are_right,
    dial,
    ended_rows,
    http,
    raw_upstream,
    request,
    says,
    until,
)

DONE = b"data: [DONE]\n\n"
ENDLESS = {"pace_ms": 20, "words": 5000}
SPEECH = "/v1/audio/speech"


async def drain(rig: Rig, method: str = "POST") -> tuple[int, dict[str, Any]]:
    async with rig.client.request(method, f"{rig.admin_url}/-/drain") as answer:
        return answer.status, await answer.json()


async def ready(rig: Rig) -> tuple[int, bool]:
    async with rig.client.get(f"{rig.admin_url}/readyz") as answer:
        return answer.status, (await answer.json())["draining"]


async def streaming(wire: Wire, **simulate: Any) -> bytes:
    """A stream that has begun: its first chunk."""
    await wire.send(request({**QUESTION, "stream": True, "simulate": simulate}))
    assert (await wire.head())[0] == 200
    return await wire.chunk()


async def rest(wire: Wire) -> bytes:
    """What follows, up to the end that HTTP knows; the connection then closes."""
    pieces = []
    async with asyncio.timeout(10):
        while piece := await wire.chunk():
            pieces.append(piece)
    assert await wire.closed()
    wire.writer.close()
    return b"".join(pieces)


def last_event(body: bytes) -> Any:
    return orjson.loads(body.split(b"\n\n")[-2].removeprefix(b"data: "))


def assert_refused(answer: Heard) -> None:
    assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")


async def test_nothing_new_begins_and_what_runs_ends_whole(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    assert await drain(rig, "GET") == (200, {"draining": False, "running": 0})
    assert await ready(rig) == (200, False)
    async with dial(rig) as wire, dial(rig) as idle:
        await idle.send(request(QUESTION))
        assert "connection" not in (await idle.answer()).headers
        first = await streaming(wire, pace_ms=10, words=30)
        whole = asyncio.create_task(ask_chat(rig, simulate={"delay_ms": 250}))
        await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 2)
        began = monotonic()
        assert await drain(rig) == (202, {"draining": True, "running": 2})
        assert monotonic() - began < 0.2
        assert await ready(rig) == (503, True)
        sent = len(rig.simulator.received)
        assert_refused(await ask_chat(rig))
        assert_refused(await ask(rig, method="GET", path="/v1/models"))
        await idle.send(request(QUESTION))
        assert_refused(await idle.answer())
        assert await idle.closed()
        assert len(rig.simulator.received) == sent
        assert await drain(rig, "GET") == (200, {"draining": True, "running": 2})

        assert (first + await rest(wire)).endswith(DONE)
        answer = await whole
        assert (answer.status, answer.headers["connection"]) == (200, "close")
    await until(lambda: not rig.proxy.services.running)
    assert await drain(rig, "GET") == (200, {"draining": True, "running": 0})
    rows = await ended_rows(rig, 3)
    assert {(row["state"], row["usage_source"]) for row in rows} == {("settled", "upstream")}
    assert_refused(await ask_chat(rig))  # it stays so until it is stopped
    await assert_books_are_right(rig)


async def test_what_is_not_done_in_time_is_cut_told_and_settled(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway="version: 1\ndrain: 300ms\n")
    async with dial(rig) as stream, dial(rig) as sound, dial(rig) as waiting, dial(rig) as uploading:
        await streaming(stream, **ENDLESS)
        text = {"model": "tts-1-hd", "voice": "alloy", "input": "Hello!"}
        half = {"bytes": 40_000, "fault": "hang_mid_body", "after_bytes": 20_000}
        await sound.send(request({**text, "simulate": half}, path=SPEECH))
        assert (await sound.head())[1]["content-length"] == "40000"
        await waiting.send(request({**QUESTION, "simulate": {"fault": "hang_before_headers"}}))
        await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 3)
        await uploading.send(request(b"", headers={"Content-Length": "1000"}) + b"{")
        await until(lambda: len(rig.proxy.services.running) == 4)
        began = monotonic()
        assert (await drain(rig))[1]["running"] == 4

        body = await rest(stream)
        assert 0.28 < monotonic() - began < 1
        assert last_event(body)["error"]["code"] == "overloaded"
        assert b"[DONE]" not in body
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await asyncio.wait_for(sound.reader.readexactly(40_000), 5)
        assert_refused(await waiting.answer())
        assert_refused(await uploading.answer())
        await until(lambda: not rig.proxy.services.running)
    rows = await ended_rows(rig, 3)
    assert [(row["state"], row["usage_source"], row["error_code"]) for row in rows] == [
        ("settled", "estimated", "overloaded"),
        ("settled", "computed", "overloaded"),
        ("unresolved", None, "overloaded"),
    ]
    await assert_books_are_right(rig)


async def test_a_stop_after_a_drain_does_not_wait_again(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway="version: 1\ndrain: 400ms\n")
    async with dial(rig) as wire:
        await streaming(wire, **ENDLESS)
        began = monotonic()
        await drain(rig)
        await asyncio.wait({cut := asyncio.create_task(rest(wire))}, timeout=0.25)
        assert not cut.done()
        await rig.proxy.stop()
        assert 0.38 < monotonic() - began < 0.4 + 0.35
        assert last_event(await cut)["error"]["code"] == "overloaded"


async def test_a_stop_long_after_a_drain_is_at_once(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    await ask_chat(rig)
    await drain(rig)
    await until(lambda: rig.proxy._draining is not None and rig.proxy._draining.done())
    began = monotonic()
    await rig.proxy.stop()
    assert monotonic() - began < 0.5


async def test_to_drain_twice_is_to_drain_once(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway="version: 1\ndrain: 300ms\n")
    async with dial(rig) as wire:
        await streaming(wire, **ENDLESS)
        began = monotonic()
        first, second = await drain(rig), await drain(rig)
        assert first == second == (202, {"draining": True, "running": 1})
        await asyncio.wait({body := asyncio.create_task(rest(wire))}, timeout=0.2)
        assert (await drain(rig))[0] == 202
        assert (await body).count(b'"error"') == 1
        assert monotonic() - began < 0.6
    assert (await drain(rig))[0] == 202


async def test_a_video_that_is_being_made_stays_open_and_is_charged_after_the_restart(
    make_rig: Callable[..., Any],
) -> None:
    rig: Rig = await make_rig()
    job = await ask(
        rig, {"model": "veo-3", "prompt": "a cat", "simulate": {"job_s": None}}, path="/v1/videos/generations"
    )
    await drain(rig)
    await rig.proxy.stop()
    (row,) = rig.rows()
    assert (row["state"], row["cost_nusd"]) == ("open", 0)
    rig.simulator.complete(job.json["id"])
    await rig.start_proxy()
    answer = await ask(rig, method="GET", path=f"/v1/videos/generations/{job.json['id']}")
    assert answer.json["status"] == "completed"
    (row,) = await ended_rows(rig)
    assert (row["state"], row["cost_nusd"]) == ("settled", rig.simulator.total_nusd)
    await assert_books_are_right(rig)


async def test_fifty_streams_at_a_stop_each_end_whole_or_are_told(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway="version: 1\ndrain: 400ms\n")
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(rig)) for _ in range(50)]
        paces = [{"pace_ms": 10, "words": 2 + 2 * n} for n in range(50)]  # from 20 ms to a second
        await asyncio.gather(*(streaming(wire, **pace) for wire, pace in zip(wires, paces, strict=True)))
        bodies = [asyncio.create_task(rest(wire)) for wire in wires]
        await rig.proxy.stop()
        ends = [await body for body in bodies]
    whole = [body for body in ends if body.endswith(DONE) or not body]
    told = [body for body in ends if body not in whole]
    assert len(whole) > 5 < len(told)
    for body in told:
        assert last_event(body)["error"]["code"] == "overloaded"
        assert b"[DONE]" not in body
    rows = await ended_rows(rig, 50)
    assert {row["state"] for row in rows} == {"settled"}
    assert sum(row["usage_source"] == "estimated" for row in rows) == len(told)
    await assert_books_are_right(rig)


async def test_a_stream_that_is_being_settled_when_time_is_up_is_whole_or_told(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway="version: 1\ndrain: 200ms\n")
    async with dial(rig) as wire:
        first = await streaming(wire, pace_ms=10, words=10)
        with closing(sqlite3.connect(rig.ledger_path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 0)
            await drain(rig)
            body = first + await rest(wire)
            other.execute("ROLLBACK")
    assert body.endswith(DONE) or "error" in last_event(body)
    (row,) = await ended_rows(rig)
    assert (row["state"], row["cost_nusd"]) == ("settled", rig.simulator.total_nusd)
    await assert_books_are_right(rig)


async def test_a_large_answer_on_its_way_to_a_slow_client_ends_whole(make_rig: Callable[..., Any]) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 3}
    large = json.dumps({"choices": [{"message": {"content": "x" * 4_000_000}}], "usage": usage}).encode()
    async with raw_upstream(says(http(large))) as upstream:
        rig: Rig = await make_rig(upstream_url=upstream.url)
        async with dial(rig, receive_buffer=65536) as wire:
            await wire.send(request(QUESTION))
            _, headers = await wire.head()
            size = int(headers["content-length"])
            stopping = asyncio.create_task(rig.proxy.stop())
            await asyncio.wait({stopping}, timeout=1.2)  # a connection that is idle is given a second
            body = await asyncio.wait_for(wire.reader.readexactly(size), 10)
            assert body == large
            await stopping


async def test_who_does_not_read_does_not_hold_up_the_end(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway="version: 1\ndrain: 200ms\n")
    async with dial(rig, receive_buffer=4096) as wire:
        body = {**QUESTION, "stream": True, "simulate": {"words": 200_000}}
        await wire.send(request(body))
        await wire.head()
        began = monotonic()
        await rig.proxy.stop()
        assert monotonic() - began < 7.5
    assert (await ended_rows(rig))[0]["state"] in ("settled", "unresolved")
    await assert_books_are_right(rig)
