"""Many large uploads at once into a proxy process: what it takes of memory, and that each arrives as it was sent."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy.simulator import Simulator
from tests.audio_files import wav
from tests.e2e.serving import START_S, Serving, ledger_rows, write_policies
from tests.rig import KEY, ORG_KEY, PRICES

CLIENTS = 40
MB = 2**20


@dataclass
class Said:
    """An answer: header names in lower case."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Sending:
    """A request whose body is `shared`, which all have in common, between a head and a tail of its own."""

    path: str
    content_type: str
    head: bytes
    shared: memoryview
    tail: bytes

    def halves(self) -> tuple[Sequence[bytes | memoryview], Sequence[bytes | memoryview]]:
        middle = len(self.shared) // 2
        size = len(self.head) + len(self.shared) + len(self.tail)
        lines = (
            f"POST /v1{self.path} HTTP/1.1",
            "Host: proxy",
            f"Authorization: Bearer {KEY}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {size}",
            "Connection: close",
        )
        start = "\r\n".join(lines).encode() + b"\r\n\r\n"
        return (start, self.head, self.shared[:middle]), (self.shared[middle:], self.tail)


@dataclass
class World:
    """A proxy with a folder of its own for uploads, on disk, before a simulator."""

    folder: Path
    simulator: Simulator
    proxy: Serving

    async def send_at_once(self, requests: Sequence[Sending], endpoint: str) -> list[Said]:
        """The answers to requests of which each has sent half when the first goes on."""
        barrier = asyncio.Barrier(len(requests) + 1)
        clients = [asyncio.ensure_future(self._send(request, barrier)) for request in requests]
        async with asyncio.timeout(START_S):
            while await self.in_flight(endpoint) < len(requests):  # noqa: ASYNC110 - nobody sets an event
                await asyncio.sleep(0.05)
            await barrier.wait()
            return await asyncio.gather(*clients)

    async def _send(self, request: Sending, barrier: asyncio.Barrier) -> Said:
        reader, writer = await asyncio.open_connection(*self.proxy.ready["listen"].split(":"))
        first, second = request.halves()
        await _write(writer, first)
        await barrier.wait()
        with suppress(ConnectionError):  # refused before all was there
            await _write(writer, second)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        first_line, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return Said(int(first_line.split(" ")[1]), headers, json.loads(body))

    async def in_flight(self, endpoint: str) -> int:
        reader, writer = await asyncio.open_connection(*self.proxy.ready["admin"].split(":"))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n")
        metrics = (await reader.read()).decode().splitlines()
        writer.close()
        name = f'oxyy_in_flight{{endpoint="{endpoint}"}} '
        return next((int(float(line.removeprefix(name))) for line in metrics if line.startswith(name)), 0)

    def peak_mb(self) -> float:
        """The most memory that the process has had, as the kernel knows it (VmHWM)."""
        status = Path(f"/proc/{self.proxy._process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["request_id"]: row for row in ledger_rows(self.folder / "ledger.db")}

    def billed(self) -> dict[str, int]:
        return {entry.request_id or "": entry.cost_nusd for entry in self.simulator.bill}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    write_policies(tmp_path / "policies")
    (tmp_path / "uploads").mkdir()
    simulator = Simulator(PRICES, ORG_KEY, received_kept=0)
    await simulator.start()
    proxy = Serving(tmp_path, simulator.url)
    proxy.environ["TMPDIR"] = str(tmp_path / "uploads")
    await proxy.start()
    yield World(tmp_path, simulator, proxy)
    assert await proxy.stop() == 0
    await simulator.stop()


@pytest.mark.slow
async def test_forty_uploads_of_25_mb_at_once_arrive_intact_in_less_than_300_mb(world: World) -> None:
    talk = wav(25 * MB / 32_000 - 1)
    talk = talk[:44] + random.Random(CLIENTS).randbytes(len(talk) - 44)  # noise: no two stretches are alike
    shared = memoryview(talk)
    digest = hashlib.sha256(shared)
    requests, sent = [], []
    for number in range(CLIENTS):
        own = random.Random(number).randbytes(25 * MB - len(talk))
        requests.append(recording(shared, own))
        each = digest.copy()
        each.update(own)
        sent.append(each.hexdigest())
    answers = await world.send_at_once(requests, "transcriptions")
    print(f"peak with {CLIENTS} uploads of 25 MB: {world.peak_mb():.0f} MB")
    assert Counter(answer.status for answer in answers) == {200: CLIENTS}
    assert sorted(upload.sha256 for upload in world.simulator.uploads) == sorted(sent)
    assert {upload.size_bytes for upload in world.simulator.uploads} == {25 * MB}
    rows, billed = world.rows(), world.billed()
    assert {request_id: row["cost_nusd"] for request_id, row in rows.items()} == billed
    assert {row["state"] for row in rows.values()} == {"settled"}
    assert {answer.headers["x-request-id"] for answer in answers} == rows.keys()
    assert list((world.folder / "uploads").iterdir()) == []
    assert world.peak_mb() < 300


@pytest.mark.slow
async def test_forty_images_of_8_mb_in_json_at_once_are_answered_or_refused_in_less_than_900_mb(world: World) -> None:
    shared = memoryview(b"A" * (8 * MB))
    answers = await world.send_at_once([picture(shared, delay_ms=1500) for _ in range(CLIENTS)], "image_edits")
    statuses = Counter(answer.status for answer in answers)
    print(f"peak with {CLIENTS} JSON bodies of 8 MB: {world.peak_mb():.0f} MB; {dict(statuses)}")
    assert statuses.keys() == {200, 503}
    for answer in answers:
        if answer.status == 503:
            assert (answer.body["error"]["code"], answer.headers["retry-after"]) == ("overloaded", "1")
    rows = world.rows()
    assert {request_id: row["cost_nusd"] for request_id, row in rows.items()} == world.billed()
    assert len(rows) == statuses[200]
    # What was held is free again: nearly as much as one team may have at once is taken.
    again = await world.send_at_once([picture(shared) for _ in range(16)], "image_edits")
    assert [answer.status for answer in again] == [200] * 16
    assert list((world.folder / "uploads").iterdir()) == []
    assert world.peak_mb() < 900


def recording(shared: memoryview, own: bytes) -> Sending:
    """A form whose file is what is shared and what is its own."""
    parts = (
        b'--limit\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
        b'--limit\r\nContent-Disposition: form-data; name="file"; filename="talk.wav"\r\n\r\n'
    )
    form_type = "multipart/form-data; boundary=limit"
    return Sending("/audio/transcriptions", form_type, parts, shared, own + b"\r\n--limit--\r\n")


def picture(shared: memoryview, delay_ms: int = 0) -> Sending:
    """JSON with base64 in it; `delay_ms`: how long the upstream takes, so that bodies are kept meanwhile."""
    head = b'{"model": "dall-e-3", "prompt": "A hat", "simulate": {"delay_ms": %d}, "image_base64": "' % delay_ms
    return Sending("/images/edits", "application/json", head, shared, b'"}')


async def _write(writer: asyncio.StreamWriter, pieces: Sequence[bytes | memoryview]) -> None:
    """In small steps, so that nothing of it waits here."""
    for piece in pieces:
        for start in range(0, len(piece), 256 * 1024):
            writer.write(piece[start : start + 256 * 1024])
            await writer.drain()
