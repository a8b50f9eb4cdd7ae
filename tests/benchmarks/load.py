"""The load: keep-alive connections that each send the next request when the last answer is complete and right."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.benchmarks.workloads import Workload

_ANSWER_WITHIN_S = 60.0


class WrongAnswer(Exception):
    """An answer that was not the expected one, or a connection that broke: no figure may be made from such a run."""


@dataclass(slots=True)
class Samples:
    """What one phase saw, one entry per request, in seconds."""

    first_byte_s: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0


def decode_chunked(raw: bytes) -> bytes:
    """The content of a complete chunked body. Raises `WrongAnswer` if it is not one."""
    content, at = [], 0
    while True:
        line_end = raw.find(b"\r\n", at)
        try:
            size = int(raw[at:line_end], 16) if line_end > 0 else -1
        except ValueError:
            size = -1
        start, end = line_end + 2, line_end + 2 + size
        if size < 0 or raw[end : end + 2] != b"\r\n":
            raise WrongAnswer(f"malformed chunk at byte {at}: {raw[at : at + 60]!r}")
        if size == 0:
            return b"".join(content)
        content.append(raw[start:end])
        at = end + 2


class Answer:
    """An HTTP answer as it arrives. `begun` once a byte of the body is there; `content` when it is complete."""

    __slots__ = ("_chunked", "_head_end", "_length", "_received", "begun", "status")

    def __init__(self) -> None:
        self._received = bytearray()
        self._head_end = 0
        self._length = 0
        self._chunked = False
        self.status = 0
        self.begun = False

    def feed(self, data: bytes) -> bool:
        """Takes what arrived; true when the answer is complete."""
        self._received += data
        if not self._head_end and not self._read_head():
            return False
        self.begun = len(self._received) > self._head_end
        if self._chunked:
            return self._received.endswith(b"\r\n0\r\n\r\n")
        return len(self._received) >= self._head_end + self._length

    def _read_head(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._received[:end]).lower()
        self.status = int(head[9:12])
        self._chunked = b"\r\ntransfer-encoding: chunked" in head
        if not self._chunked:
            _, found, rest = head.partition(b"\r\ncontent-length:")
            if not found:
                raise WrongAnswer(f"neither a length nor chunked: {head!r}")
            self._length = int(rest.partition(b"\r\n")[0])
        self._head_end = end + 4
        return True

    def body(self) -> bytes:
        """The body as it came, chunk sizes included."""
        return bytes(self._received[self._head_end :])

    def content(self) -> bytes:
        return decode_chunked(self.body()) if self._chunked else self.body()


class Connection(asyncio.Protocol):
    """One keep-alive connection. Calls `on_done` once: with None when `more` says after an answer that it was the
    last, or with what went wrong."""

    def __init__(
        self,
        request: bytes,
        expected: bytes,
        samples: Samples,
        more: Callable[[], bool],
        on_done: Callable[[str | None], None],
        pause_s: Callable[[], float] | None = None,
    ) -> None:
        self._request, self._expected = request, expected
        self._samples, self._more, self._on_done, self._pause_s = samples, more, on_done, pause_s
        self._sent = self._first = 0.0
        self._answer: Answer | None = None
        self._known_body = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def send(self) -> None:
        """The next request."""
        if self.transport.is_closing():
            self._finish("the connection broke between two requests")
            return
        self._answer, self._first = Answer(), 0.0
        self._sent = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now, answer = time.perf_counter(), self._answer
        if answer is None:
            self._finish(f"bytes that nobody asked for: {data[:80]!r}")
            return
        try:
            complete = answer.feed(data)
            if answer.begun and not self._first:
                self._first = now
            if not complete:
                return
            right = self._right(answer)
        except WrongAnswer as wrong:
            self._finish(str(wrong))
            return
        if not right:
            self._finish(f"status {answer.status}, not the expected bytes: … {answer.body()[-300:]!r}")
            return
        self._samples.first_byte_s.append(self._first - self._sent)
        self._samples.total_s.append(now - self._sent)
        if not self._more():
            self._finish(None)
        elif self._pause_s is None:
            self.send()
        else:
            self._answer = None
            asyncio.get_running_loop().call_later(self._pause_s(), self.send)

    def _right(self, answer: Answer) -> bool:
        """Status and content; what came chunked exactly like the last right answer is not decoded again."""
        if answer.status == 200 and answer.body() == self._known_body:
            return True
        if answer.status != 200 or answer.content() != self._expected:
            return False
        self._known_body = answer.body()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None:
            self._finish(f"the connection broke during an answer: {exc!r}")

    def _finish(self, wrong: str | None) -> None:
        self._answer = None
        self._on_done(wrong)


class Load:
    """One phase: `connect`, `run`, `close`, apart so that CPU is counted around `run` alone."""

    def __init__(self, workload: Workload, port: int, key: str, connections: int) -> None:
        assert workload.answer is not None
        self._request = workload.request(f"127.0.0.1:{port}", key)
        self._expected = workload.answer
        self._stagger_s, self._pause_s = workload.stagger_s, workload.pause_s
        self._random = random.Random(connections)  # the same pauses for each target
        self._port, self._wanted = port, connections
        self._connections: list[Connection] = []
        self._left = connections
        self._until = 0.0
        self._further = 0
        self._done: asyncio.Future[None]
        self.samples = Samples()

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        for _ in range(self._wanted):
            _, connection = await loop.create_connection(self._make, "127.0.0.1", self._port)
            self._connections.append(connection)

    def _make(self) -> Connection:
        pause_s = self._pause if self._pause_s else None
        return Connection(self._request, self._expected, self.samples, self._more, self._one_done, pause_s)

    def _pause(self) -> float:
        return self._random.uniform(0.0, self._pause_s)

    def _more(self) -> bool:
        self._further -= 1
        return self._further >= 0 or time.perf_counter() < self._until

    def _one_done(self, wrong: str | None) -> None:
        self._left -= 1
        if self._done.done():
            return
        if wrong is not None:
            self._done.set_exception(WrongAnswer(wrong))
        elif self._left == 0:
            self._done.set_result(None)

    async def run(self, seconds: float) -> None:
        """Each connection sends one request, and further ones until the time is up."""
        await self._run(seconds, 0)

    async def run_requests(self, requests: int) -> None:
        """Exactly so many requests over all connections, at least one for each."""
        await self._run(0.0, requests - self._wanted)

    async def _run(self, seconds: float, further: int) -> None:
        loop = asyncio.get_running_loop()
        gc.collect()
        gc.disable()
        began = time.perf_counter()
        self._until, self._further = began + seconds, further
        try:
            for index, connection in enumerate(self._connections):
                delay = self._stagger_s * index / len(self._connections)
                loop.call_later(delay, connection.send)
            async with asyncio.timeout(seconds + _ANSWER_WITHIN_S):
                await self._done
        except TimeoutError:
            raise WrongAnswer(f"no complete answer within {_ANSWER_WITHIN_S:.0f} s") from None
        finally:
            gc.enable()
        self.samples.elapsed_s = time.perf_counter() - began

    def close(self) -> None:
        for connection in self._connections:
            connection.transport.close()
