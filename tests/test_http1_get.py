"""What may be asked twice: a GET, and when it is."""

from __future__ import annotations

import asyncio

import pytest

from oxyy_proxy.errors import UpstreamBadResponse, UpstreamReset, UpstreamTimeout, UpstreamUnreachable
from tests.http1_parts import (
    Client,
    Got,
    client,
    fake_clock,
    is_closed,
    on_each_loop,
    read_request,
    rounds,
    serving,
    until,
)
from tests.rig import ORG_KEY
from tests.steps.wires import WAIT_S, http, raw_upstream, says

GOOD = http(b"good")


async def get(asking: Client, limit_s: float = WAIT_S, headers: str = "") -> Got:
    answer = await asking.upstream.get("/models", headers, limit_s)
    try:
        return Got(answer.status, await answer.read(), answer.headers)
    finally:
        answer.close()


@on_each_loop
async def test_a_get_is_these_bytes_and_no_body() -> None:
    async with raw_upstream(says(GOOD), says(http(b"no", "404 Not Found")), keep=True) as server:
        async with client(server.url) as asking:
            assert (await get(asking, headers="x-request-id: 7\r\n")).body == b"good"
            assert (await get(asking)).status == 404
        common = (
            f"GET /v1/models HTTP/1.1\r\nHost: {server.url[7:-3]}\r\nAuthorization: Bearer {ORG_KEY}\r\n"
            "Accept-Encoding: identity\r\n"
        )
        heads = [f"{common}x-request-id: 7\r\n\r\n".encode(), f"{common}\r\n".encode()]
        assert server.seen == [(head, b"") for head in heads]
        assert server.connections == 1


@on_each_loop
async def test_a_get_that_meets_a_connection_being_closed_is_asked_again_on_a_new_one() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections <= 3:
            await read_request(reader)
            await together.wait()
            writer.write(GOOD)
            await read_request(reader)  # and hangs up, as all three do
            return
        heads.append((await read_request(reader))[0])
        writer.write(GOOD)
        await is_closed(reader)

    together, heads = asyncio.Barrier(3), list[bytes]()
    async with serving(serve) as url, client(url) as asking:
        await asyncio.gather(*(asking.ask() for _ in range(3)))
        assert len(asking.idle) == 3
        assert (await get(asking)).body == b"good"
        assert (connections, len(heads)) == (4, 1)
        assert heads[0].startswith(b"GET /v1/models ")


@pytest.mark.parametrize("idle_before", [True, False])
@on_each_loop
async def test_a_get_is_sent_twice_at_most(idle_before: bool) -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            head, _ = await read_request(reader)
            if head.startswith(b"GET"):
                sent += 1
                return
            writer.write(GOOD)

    async with serving(serve) as url, client(url) as asking:
        if idle_before:
            await asking.ask()
        with pytest.raises(UpstreamReset):
            await get(asking)
        assert sent == 2
        assert (asking.idle, asking.waits) == ([], 0)


@on_each_loop
async def test_a_get_that_a_new_connection_broke_off_is_asked_again() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await read_request(reader))[0])
        if len(heads) > 1:
            writer.write(GOOD)
            await is_closed(reader)

    heads: list[bytes] = []
    async with serving(serve) as url, client(url) as asking:
        assert (await get(asking)).body == b"good"
        assert len(heads) == 2
        assert len(asking.idle) == 1


@on_each_loop
async def test_a_get_that_is_answered_too_late_is_not_asked_again() -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        heads.append((await read_request(reader))[0])
        await is_closed(reader)

    heads: list[bytes] = []
    async with serving(serve) as url, client(url) as asking:
        with pytest.raises(UpstreamTimeout):
            await get(asking, limit_s=0.1)
        assert len(heads) == 1
        assert (asking.idle, asking.waits) == ([], 0)


@on_each_loop
async def test_a_get_that_is_answered_with_nonsense_is_not_asked_again() -> None:
    async with raw_upstream(says(b"nonsense\r\n\r\n"), keep=True) as server, client(server.url) as asking:
        with pytest.raises(UpstreamBadResponse):
            await get(asking)
        assert len(server.seen) == 1


@on_each_loop
async def test_who_is_not_there_cannot_be_asked() -> None:
    async with client("http://127.0.0.1:1/v1") as asking:
        with pytest.raises(UpstreamUnreachable):
            await get(asking)


@on_each_loop
async def test_an_answer_that_breaks_off_after_its_head_is_a_failure_of_the_reader() -> None:
    async with raw_upstream(says(GOOD[:-1])) as server, client(server.url) as asking:
        with pytest.raises(UpstreamReset):
            await get(asking)
        assert len(server.seen) == 1


@on_each_loop
async def test_asking_twice_takes_no_longer_than_asking_once_may(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = fake_clock(monkeypatch)
    break_off, connections = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        if connections == 1:
            await break_off.wait()
        else:
            second.set()
            await is_closed(reader)

    second = asyncio.Event()
    async with serving(serve) as url, client(url) as asking:
        task = asyncio.get_running_loop().create_task(get(asking, limit_s=30.0))
        await until(lambda: asking.waits)
        clock.now += 20.0
        break_off.set()
        await asyncio.wait_for(second.wait(), WAIT_S)
        clock.now += 9.9
        await rounds(20)
        assert not task.done()
        clock.now += 0.2
        with pytest.raises(UpstreamTimeout):
            await asyncio.wait_for(task, WAIT_S)


@on_each_loop
async def test_a_get_that_is_cancelled_takes_its_connection_with_it() -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        asked.set()
        if await is_closed(reader):
            closed.set()

    async with serving(serve) as url, client(url) as asking:
        task = asyncio.get_running_loop().create_task(get(asking))
        await asyncio.wait_for(asked.wait(), WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), WAIT_S)
        assert (asking.idle, asking.waits) == ([], 0)
