"""Scenario: SIGTERM under load, again and again. A stream ends whole or says why not, and nothing is left unsettled."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import orjson

from oxyy_proxy.ledger.sqlite_reads import verify
from oxyy_proxy.simulator import Simulator
from tests.e2e.serving import Serving, ledger_rows, write_policies
from tests.faults.checks import DEFECTS, DONE
from tests.faults.found import Found, Scale
from tests.faults.load import chat, wire_to
from tests.rig import ORG_KEY, PRICES
from tests.steps.wires import WAIT_S, Wire

STREAMS = 50
GATEWAY = "version: 1\ndrain: 300ms\n"
PACE_MS = 10
WORDS = (5, 80)
"""Of a stream: the shortest ends well within the drain, the longest would go on for three times as long."""


async def hundred_drains(folder: Path, seed: int, scale: Scale) -> Found:
    """Drains under 50 streams each, of which some end in time and some are cut."""
    rng, ends, unsettled, wrong = random.Random(seed), Counter[str](), 0, []
    simulator = Simulator(PRICES, ORG_KEY, pace_ms=PACE_MS)
    await simulator.start()
    try:
        for number in range(scale.drains):
            one = folder / str(number)
            one.mkdir()
            ends += await _drain(one, simulator, rng, wrong)
            rows = ledger_rows(one / "ledger.db")
            unsettled += STREAMS - sum(row["state"] == "settled" for row in rows)
            wrong += (await verify(f"sqlite:///{one / 'ledger.db'}")).broken
    finally:
        await simulator.stop()
    return Found(
        f"{scale.drains} drains under {STREAMS} streams",
        "0 streams cut without an error event, 0 unsettled",
        f"{ends['whole']} whole, {ends['told']} with an error event, {ends['cut']} cut without one; "
        f"{unsettled} unsettled" + (f"; WRONG: {wrong[:3]}" if wrong else ""),
        ends["cut"] == unsettled == 0 < ends["told"] and not wrong,
    )


async def _drain(folder: Path, simulator: Simulator, rng: random.Random, wrong: list[str]) -> Counter[str]:
    """One process from its start to its end: how its streams ended."""
    write_policies(folder / "policies", gateway=GATEWAY)
    proxy = await Serving(folder, simulator.url).start()
    try:
        begun = asyncio.Barrier(STREAMS + 1)
        async with asyncio.timeout(6 * WAIT_S), asyncio.TaskGroup() as group:
            streams = [group.create_task(_stream(proxy.url, rng.randint(*WORDS), begun)) for _ in range(STREAMS)]
            await begun.wait()
            code = await proxy.stop()
    finally:
        await proxy.kill()
    if code != 0:
        wrong.append(f"exit code {code}")
    wrong += [line for line in proxy.lines if any(f'"event":"{defect}"' in line for defect in DEFECTS)]
    if stderr := proxy.stderr.read_text():
        wrong.append(stderr)
    return Counter(stream.result() for stream in streams)


async def _stream(url: str, words: int, begun: asyncio.Barrier) -> str:
    """How a stream ended: `whole`, `told` by an error event, or `cut`. `begun` once its first chunk is here."""
    async with wire_to(url) as wire:
        await wire.send(chat(stream=True, simulate={"words": words}))
        await wire.head()
        first = await wire.chunk()
        await begun.wait()
        body, whole = await _rest(wire)
    body = first + body
    if whole and body.endswith(DONE):
        return "whole"
    last = body.removesuffix(b"\n\n").rpartition(b"\n\n")[2].removeprefix(b"data: ")
    with suppress(orjson.JSONDecodeError):
        if whole and "error" in orjson.loads(last):
            return "told"
    return "cut"


async def _rest(wire: Wire) -> tuple[bytes, bool]:
    """The chunks that follow, and whether the last one came."""
    pieces = []
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while piece := await wire.chunk():
            pieces.append(piece)
        return b"".join(pieces), True
    return b"".join(pieces), False


SCENARIOS = (hundred_drains,)
