"""Request bodies that are sent as they are read: whole, no faster than they are taken, and no further than wanted."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import socket
import struct
from collections.abc import AsyncGenerator, Iterable

import pytest

from oxyy_proxy.errors import UpstreamFailure, UpstreamReset, UpstreamTimeout, UpstreamUnreachable
from oxyy_proxy.rules.multipart import Span
from oxyy_proxy.uploads import Buffers
from oxyy_proxy.upstream import Outgoing
from tests.http1_parts import (
    Client,
    client,
    is_closed,
    on_each_loop,
    read_request,
    rounds,
    serving,
    small_buffers,
    until,
)
from tests.steps.wires import WAIT_S, http, raw_upstream, says
from tests.upload_parts import uploaded

PIECE = hashlib.shake_256(b"piece").digest(250_000)
TAKEN = http(b"taken")
REFUSED = http(b"too large", "413 Content Too Large")


class Source:
    """A body in pieces: how many have been asked for, and whether their generator has ended. It `waits` before the
    piece of that number until it may `go`."""

    def __init__(self, pieces: Iterable[bytes], waits: int = -1) -> None:
        self.pieces = list(pieces)
        self.taken = 0
        self.ended = False
        self.waiting, self.go = asyncio.Event(), asyncio.Event()
        self._waits = waits

    async def _read(self) -> AsyncGenerator[bytes]:
        try:
            for number, piece in enumerate(self.pieces):
                if number == self._waits:
                    self.waiting.set()
                    await self.go.wait()
                self.taken += 1
                yield piece
        finally:
            self.ended = True

    @property
    def body(self) -> Outgoing:
        return Outgoing(sum(map(len, self.pieces)), self._read())

    async def stalled(self) -> None:
        """Wait until no more of it is read."""
        before = -1
        while self.taken != before or not self.taken:
            before = self.taken
            await rounds(500)


def large() -> Source:
    """More than fits between two sockets."""
    return Source([PIECE] * 200)


CUTS = {
    "nothing": [],
    "one": [PIECE],
    "a byte each": [bytes([number]) for number in range(256)],
    "some of them empty": [b"", b"a", b"", b"", b"b", b""],
    "of all sizes": [PIECE[:size] for size in (1, 65_535, 65_536, 3, 250_000, 0, 249_999)],
    "more than fits": [PIECE, PIECE[7:]] * 60,
}


@pytest.mark.parametrize("pieces", CUTS.values(), ids=CUTS)
@on_each_loop
async def test_a_body_in_pieces_arrives_whole_and_its_connection_is_used_again(pieces: list[bytes]) -> None:
    async with raw_upstream(says(TAKEN), keep=True) as server, client(server.url) as asking:
        for _ in range(3):
            source = Source(pieces)
            assert (await asking.ask(source.body, limit_s=60.0)).body == b"taken"
            assert source.ended
        body = hashlib.sha256(b"".join(pieces)).digest()
        assert [hashlib.sha256(seen).digest() for _, seen in server.seen] == [body] * 3
        length = b"Content-Length: %d\r\n" % sum(map(len, pieces))
        assert all(length in head for head, _ in server.seen)
        assert (server.connections, len(asking.idle)) == (1, 1)


@pytest.mark.parametrize("size", [1000, 3_000_000])
@on_each_loop
async def test_an_upload_is_sent_as_it_was_received_as_often_as_it_is_tried(size: int) -> None:
    body = (PIECE * 13)[:size]
    upload = await uploaded(Buffers(), *(body[at : at + 64_000] for at in range(0, size, 64_000)))
    wanted = (b"<", Span(1, 500), b"", Span(500, size), b">")
    expected = b"<" + body[1:] + b">"
    async with raw_upstream(says(http(b"", "503 Later")), says(TAKEN), keep=True) as server:
        async with client(server.url) as asking:
            for status in (503, 200):
                assert (await asking.ask(Outgoing(len(expected), upload.pieces(wanted)))).status == status
        assert [seen == expected for _, seen in server.seen] == [True, True]
        assert server.connections == 1
    upload.close()


@on_each_loop
async def test_no_more_is_read_than_the_upstream_takes() -> None:
    read_on = asyncio.Event()
    received = hashlib.sha256()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await read_on.wait()
        left = len(PIECE) * 200
        while left:
            piece = await reader.read(min(left, 65536))
            received.update(piece)
            left -= len(piece)
        writer.write(TAKEN)
        await is_closed(reader)

    async with serving(serve, sock=small_buffers()) as url, client(url) as asking:
        source = large()
        task = asyncio.get_running_loop().create_task(asking.ask(source.body, limit_s=60.0))
        await source.stalled()
        assert source.taken < 100
        assert not task.done()
        read_on.set()
        assert (await task).body == b"taken"
        assert source.taken == 200
        assert received.digest() == hashlib.sha256(PIECE * 200).digest()
        assert len(asking.idle) == 1


@pytest.mark.parametrize("closes", [True, False])
@on_each_loop
async def test_an_answer_before_the_body_was_taken_is_heard_and_ends_the_sending(closes: bool) -> None:
    answer, done = asyncio.Event(), asyncio.Event()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        await answer.wait()
        writer.write(REFUSED)
        if not closes:
            await done.wait()

    async with serving(serve, sock=small_buffers(), limit=1024) as url, client(url) as asking:
        for number in (1, 2):
            answer.clear()
            source = large()
            task = asyncio.get_running_loop().create_task(asking.ask(source.body))
            await source.stalled()
            taken = source.taken
            answer.set()
            got = await task
            assert (got.status, got.body) == (413, b"too large")
            assert (source.taken, source.ended) == (taken, True)
            assert (asking.idle, connections) == ([], number)
        done.set()


@on_each_loop
async def test_an_answer_that_came_while_the_body_was_being_read_ends_the_sending() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REFUSED)
        rest.append(await reader.read())

    rest: list[bytes] = []
    async with serving(serve) as url, client(url) as asking:
        source = Source([b"first", b"second", b"third"], waits=1)
        task = asyncio.get_running_loop().create_task(asking.ask(source.body))
        await source.waiting.wait()
        (incoming,) = asking.sweeper._waits
        await until(lambda: incoming.complete)  # type: ignore[attr-defined]
        source.go.set()
        assert (await task).body == b"too large"
        assert (source.taken, source.ended, asking.idle) == (2, True, [])
        await until(lambda: rest == [b"first"])  # a part of the body, and the connection's end


@on_each_loop
async def test_interim_answers_do_not_end_the_sending() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
            await writer.drain()
            seen.append(await reader.readexactly(int(head.partition(b"Content-Length: ")[2])))
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" + TAKEN)

    seen: list[bytes] = []
    async with serving(serve, sock=small_buffers()) as url, client(url) as asking:
        for _ in range(2):
            source = Source([PIECE] * 20)
            got = await asking.ask(source.body)
            assert (got.status, got.body, b"link" in got.headers) == (200, b"taken", False)
            assert len(asking.idle) == 1
    assert seen == [PIECE * 20] * 2


def _reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@pytest.mark.parametrize("reading", [True, False], ids=["while it is being read", "while nobody takes it"])
@pytest.mark.parametrize("hard", [True, False], ids=["reset", "closed"])
@on_each_loop
async def test_a_connection_that_breaks_within_the_body_is_of_unknown_outcome(hard: bool, reading: bool) -> None:
    go = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        if hard:
            _reset(writer)

    async with serving(serve, sock=small_buffers(), limit=1024) as url, client(url) as asking:
        source = Source([b"x"] * 9, waits=3) if reading else large()
        task = asyncio.get_running_loop().create_task(asking.ask(source.body))
        await (source.waiting.wait() if reading else source.stalled())
        go.set()
        if reading:
            (incoming,) = asking.sweeper._waits
            await until(lambda: incoming.failure is not None)  # type: ignore[attr-defined]
            source.go.set()
        with pytest.raises(UpstreamReset) as caught:
            await asyncio.wait_for(task, WAIT_S)
        assert caught.value.ambiguous
        assert source.ended
        assert source.taken < len(source.pieces)
        assert (asking.idle, asking.waits) == ([], 0)


@on_each_loop
async def test_a_body_that_nobody_takes_ends_with_its_time() -> None:
    done = asyncio.Event()

    async def serve(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await done.wait()

    async with serving(serve, sock=small_buffers(), limit=1024) as url, client(url) as asking:
        source = large()
        with pytest.raises(UpstreamTimeout):
            await asking.ask(source.body, limit_s=0.1)
        assert (source.ended, asking.idle, asking.waits) == (True, [], 0)
        assert source.taken < 100
        done.set()


async def _where(asking: Client, place: str) -> tuple[Source, asyncio.Task[object]]:
    """A request whose task waits at this place."""
    source = large() if place == "for room" else Source([b"x"] * 3, waits=1 if place == "for the next piece" else -1)
    task: asyncio.Task[object] = asyncio.get_running_loop().create_task(asking.ask(source.body))
    if place == "for the next piece":
        await source.waiting.wait()
    elif place == "for room":
        await source.stalled()
    else:
        await until(lambda: source.ended)
    await rounds(5)
    return source, task


@pytest.mark.parametrize("place", ["for the next piece", "for room", "for the answer"])
@on_each_loop
async def test_a_request_that_is_cancelled_closes_its_body_and_its_connection(place: str) -> None:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await may_read.wait()
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        closed.set()

    may_read = asyncio.Event()
    async with serving(serve, sock=small_buffers(), limit=1024) as url, client(url) as asking:
        source, task = await _where(asking, place)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (source.ended, asking.idle, asking.waits) == (True, [], 0)
        may_read.set()
        await asyncio.wait_for(closed.wait(), WAIT_S)


@on_each_loop
async def test_a_request_that_is_cancelled_at_any_moment_leaves_nothing() -> None:
    async with raw_upstream(says(TAKEN), keep=True) as server, client(server.url) as asking:
        for moment in itertools.count():
            source = Source([PIECE, b"", PIECE])
            task = asyncio.get_running_loop().create_task(asking.ask(source.body))
            await rounds(moment)
            if task.done():
                break
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert source.ended or not source.taken
            assert asking.waits == 0
        assert moment > 5
        assert (await asking.ask(Source([b"a", b"b"]).body)).body == b"taken"
        assert server.seen[-1][1] == b"ab"


class _Unreadable(Exception):
    pass


@on_each_loop
async def test_a_body_that_cannot_be_read_to_its_end_is_told_to_nobody_as_whole() -> None:
    cut: list[bool] = []

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        try:
            await read_request(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            cut.append(True)

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"x"
        raise _Unreadable

    async with serving(serve) as url, client(url) as asking:
        with pytest.raises(_Unreadable):
            await asking.ask(Outgoing(2, pieces()))
        assert (asking.idle, asking.waits) == ([], 0)
        await until(lambda: cut == [True])


@on_each_loop
async def test_nothing_is_read_for_an_upstream_that_cannot_be_reached() -> None:
    source = large()
    async with client("http://127.0.0.1:1/v1") as asking:
        with pytest.raises(UpstreamUnreachable):
            await asking.ask(source.body)
    assert source.taken == 0


@on_each_loop
async def test_a_body_sent_into_a_connection_that_the_upstream_is_closing_is_closed_and_not_sent_twice() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(TAKEN)
        heads.append(await reader.readuntil(b"\r\n\r\n"))  # and hangs up

    heads: list[bytes] = []
    async with serving(serve) as url, client(url) as asking:
        await asking.ask()
        source = large()
        with pytest.raises(UpstreamFailure) as caught:
            await asking.ask(source.body)
        assert (type(caught.value), len(heads)) == (UpstreamReset, 1)
        assert (source.ended, asking.idle) == (True, [])
