"""Scenarios of slow clients against a real process: what they cost in memory, and what the others notice of them."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from oxyy_proxy.simulator import Simulator
from tests.benchmarks.stats import quantile
from tests.e2e.serving import Serving, ledger_rows, write_policies
from tests.faults.found import Found, Scale
from tests.faults.load import chat, flood, wire_to
from tests.faults.questions import QUESTIONS
from tests.faults.raw import RawUpstream, Script, raw_upstream
from tests.rig import KEY, ORG_KEY, OTHER_KEY, PRICES, team_file
from tests.steps.wires import WAIT_S, request, until

MB = 1_000_000
UPLOAD_BYTES = 25 * 1024 * 1024
"""The largest recording that is taken."""

PIECE_BYTES = 128 * 1024
GATEWAY = "version: 1\non_disconnect: cancel\ndrain: 1s\nretry: {idle: 600s}\n"
PACE_S = 0.1
SMALL_BUFFER = 4096
SIP_BYTES, SIP_S = 1024, 0.5

_TRANSCRIPT = json.dumps({"text": "Hello", "duration": 819.2}).encode()


class _Generous(RawUpstream):
    """Streams a megabyte as fast as it is taken, and hears every recording."""

    def script(self, head: bytes) -> Script:
        if b"/audio/" in head:
            said = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(_TRANSCRIPT)}\r\n\r\n"
            return [said + _TRANSCRIPT.decode()]
        return ["@sse", *["@event-of 2000"] * 500, "@usage", "@done", "@end"]


def _upload(key: str = KEY) -> tuple[bytes, bytes]:
    """Head and body of a request with a recording of 25 MB."""
    question = QUESTIONS["transcriptions"]
    pad = UPLOAD_BYTES - len(question.file)
    content_type, body = question.body(pad=pad)
    headers = {"Content-Type": content_type, "Content-Length": str(len(body))}
    return request(path=question.path, key=key, headers=headers), body


async def memory(folder: Path, seed: int, scale: Scale) -> Found:
    """500 slow readers and 100 slow uploads of 25 MB at once."""
    readers, uploads = scale.clients(500), scale.clients(100)
    write_policies(folder / "policies", gateway=GATEWAY)
    async with raw_upstream(_Generous([])) as upstream, _serving(folder, upstream.url) as proxy:
        async with _crowd(partial(_read_slowly, proxy.url, KEY), readers) as begun:
            await begun(readers)
            statuses = await _all_uploads(proxy.url, uploads, PACE_S * scale.crowd)
            peak = _peak_rss_bytes(proxy)
        await proxy.stop()
    open_rows = sum(row["state"] == "open" for row in ledger_rows(folder / "ledger.db"))
    answered = statuses.count(200)
    return Found(
        f"{readers} slow readers and {uploads} x 25 MB slow uploads",
        "RSS < 400 MB, every upload answered, no open row",
        f"peak RSS {peak / MB:.0f} MB; {answered} uploads answered; {open_rows} open rows",
        peak < 400 * MB and answered == uploads and not open_rows,
    )


async def _all_uploads(url: str, count: int, pace_s: float) -> list[int]:
    """All at once, a piece each in turn, so that all are almost there before the first one is; the statuses."""
    head, body = _upload()
    pieces = [body[start : start + PIECE_BYTES] for start in range(0, len(body), PIECE_BYTES)]
    almost = asyncio.Barrier(count)

    async def one() -> int:
        async with wire_to(url) as wire:
            await wire.send(head)
            for piece in pieces[:-1]:
                await wire.send(piece)
                await asyncio.sleep(pace_s)
            await almost.wait()
            await wire.send(pieces[-1])
            line = await asyncio.wait_for(wire.reader.readuntil(b"\r\n"), 12 * WAIT_S)
            return int(line.split()[1])

    return await asyncio.gather(*(one() for _ in range(count)))


async def _read_slowly(url: str, key: str, begun: Callable[[], None]) -> None:
    """A stream of which a little is taken now and then, for ever."""
    async with wire_to(url, SMALL_BUFFER) as wire:
        await wire.send(chat(key=key, stream=True, simulate={"words": 2000}))
        if await wire.reader.readexactly(12) == b"HTTP/1.1 200":
            begun()
        while await wire.reader.read(SIP_BYTES):  # noqa: ASYNC110 - to be slow is what it is for
            await asyncio.sleep(SIP_S)


async def _upload_slowly(url: str, key: str, begun: Callable[[], None]) -> None:
    """A recording that never comes to its end."""
    head, body = _upload(key)
    async with wire_to(url) as wire:
        await wire.send(head + body[:PIECE_BYTES])
        begun()
        for start in range(PIECE_BYTES, len(body), PIECE_BYTES // 8):
            await wire.send(body[start : start + PIECE_BYTES // 8])
            await asyncio.sleep(SIP_S)


@asynccontextmanager
async def _crowd(client: Callable[[Callable[[], None]], Any], count: int) -> AsyncIterator[Callable[[int], Any]]:
    """So many clients; the value waits until so many of them have begun."""
    done = 0

    def begun() -> None:
        nonlocal done
        done += 1

    tasks = [asyncio.get_running_loop().create_task(client(begun)) for _ in range(count)]
    try:
        yield lambda wanted: until(lambda: done >= wanted)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _serving(folder: Path, upstream_url: str) -> AsyncIterator[Serving]:
    proxy = await Serving(folder, upstream_url).start()
    try:
        yield proxy
    finally:
        await proxy.kill()


def _peak_rss_bytes(proxy: Serving) -> int:
    """The most memory that the process ever had resident."""
    for line in Path(f"/proc/{proxy._process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell the peak")


# --- what other teams notice -----------------------------------------------------------------------------------------

OFFENDERS = {"slow readers": (_read_slowly, 100), "slow uploads": (_upload_slowly, 50)}
ASKED = 1000
PATIENT_CLIENTS = 4


def _offend(what: str, url: str, key: str, count: int, begun: Any, stop: Any) -> None:
    """In a process of its own: a crowd of one team, until `stop`."""
    client, _ = OFFENDERS[what]

    async def main() -> None:
        async with _crowd(partial(client, url, key), count) as until_begun:
            await until_begun(count)
            begun.set()
            await asyncio.get_running_loop().run_in_executor(None, stop.wait)

    asyncio.run(main())


@asynccontextmanager
async def _offending(what: str, url: str, count: int) -> AsyncIterator[None]:
    loop, context = asyncio.get_running_loop(), multiprocessing.get_context("spawn")
    begun, stop = context.Event(), context.Event()
    process = context.Process(target=_offend, args=(what, url, OTHER_KEY, count, begun, stop))
    process.start()
    try:
        assert await loop.run_in_executor(None, begun.wait, 6 * WAIT_S), f"the {what} did not begin"
        yield
    finally:
        stop.set()
        await loop.run_in_executor(None, process.join)


async def fairness(folder: Path, seed: int, scale: Scale) -> Found:
    """Another team's p99 with and without a crowd of one team, in turn; the median of the rounds' ratios."""
    teams = {"search": team_file(), "support": team_file("support", OTHER_KEY)}
    write_policies(folder / "policies", gateway=GATEWAY, teams=teams)
    ratios: dict[str, list[float]] = {what: [] for what in OFFENDERS}
    simulator = Simulator(PRICES, ORG_KEY)
    await simulator.start()
    try:
        async with _serving(folder, simulator.url) as proxy:
            await _p99_s(proxy.url)
            for _ in range(scale.rounds):
                for what, (_, count) in OFFENDERS.items():
                    before = await _p99_s(proxy.url)
                    async with _offending(what, proxy.url, scale.clients(count)):
                        beside = await _p99_s(proxy.url)
                    after = await _p99_s(proxy.url)
                    ratios[what].append(beside / ((before + after) / 2))
            await proxy.stop()
    finally:
        await simulator.stop()
    medians = {what: median(found) for what, found in ratios.items()}
    return Found(
        "one team's slow clients and another team's p99",
        f"moved by no more than 20 % (medians of {scale.rounds} paired rounds)",
        "; ".join(f"{what}: {medians[what]:.2f}x ({min(r):.2f}-{max(r):.2f})" for what, r in ratios.items()),
        max(medians.values()) <= 1.2,
    )


async def _p99_s(url: str) -> float:
    answers = await flood(url, [chat(simulate={"words": 20})] * ASKED, PATIENT_CLIENTS)
    assert {answer.status for answer in answers} == {200}
    return quantile([answer.took_s for answer in answers], 0.99)


SCENARIOS = (memory, fairness)
