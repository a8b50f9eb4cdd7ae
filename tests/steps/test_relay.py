"""What goes back to the client, and when: whole answers, streams, and clients that leave or do not read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from time import monotonic
from typing import Any

from tests.rig import ORG_KEY, Rig
from tests.steps.wires import (
    QUESTION,
    SSE_HEAD,
    Wire,
    ask,
    ask_chat,
    assert_books_are_right,
    dial,
    ended_rows,
    event,
    http,
    raw_upstream,
    request,
    says,
)

DONE = b"data: [DONE]\n\n"
STREAM = {**QUESTION, "stream": True}
DRAIN_OFF = "version: 1\non_disconnect: cancel\n"


async def _upstreams_own(rig: Rig, body: dict[str, Any]) -> bytes:
    """What the simulator says to this body when it is asked directly."""
    url, key = f"{rig.simulator.url}/chat/completions", {"Authorization": f"Bearer {ORG_KEY}"}
    async with rig.client.post(url, data=json.dumps(body), headers=key) as answer:
        return await answer.read()


def _usage_chunk(stream: bytes) -> bytes:
    (found,) = [one + b"\n\n" for one in stream.split(b"\n\n") if b'"choices":[]' in one]
    return found


async def _until(wire: Wire, marker: bytes) -> bytes:
    """The body of a chunked answer up to the chunk that ends with `marker`."""
    body = b""
    async with asyncio.timeout(10):
        while not body.endswith(marker):
            body += await wire.chunk()
    return body


async def test_a_whole_answer_comes_back_byte_for_byte(rig: Rig) -> None:
    answer = await ask_chat(rig, n=3)
    assert answer.whole
    assert answer.headers["content-type"] == "application/json"
    assert answer.body == await _upstreams_own(rig, {**QUESTION, "n": 3})


async def test_upstream_headers_stay_behind(make_rig: Callable[..., Any]) -> None:
    body = b'{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 5}}'
    extra = ("Set-Cookie: session=1", "x-request-id: theirs", "openai-organization: us", "Server: theirs")
    stream = SSE_HEAD[:-2] + b"Set-Cookie: a=1\r\nx-internal: 1\r\n\r\n" + event("a") + DONE
    refused = http(b'{"error": {}}', "422 No", "application/json", *extra)
    answers = [says(http(body, "200 OK", "application/json", *extra)), says(stream), says(refused)]
    async with raw_upstream(*answers) as upstream:
        rig = await make_rig(upstream_url=upstream.url)
        for sent, status in ((QUESTION, 200), (STREAM, 200), (QUESTION, 422)):
            answer = await ask(rig, sent)
            assert answer.status == status
            assert not {"set-cookie", "openai-organization", "x-internal"} & set(answer.headers)
            assert answer.headers["x-request-id"] == rig.rows()[-1]["request_id"]
            assert answer.headers["server"] == "oxyy-proxy"


async def test_a_stream_is_the_upstreams_without_the_usage_that_only_we_asked_for(rig: Rig) -> None:
    answer = await ask(rig, STREAM)
    full = await _upstreams_own(rig, {**STREAM, "stream_options": {"include_usage": True}})
    assert answer.whole
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body == full.replace(_usage_chunk(full), b"")
    assert answer.body.endswith(DONE)
    assert (await ended_rows(rig))[0]["cost_nusd"] == rig.simulator.bill[0].cost_nusd


async def test_a_stream_with_usage_asked_for_is_the_upstreams_to_the_byte(rig: Rig) -> None:
    body = {**STREAM, "stream_options": {"include_usage": True}}
    answer = await ask(rig, body)
    assert answer.body == await _upstreams_own(rig, body)
    assert _usage_chunk(answer.body)


async def test_a_stream_in_tiny_pieces_is_the_same_stream(rig: Rig) -> None:
    dripped = await ask(rig, {**STREAM, "simulate": {"fault": "drip", "bytes": 7, "every_ms": 0, "words": 20}})
    plain = await ask(rig, {**STREAM, "simulate": {"words": 20}})
    assert dripped.body == plain.body


async def test_the_first_bytes_do_not_wait_for_the_last(rig: Rig) -> None:
    async with dial(rig) as wire:
        started = monotonic()
        await wire.send(request({**STREAM, "simulate": {"pace_ms": 25, "words": 16}}))
        status, _ = await wire.head()
        first = await wire.chunk()
        to_first_s = monotonic() - started
        assert rig.simulator.in_flight == 1
        await _until(wire, DONE)
        total_s = monotonic() - started
    assert status == 200
    assert first.startswith(b"data: ")
    assert total_s > 0.35
    assert to_first_s < total_s / 2
    assert first.count(b"data: ") < 5


async def test_done_is_said_once_the_settlement_is_durable(rig: Rig) -> None:
    for _ in range(10):
        async with dial(rig) as wire:
            await wire.send(request(STREAM))
            await wire.head()
            before = await wire.chunk()
            assert DONE not in before
            await _until(wire, DONE)
            assert rig.rows()[-1]["state"] == "settled"


async def test_a_whole_answer_is_sent_once_the_settlement_is_durable(rig: Rig) -> None:
    for _ in range(10):
        async with dial(rig) as wire:
            await wire.send(request(QUESTION))
            await wire.head()
            assert rig.rows()[-1]["state"] == "settled"


async def test_a_client_that_leaves_a_stream_is_settled_at_what_the_upstream_says(rig: Rig) -> None:
    async with dial(rig) as wire:
        await wire.send(request({**STREAM, "simulate": {"pace_ms": 10, "words": 30}}))
        await wire.head()
        await wire.chunk()
        wire.reset()
    (row,) = await ended_rows(rig)
    (entry,) = rig.simulator.bill
    assert (row["state"], row["usage_source"], row["unresolved_nusd"]) == ("settled", "upstream", 0)
    assert (row["cost_nusd"], row["output_tokens"]) == (entry.cost_nusd, entry.output_tokens)
    await assert_books_are_right(rig)


async def test_a_client_that_leaves_before_the_first_byte_is_settled_too(rig: Rig) -> None:
    for body in (QUESTION, STREAM):
        async with dial(rig) as wire:
            await wire.send(request({**body, "simulate": {"delay_ms": 100}}))
            await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 1)
            wire.reset()
        await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 0)
    rows = await ended_rows(rig, 2)
    assert [row["state"] for row in rows] == ["settled", "settled"]
    assert sum(row["cost_nusd"] for row in rows) == rig.simulator.total_nusd
    assert {row["usage_source"] for row in rows} == {"upstream"}


async def test_on_disconnect_cancel_leaves_the_upstream_and_estimates(make_rig: Callable[..., Any]) -> None:
    rig = await make_rig(gateway=DRAIN_OFF)
    async with dial(rig) as wire:
        await wire.send(request({**STREAM, "simulate": {"pace_ms": 10, "words": 3000}}))
        await wire.head()
        await wire.chunk()
        wire.reset()
    await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 0)  # not 30 s later: its connection was closed
    (row,) = await ended_rows(rig)
    assert (row["state"], row["usage_source"]) == ("settled", "estimated")
    assert 0 < row["cost_nusd"] < rig.simulator.total_nusd
    assert row["output_tokens"] > 0
    await assert_books_are_right(rig)


async def test_a_drain_that_takes_too_long_is_cut_and_estimated(make_rig: Callable[..., Any]) -> None:
    rig = await make_rig(gateway="version: 1\ndrain: 100ms\n")
    async with dial(rig) as wire:
        await wire.send(request({**STREAM, "simulate": {"pace_ms": 10, "words": 3000}}))
        await wire.head()
        await wire.chunk()
        wire.reset()
    await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 0)
    (row,) = await ended_rows(rig)
    assert (row["state"], row["usage_source"]) == ("settled", "estimated")


async def test_a_client_that_closes_right_after_done_is_settled_exactly(rig: Rig) -> None:
    for _ in range(5):
        async with dial(rig) as wire:
            await wire.send(request(STREAM))
            await wire.head()
            await _until(wire, DONE)
            wire.reset()
    rows = await ended_rows(rig, 5)
    assert [row["cost_nusd"] for row in rows] == [entry.cost_nusd for entry in rig.simulator.bill]
    assert {(row["state"], row["usage_source"], row["status"]) for row in rows} == {("settled", "upstream", 200)}


def _endless(sent: list[int], most: int, end: bytes = b"") -> Callable[[asyncio.StreamWriter], Any]:
    """A stream of up to `most` bytes as fast as it is taken; `sent[0]`: how many were."""
    piece = event("x" * 500) * 100

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        while sent[0] < most:
            writer.write(piece)
            await writer.drain()
            sent[0] += len(piece)
        writer.write(end)
        await writer.drain()

    return answer


async def test_a_client_that_never_reads_is_not_buffered_for_and_cut_after_idle(make_rig: Callable[..., Any]) -> None:
    sent = [0]
    async with raw_upstream(_endless(sent, 256 * 2**20)) as upstream:
        rig = await make_rig(upstream_url=upstream.url, gateway=DRAIN_OFF + "retry: {idle: 300ms}\n")
        async with dial(rig, receive_buffer=4096) as wire:
            started = monotonic()
            await wire.send(request(STREAM))
            (row,) = await ended_rows(rig)
            assert 0.3 < monotonic() - started < 3
        assert (row["state"], row["usage_source"]) == ("settled", "estimated")
        assert row["cost_nusd"] > 0
        await asyncio.wait_for(asyncio.gather(*rig.proxy.services.running), 10)
    assert 0 < sent[0] < 32 * 2**20  # what the kernel's buffers take


async def test_a_client_that_is_cut_while_it_does_not_read_is_still_charged_exactly(
    make_rig: Callable[..., Any],
) -> None:
    usage = event(usage={"prompt_tokens": 100, "completion_tokens": 1000})
    async with raw_upstream(_endless([0], 24 * 2**20, usage + DONE)) as upstream:
        rig = await make_rig(upstream_url=upstream.url, gateway="version: 1\nretry: {idle: 300ms}\n")
        async with dial(rig, receive_buffer=4096) as wire:
            await wire.send(request(STREAM))
            (row,) = await ended_rows(rig)
        assert (row["state"], row["usage_source"]) == ("settled", "upstream")
        assert (row["input_tokens"], row["output_tokens"]) == (100, 1000)


async def test_a_client_that_resets_while_the_proxy_waits_for_it_to_read_is_settled(
    make_rig: Callable[..., Any],
) -> None:
    sent = [0]
    usage = event(usage={"prompt_tokens": 100, "completion_tokens": 1000})
    async with raw_upstream(_endless(sent, 24 * 2**20, usage + DONE)) as upstream:
        rig = await make_rig(upstream_url=upstream.url)
        async with dial(rig, receive_buffer=4096) as wire:
            await wire.send(request(STREAM))
            before = -1
            while sent[0] == 0 or sent[0] != before:  # until the upstream is not read any more
                before = sent[0]
                await asyncio.sleep(0.1)
            wire.reset()
        (row,) = await ended_rows(rig)
    assert (row["state"], row["usage_source"], row["output_tokens"]) == ("settled", "upstream", 1000)


async def test_a_slow_reader_loses_nothing(make_rig: Callable[..., Any]) -> None:
    words = [f"{n:06d}" * 20 for n in range(20_000)]
    stream = b"".join(map(event, words)) + event(usage={"prompt_tokens": 1, "completion_tokens": 1}) + DONE
    async with raw_upstream(says(SSE_HEAD + stream)) as upstream:
        rig = await make_rig(upstream_url=upstream.url)
        async with dial(rig, receive_buffer=4096) as wire:
            await wire.send(request({**STREAM, "stream_options": {"include_usage": True}}))
            assert (await wire.head())[0] == 200
            pieces = []
            while piece := await wire.chunk():
                pieces.append(piece)
                if len(pieces) % 20 == 0:
                    await asyncio.sleep(0.002)  # slowness is what is tested
        assert b"".join(pieces) == stream
        assert [row["state"] for row in rig.rows()] == ["settled"]
