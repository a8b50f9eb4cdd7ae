"""Memory, and the time from spawn to ready."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from oxyy_proxy.listener import DESCRIPTORS_PER_CONNECTION, RESERVED_DESCRIPTORS
from tests.benchmarks import books
from tests.benchmarks.load import WrongAnswer
from tests.benchmarks.rounds import Plan
from tests.benchmarks.targets import Stage, Target
from tests.benchmarks.workloads import OPEN

_WAVE = 50
"""Streams opened at a time, so that no backlog overflows."""

_NEXT_EVENT_WITHIN_S = 10.0
"""The upstream sends each stream an event a second."""


@dataclass(frozen=True, slots=True)
class Memory:
    """RSS of all processes of a target: idle, and by the number of open streams."""

    idle_bytes: int
    streams_bytes: dict[int, int]


class _OpenStream(asyncio.Protocol):
    """Asks for a stream without an end; `begun` is set by the first event, or fails. `served`: whether bytes have come
    since that was last set to False."""

    def __init__(self, request: bytes, begun: asyncio.Future[None]) -> None:
        self._request, self._begun, self._received = request, begun, b""
        self.served = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.served = True
        if self._begun.done():
            return
        self._received += data
        if not self._received.startswith(b"HTTP/1.1 200"[: len(self._received)]):
            self._begun.set_exception(WrongAnswer(f"an open stream was answered {self._received[:300]!r}"))
        elif b"data: " in self._received:
            self._begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._begun.done():
            self._begun.set_exception(WrongAnswer(f"an open stream broke before its first event: {exc!r}"))


def descriptors(streams: int) -> int:
    """What the proxy wants for so many clients at once."""
    return streams * DESCRIPTORS_PER_CONNECTION + RESERVED_DESCRIPTORS


def that_fit(counts: Sequence[int], limit: int) -> tuple[list[int], list[str]]:
    """Of these numbers of streams those that a process may hold with so many descriptors; of the others, what for."""
    left_out = [count for count in counts if descriptors(count) > limit]
    notes = [
        f"{count:,} open streams were left out: they want {descriptors(count):,} descriptors and the hard limit is "
        f"{limit:,} (ulimit -Hn)"
        for count in left_out
    ]
    return [count for count in counts if count not in left_out], notes


async def _open(streams: list[_OpenStream], wanted: int, target: Target, key: str) -> None:
    """Opens streams until there are as many as wanted."""
    loop = asyncio.get_running_loop()
    request = OPEN.request(f"127.0.0.1:{target.port}", key)
    for first in range(len(streams), wanted, _WAVE):
        wave = [loop.create_future() for _ in range(first, min(first + _WAVE, wanted))]
        for begun in wave:
            _, stream = await loop.create_connection(lambda b=begun: _OpenStream(request, b), "127.0.0.1", target.port)
            streams.append(stream)
        async with asyncio.timeout(30):
            await asyncio.gather(*wave)


async def _watched(streams: list[_OpenStream], target: Target, seconds: float) -> int:
    """The greatest RSS seen while each stream is served further, in bytes; for so many seconds at least."""
    loop = asyncio.get_running_loop()
    most, began = 0, loop.time()
    for stream in streams:
        stream.served = False
    while (waited := loop.time() - began) < seconds or not all(stream.served for stream in streams):
        most = max(most, target.rss_bytes())
        if waited > _NEXT_EVENT_WITHIN_S:
            starved = sum(not stream.served for stream in streams)
            raise WrongAnswer(f"{starved} of {len(streams)} open streams had no event for {waited:.0f} s")
        await asyncio.sleep(0.25)
    closed = sum(stream.transport.is_closing() for stream in streams)
    if closed:
        raise WrongAnswer(f"{closed} of {len(streams)} open streams were cut")
    return most


async def _with_streams(target: Target, key: str, plan: Plan) -> dict[int, int]:
    """The greatest RSS seen while so many streams are open, in bytes."""
    streams: list[_OpenStream] = []
    found = {}
    try:
        for wanted in sorted(plan.streams):
            await _open(streams, wanted, target, key)
            found[wanted] = await _watched(streams, target, plan.memory_wait_s)
            if target.ledger:
                books.check_open(target.ledger, wanted)
        return found
    finally:
        for stream in streams:
            stream.transport.abort()


def measure_memory(stage: Stage, name: str, plan: Plan, key: str) -> Memory:
    """RSS of a fresh process, idle and then with open streams that each get an event a second."""
    target = stage.start(name)
    try:
        time.sleep(min(1.0, plan.memory_wait_s))
        idle = target.rss_bytes()
        return Memory(idle, uvloop.run(_with_streams(target, key, plan)))
    except (WrongAnswer, OSError, TimeoutError) as wrong:
        log = f"\n{target.process.tail()}" if target.process else ""
        raise WrongAnswer(f"{target.name}, open streams: {wrong!r}{log}") from None
    finally:
        target.stop(within_s=0.5)  # it would wait for the streams that have no end


def measure_ready(stage: Stage, name: str, plan: Plan) -> float:
    """Seconds from spawn to ready: the median of several starts on one folder, so all but the first find a ledger."""
    folder = stage.folder / f"{name}-starts"
    folder.mkdir(mode=0o700)
    seconds = []
    for _ in range(plan.starts):
        target = stage.start_in(folder, name)
        seconds.append(target.ready_s)
        target.stop()
    return statistics.median(seconds)
