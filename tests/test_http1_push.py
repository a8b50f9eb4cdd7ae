"""A body handed on as it comes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from oxyy_proxy.errors import UpstreamBadResponse, UpstreamFailure, UpstreamReset
from oxyy_proxy.upstream import UpstreamAnswer
from tests.http1_parts import Client, client, in_segments, noticing, on_each_loop, then_reset, until
from tests.steps.wires import WAIT_S, http, raw_upstream, says

EVENTS = [b"data: %d\n\n" % number for number in range(10)]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = [b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS]
END = b"0\r\n\r\n"


async def _flowing(asking: Client) -> UpstreamAnswer:
    answer = await asking.upstream.post("/chat/completions", b"", "", WAIT_S)
    answer.flow(WAIT_S)
    return answer


@pytest.mark.parametrize("segments", [[HEAD, *CHUNKS, END], [HEAD + b"".join(CHUNKS) + END]], ids=["paced", "at once"])
@on_each_loop
async def test_a_body_is_pushed_whole_and_in_order(segments: list[bytes]) -> None:
    with noticing() as received:
        async with (
            raw_upstream(in_segments(received, segments), keep=True) as server,
            client(server.url) as asking,
        ):
            for _ in range(2):
                answer, taken = await _flowing(asking), bytearray()
                assert await answer.push(lambda data, taken=taken: taken.extend(data) or True)  # type: ignore[misc]
                assert taken == b"".join(EVENTS)
                answer.close()
            assert server.connections == 1


@on_each_loop
async def test_a_sink_that_wants_no_more_gets_no_more_until_it_asks() -> None:
    with noticing() as received:
        segments = [HEAD + CHUNKS[0], CHUNKS[1], b"".join(CHUNKS[2:]) + END]
        async with (
            raw_upstream(in_segments(received, segments), keep=True) as server,
            client(server.url) as asking,
        ):
            answer, taken = await _flowing(asking), list[bytes]()
            ended = False
            for _ in range(3):
                assert not ended
                ended = await answer.push(lambda data: taken.append(data))  # type: ignore[arg-type,func-returns-value]
            assert taken == [*EVENTS[:2], b"".join(EVENTS[2:])]
            assert ended
            answer.close()
            assert len(asking.idle) == 1


@pytest.mark.parametrize("then", [b"", CHUNKS[3], CHUNKS[3] + END], ids=["in between", "before more", "before the end"])
@on_each_loop
async def test_what_a_sink_raises_is_raised_to_who_pushes(then: bytes) -> None:
    def fails_at_the_third(data: bytes) -> bool:
        taken.append(data)
        if len(taken) == 3:
            raise ZeroDivisionError
        return True

    taken: list[bytes] = []
    with noticing() as received:
        segments = [HEAD, CHUNKS[0], CHUNKS[1], CHUNKS[2] + then]
        async with (
            raw_upstream(in_segments(received, segments), keep=True) as server,
            client(server.url) as asking,
        ):
            answer = await _flowing(asking)
            with pytest.raises(ZeroDivisionError):
                await answer.push(fails_at_the_third)
            assert taken[:2] == EVENTS[:2]
            assert taken[2].startswith(EVENTS[2])
            assert len(taken) == 3
            answer.close()


@pytest.mark.parametrize(
    ("end", "failure"), [(b"", None), (END, None), (b"no chunk", UpstreamBadResponse)], ids=["more", "end", "not HTTP"]
)
@on_each_loop
async def test_all_chunks_of_one_read_are_one_piece(end: bytes, failure: type[UpstreamFailure] | None) -> None:
    with noticing() as received:
        segments = [HEAD + b"".join(CHUNKS[:3]), b"".join(CHUNKS[3:6]) + CHUNKS[6][:5], CHUNKS[6][5:] + end]
        async with (
            raw_upstream(in_segments(received, [*segments, END] if not end else segments), keep=True) as server,
            client(server.url) as asking,
        ):
            answer, taken = await _flowing(asking), list[bytes]()
            with pytest.raises(failure) if failure else contextlib.nullcontext():
                assert await answer.push(lambda data: taken.append(data) or True)
            joined = b"".join(EVENTS[3:7])
            assert taken[0] == b"".join(EVENTS[:3])
            assert taken[1:] == [joined[:-7], joined[-7:]]
            answer.close()


@on_each_loop
async def test_a_cut_comes_after_all_that_came_before_it() -> None:
    with noticing() as received:
        cut = then_reset(received, HEAD + b"".join(CHUNKS))
        async with raw_upstream(cut) as server, client(server.url) as asking:
            answer, taken = await _flowing(asking), bytearray()
            with pytest.raises(UpstreamReset):
                await answer.push(lambda data: taken.extend(data) or True)
            assert taken == b"".join(EVENTS)
            answer.close()


@on_each_loop
async def test_what_lay_ready_when_the_connection_broke_is_pushed_before_the_failure() -> None:
    async with raw_upstream(says(http(b"whole")[:-1])) as server, client(server.url) as asking:
        answer, taken = await _flowing(asking), bytearray()
        await until(lambda: answer.failure)
        with pytest.raises(UpstreamReset):
            await answer.push(lambda data: taken.extend(data) or True)
        assert taken == b"whol"
        answer.close()


@on_each_loop
async def test_a_push_that_is_cancelled_leaves_the_sink_alone_from_then_on() -> None:
    go_on = asyncio.Event()

    async def paced(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + CHUNKS[0])
        await go_on.wait()
        writer.write(CHUNKS[1] + END)

    async with raw_upstream(paced, keep=True) as server, client(server.url) as asking:
        answer, taken = await _flowing(asking), list[bytes]()
        task = asyncio.get_running_loop().create_task(answer.push(lambda data: taken.append(data) or True))
        await until(lambda: taken)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        assert await answer.read() == EVENTS[1]
        assert taken == EVENTS[:1]
        answer.close()
        assert asking.waits == 0


@on_each_loop
async def test_an_empty_body_is_pushed_as_nothing() -> None:
    async with raw_upstream(says(HEAD + END), keep=True) as server, client(server.url) as asking:
        answer = await _flowing(asking)
        assert await answer.push(lambda _: pytest.fail("there is nothing to take"))
        answer.close()
        assert len(asking.idle) == 1
