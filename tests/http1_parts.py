"""The client of the upstream against servers that send what a test says, byte by byte, on both event loops."""

from __future__ import annotations

import asyncio
import inspect
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from oxyy_proxy import http1, pool, sweep
from oxyy_proxy import upstream as module
from oxyy_proxy.http1 import Connection
from oxyy_proxy.sweep import Sweeper
from oxyy_proxy.upstream import Outgoing, Upstream
from tests.rig import ORG_KEY
from tests.steps.wires import WAIT_S, RawAnswer

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """A coroutine as a test, once per event loop. What escapes from a callback is a failure."""

    def run(*, loop: str, **arguments: Any) -> None:
        reported: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: reported.append(context))
            runner.run(test(**arguments))
        assert reported == []

    signature = inspect.signature(test)
    loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__name__, run.__module__, run.__doc__ = test.__name__, test.__module__, test.__doc__
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), loop])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop", LOOPS)(run)


@dataclass(frozen=True)
class Got:
    """An answer that came whole."""

    status: int
    body: bytes
    headers: dict[bytes, bytes]


@dataclass(frozen=True)
class Client:
    """An Upstream, and the sweeper that ends its waits."""

    upstream: Upstream
    sweeper: Sweeper

    async def ask(self, body: bytes | Outgoing = b"{}", headers: str = "", limit_s: float = WAIT_S) -> Got:
        """One request, answered whole; the connection is given back. Raises UpstreamFailure."""
        answer = await self.upstream.post("/chat/completions", body, headers, limit_s)
        try:
            return Got(answer.status, await answer.read(), answer.headers)
        finally:
            answer.close()

    @property
    def idle(self) -> list[Connection]:
        return list(self.upstream._pool.idle)

    @property
    def waits(self) -> int:
        return len(self.sweeper._waits)


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    """A client whose sweeper runs; nothing is left in it at the end."""
    sweeper = Sweeper()
    sweeping = asyncio.get_running_loop().create_task(sweeper.run())
    made = Client(Upstream(url, ORG_KEY, sweeper), sweeper)
    try:
        yield made
        assert made.waits == 0
    finally:
        await made.upstream.close()
        sweeping.cancel()
        await asyncio.wait([sweeping])  # and with it the ends of connections are handled


async def until(true: Callable[[], object]) -> None:
    """Let the loop run until it is. Raises TimeoutError."""
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110 - nothing in the code under test sets an event for tests
            await asyncio.sleep(0)


class Received:
    """How many bytes connections have been given since `noticing` began."""

    count = 0


@contextmanager
def noticing() -> Iterator[Received]:
    """Count what connections receive, so that a server can wait until a segment has been taken for itself."""
    received = Received()

    class Noticing(Connection):
        _halves = False

        def data_received(self, data: bytes) -> None:
            if self._halves:  # the connection itself hands on a segment in two
                super().data_received(data)
                return
            self._halves = True
            super().data_received(data)
            self._halves = False
            received.count += len(data)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pool, "Connection", Noticing)
        yield received


def in_segments(received: Received, segments: Iterable[bytes]) -> RawAnswer:
    """An answer whose segments arrive one by one."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        for segment in segments:
            expected = received.count + len(segment)
            writer.write(segment)
            await until(lambda expected=expected: received.count >= expected)  # type: ignore[misc]

    return answer


def then_reset(received: Received, data: bytes) -> RawAnswer:
    """An answer that is taken, and then a reset instead of an end."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await in_segments(received, [data])(writer)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return answer


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[str]:
    """A server that does with each connection what `serve` does, and then closes it; its URL."""
    running: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort() if task.cancelling() else writer.close()

    where = {} if "sock" in options else {"host": host, "port": 0}
    server = await asyncio.start_server(handle, **where, **options)
    port = server.sockets[0].getsockname()[1]
    scheme = "https" if options.get("ssl") else "http"
    try:
        yield f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/v1"
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next request, head and body apart."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
    return head, await reader.readexactly(length)


def small_buffers() -> socket.socket:
    """A listening socket on whose connections little fits."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listening.bind(("127.0.0.1", 0))
    return listening


async def rounds(count: int) -> None:
    """Let the loop run this often."""
    for _ in range(count):
        await asyncio.sleep(0)


class Clock:
    now = 1000.0


def fake_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of waits and of the sweeper, which looks all the time; the loops keep their own."""
    made = Clock()
    monkeypatch.setattr(sweep, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(sweep, "SWEEP_EVERY_S", 0.0)
    monkeypatch.setattr(module, "monotonic", lambda: made.now)
    monkeypatch.setattr(pool, "monotonic", lambda: made.now)
    monkeypatch.setattr(http1, "monotonic", lambda: made.now)
    return made


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Whether the other side closes, or resets, the connection without another byte."""
    try:
        return await asyncio.wait_for(reader.read(1), WAIT_S) == b""
    except ConnectionError:
        return True


@contextmanager
def full_port() -> Iterator[int]:
    """The port of a socket whose queue is full: who connects hears nothing."""
    with ExitStack() as sockets:
        listening = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            one = sockets.enter_context(socket.socket())
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(listening.getsockname())
        yield listening.getsockname()[1]
