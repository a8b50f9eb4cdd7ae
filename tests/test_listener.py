from __future__ import annotations

import asyncio
import re
import resource
import socket

import pytest
from aiohttp import web

from oxyy_proxy import listener as listening
from oxyy_proxy.errors import StartupError
from oxyy_proxy.listener import ADMIN_CONNECTIONS, Listener, connection_limit
from tests.rig import Rig
from tests.steps.wires import QUESTION, dial, request


async def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartupError, match=rf"^cannot listen on 127.0.0.1:{port}: the port is in use; choose"):
            await Listener(_nothing).open("127.0.0.1", port)


@pytest.mark.parametrize("host", ["256.1.1.1", "no-such-host.invalid", "192.0.2.1", "a..b", "x" * 70 + ".y"])
async def test_a_host_that_cannot_be_listened_on_is_one_line(host: str) -> None:
    with pytest.raises(StartupError, match=r"^cannot listen on ") as caught:
        await Listener(_nothing).open(host, 0)
    assert "\n" not in str(caught.value)


async def test_the_address_is_what_is_really_listened_on() -> None:
    listener = Listener(_nothing)
    await listener.open("127.0.0.1", 0)
    try:
        assert re.fullmatch(r"127\.0\.0\.1:[1-9]\d+", listener.address)
    finally:
        await listener.close()


async def test_an_ipv6_address_is_in_brackets() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    listener = Listener(_nothing)
    await listener.open("::1", 0)
    try:
        assert re.fullmatch(r"\[::1\]:[1-9]\d+", listener.address)
    finally:
        await listener.close()


async def test_no_new_connections_and_idle_ones_are_closed_once_it_stops_accepting(rig: Rig) -> None:
    async with dial(rig) as idle:
        await idle.send(request(QUESTION))
        assert (await idle.answer()).status == 200
        rig.proxy.public.stop_accepting()
        assert await idle.closed()
    with pytest.raises(ConnectionRefusedError):
        async with dial(rig):
            pass


async def test_a_connection_too_many_is_told_to_come_back_and_the_next_is_let_in() -> None:
    listener = Listener(_nothing, most_connections=2)
    await listener.open("127.0.0.1", 0)
    host, port = listener.address.split(":")
    try:
        inside = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        reader, writer = await asyncio.open_connection(host, int(port))
        refused = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b'"code":"overloaded"' in refused
        assert b"\r\nRetry-After: 1\r\n" in refused
        inside[0][1].close()
        while refused:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            refused = b"" if answer.startswith(b"HTTP/1.1 200") else answer
        inside[1][1].close()
    finally:
        await listener.close()


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "allowed"),
    [
        (1024, 1024, 1024, 320),
        (1024, 20_000, 20_000, 6645),
        (1024, resource.RLIM_INFINITY, 30_064, 10_000),
        (10**6, 10**6, 10**6, 10_000),
        (64, 64, 64, 1),
    ],
)
def test_as_many_connections_as_descriptors_allow(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int, allowed: int
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: limits.append(wanted))
    assert connection_limit() == allowed
    assert limits[-1] == (raised, hard)
    assert listening.RESERVED_DESCRIPTORS > 2 * ADMIN_CONNECTIONS


async def _nothing(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()
