"""Connections to the upstream: how many, who waits for one, and by which address they are made."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from oxyy_proxy import pool
from oxyy_proxy.errors import UpstreamUnreachable
from oxyy_proxy.http1 import Incoming
from oxyy_proxy.pool import Pool
from tests.http1_parts import full_port, is_closed, on_each_loop, rounds, serving, until
from tests.steps.wires import WAIT_S


@contextlib.asynccontextmanager
async def pooled(most: int) -> AsyncIterator[tuple[Pool, list[asyncio.StreamReader]]]:
    """A pool, and the other ends of the connections it has made."""
    made: list[asyncio.StreamReader] = []

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        made.append(reader)
        await is_closed(reader)

    async with serving(serve) as url:
        connections = Pool("127.0.0.1", int(url.split(":")[2][:-3]), None, most)
        yield connections, made
        assert (connections._taken, list(connections._line)) == (0, [])
        await connections.close()


def waiting(connections: Pool, limit_s: float = WAIT_S, *, afresh: bool = False) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(connections.take(limit_s, afresh=afresh))


def as_if_answered(connection: Any) -> None:
    """Its exchange has ended well."""
    answer = Incoming(connection, WAIT_S)
    connection.send(b"", b"", answer)
    answer.complete = True
    connection._keep_alive = True


@on_each_loop
async def test_who_finds_all_taken_waits_in_line_and_the_first_has_the_first_that_is_free() -> None:
    async with pooled(2) as (connections, made):
        held = [await connections.take(WAIT_S) for _ in range(2)]
        line = [waiting(connections) for _ in range(3)]
        await rounds(20)
        assert not any(task.done() for task in line)
        for number, task in enumerate(line):
            as_if_answered(held[number])
            connections.give_back(held[number])
            held.append(await asyncio.wait_for(task, WAIT_S))
            assert held[-1] is held[number]  # the same connection, handed on
            assert [other.done() for other in line[number + 1 :]] == [False] * (2 - number)
        assert len(made) == 2
        for connection in held[-2:]:
            as_if_answered(connection)
            connections.give_back(connection)
        assert len(connections.idle) == 2


@on_each_loop
async def test_a_connection_that_is_lost_leaves_its_place_to_the_next() -> None:
    async with pooled(1) as (connections, made):
        first = await connections.take(WAIT_S)
        task = waiting(connections)
        await rounds(5)
        first.drop()
        connections.give_back(first)
        second = await asyncio.wait_for(task, WAIT_S)
        assert second is not first
        await until(lambda: len(made) == 2)
        connections.give_back(second)
        assert not connections.idle  # nothing was asked on it


@pytest.mark.parametrize("bound", ["own", "the request's"])
@on_each_loop
async def test_nobody_waits_in_line_for_ever(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    monkeypatch.setattr(pool, "CONNECT_S", 0.1 if bound == "own" else 60.0)
    async with pooled(1) as (connections, made):
        first = await connections.take(WAIT_S)
        clock = asyncio.get_running_loop().time  # uvloop's is coarser than the system's
        started = clock()
        with pytest.raises(UpstreamUnreachable):
            await connections.take(60.0 if bound == "own" else 0.1)
        assert 0.1 <= clock() - started + 1e-9 < 5.0
        connections.give_back(first)
        assert len(made) == 1


@pytest.mark.parametrize("handed", [False, True], ids=["still in line", "just handed a place"])
@on_each_loop
async def test_who_leaves_the_line_takes_no_place_with_it(handed: bool) -> None:
    async with pooled(1) as (connections, made):
        first = await connections.take(WAIT_S)
        leaving, staying = waiting(connections), waiting(connections)
        await rounds(5)
        as_if_answered(first)
        if handed:
            connections.give_back(first)
        leaving.cancel()
        await asyncio.wait([leaving])
        if not handed:
            connections.give_back(first)
        assert await asyncio.wait_for(staying, WAIT_S) is first
        connections.give_back(first)
        assert len(made) == 1


@on_each_loop
async def test_a_place_is_free_again_where_no_connection_could_be_made() -> None:
    connections = Pool("127.0.0.1", 1, None, 1)
    line = [waiting(connections) for _ in range(3)]
    for task in line:
        with pytest.raises(UpstreamUnreachable):
            await asyncio.wait_for(task, WAIT_S)
    assert connections._taken == 0


@on_each_loop
async def test_a_new_connection_takes_the_place_of_an_idle_one() -> None:
    async with pooled(1) as (connections, made):
        first = await connections.take(WAIT_S)
        as_if_answered(first)
        connections.give_back(first)
        second = await connections.take(WAIT_S, afresh=True)
        assert second is not first
        assert not connections.idle
        assert not first.usable
        await until(lambda: len(made) == 2)
        task = waiting(connections, afresh=True)
        await rounds(5)
        as_if_answered(second)
        connections.give_back(second)  # which is not a new one for who waits
        third = await asyncio.wait_for(task, WAIT_S)
        assert third is not second
        connections.give_back(third)


@on_each_loop
async def test_nothing_is_kept_once_it_is_closed() -> None:
    async with pooled(2) as (connections, _):
        first = await connections.take(WAIT_S)
        as_if_answered(first)
        await connections.close()
        connections.give_back(first)
        assert not connections.idle
        assert not first.usable


@contextlib.contextmanager
def resolving(monkeypatch: pytest.MonkeyPatch, addresses: list[tuple[int, tuple[Any, ...]]]) -> Iterator[None]:
    """What any name stands for."""

    async def getaddrinfo(*_: object, **__: object) -> list[Any]:
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for family, address in addresses]

    with monkeypatch.context() as patched:
        patched.setattr(pool, "_addresses", getaddrinfo)
        yield


@contextlib.contextmanager
def _refusing() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("dead", [full_port, _refusing])
@pytest.mark.parametrize("count", [1, 2])
@on_each_loop
async def test_an_address_that_is_dead_costs_a_moment(
    monkeypatch: pytest.MonkeyPatch, dead: Callable[[], Any], count: int
) -> None:
    async with pooled(1) as (connections, made):
        with dead() as port:
            dead_ones = [(socket.AF_INET, ("127.0.0.1", port))] * count
            with resolving(monkeypatch, [*dead_ones, (socket.AF_INET, ("127.0.0.1", connections._port))]):
                started = time.monotonic()
                connection = await connections.take(WAIT_S)
                assert time.monotonic() - started < count * pool.NEXT_ADDRESS_S + 1.0
        await until(lambda: made)
        sock = connection._transport.get_extra_info("socket")  # type: ignore[union-attr]
        assert sock.getpeername()[1] == connections._port
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connections.give_back(connection)


@on_each_loop
async def test_where_all_addresses_are_dead_it_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = [(socket.AF_INET, ("127.0.0.1", 1)), (socket.AF_INET6, ("::1", 1, 0, 0)), (socket.AF_INET, ("256.1", 1))]
    for addresses in (dead, dead[::-1], dead[:1], []):
        connections = Pool("upstream.example", 1, None, 1)
        with resolving(monkeypatch, addresses), pytest.raises(UpstreamUnreachable):
            await connections.take(WAIT_S)
        assert connections._taken == 0
