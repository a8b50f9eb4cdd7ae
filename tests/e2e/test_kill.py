"""`kill -9` under load, again and again on one ledger: nothing is lost, nothing is charged twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from oxyy_proxy.simulator import BillEntry, Simulator
from tests.e2e.load import Told, ask_until_it_dies
from tests.e2e.serving import PROXY, Serving, environment, ledger_rows, write_policies
from tests.rig import KEY, ORG_KEY, PRICES, team_file

KILLS = 50
KILLS_AT_START = 5
CLIENTS = 16

LIMITS = (
    "{meter: usd, per: month, cap: 100000}, {meter: usd, per: month, cap: 50000, models: [gpt-*]}, "
    "{meter: requests, per: month, cap: 1000000}, {meter: tokens, per: month, cap: 1000000000}, "
    "{meter: concurrent, cap: 1000}"
)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_fifty_kills_lose_nothing_and_charge_nothing_twice(tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.randrange(2**32))
    print(f"KILL_SEED={seed}")
    rng = random.Random(seed)
    write_policies(tmp_path / "policies", teams={"search": team_file(limits=LIMITS)})
    simulator = Simulator(PRICES, ORG_KEY, pace_ms=2)
    await simulator.start()
    told, recovered = Told(), 0
    try:
        for _ in range(KILLS):
            recovered += await one_life(tmp_path, simulator, rng, told)
        for _ in range(KILLS_AT_START):
            await one_short_life(tmp_path, simulator, rng)
        await simulator.wait_for(lambda: simulator.in_flight == 0)
        proxy = await Serving(tmp_path, simulator.url).start()
        try:
            usage = await usage_of(proxy)
        finally:
            assert await proxy.stop() == 0
    finally:
        await simulator.stop()
    rows = ledger_rows(tmp_path / "ledger.db")
    print(f"{len(rows)} requests: {dict(Counter(row['state'] for row in rows))}; {recovered} recovered while serving")
    assert told.refused == []
    assert recovered > KILLS / 2
    assert len(told.whole) > KILLS
    assert_every_request_is_charged_once(rows, simulator.bill)
    assert_what_clients_were_told(rows, told)
    assert_limits(rows, usage)
    assert_checked(tmp_path)


async def one_life(folder: Path, simulator: Simulator, rng: random.Random, told: Told) -> int:
    """Start, load, kill. How many rows of the life before were found open."""
    proxy = await Serving(folder, simulator.url).start()
    kill = partial(proxy.send, signal.SIGKILL)
    load = asyncio.get_running_loop().create_task(ask_until_it_dies(proxy.url, CLIENTS, rng, told))
    try:
        if rng.random() < 0.5:
            await kill_at_any_time(simulator, rng, kill)
        else:
            kill_once_told(told, rng, kill)
        await asyncio.wait_for(asyncio.shield(load), 60)
    finally:
        await proxy.kill()
        await load
    return int(proxy.ready["recovered_unresolved"])


async def kill_at_any_time(simulator: Simulator, rng: random.Random, kill: Callable[[], None]) -> None:
    """At some instant after the simulator has seen some requests."""
    seen = len(simulator.bill) + rng.randint(1, 60)
    await simulator.wait_for(lambda: len(simulator.bill) >= seen, timeout_s=60)
    await asyncio.sleep(rng.uniform(0, 0.05))
    kill()


def kill_once_told(told: Told, rng: random.Random, kill: Callable[[], None]) -> None:
    """The instant that a client has its whole answer: its settlement must be durable by then."""
    last = len(told.whole) + rng.randint(1, 40)

    def on_whole() -> None:
        if len(told.whole) == last:
            kill()

    told.on_whole = on_whole


async def one_short_life(folder: Path, simulator: Simulator, rng: random.Random) -> None:
    """Start, and kill before it is ready, or just then."""
    proxy = Serving(folder, simulator.url)
    await proxy.spawn()
    await asyncio.sleep(rng.uniform(0.2, 0.8))
    await proxy.kill()


async def usage_of(proxy: Serving) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession() as session, session.get(f"{proxy.url}/usage", headers=headers) as answer:
        return await answer.json()  # type: ignore[no-any-return]


def assert_every_request_is_charged_once(rows: list[dict[str, Any]], bill: list[BillEntry]) -> None:
    """The ledger against the upstream's own books."""
    billed: defaultdict[str | None, int] = defaultdict(int)
    for entry in bill:
        billed[entry.request_id] += entry.cost_nusd
    by_id = {row["request_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    assert billed.keys() <= by_id.keys(), "a request that was sent is not in the ledger"
    assert {row["state"] for row in rows} == {"settled", "unresolved"}
    for request_id, row in by_id.items():
        if row["state"] == "settled":
            assert (row["cost_nusd"], row["unresolved_nusd"]) == (billed[request_id], 0), row
        else:
            assert row["cost_nusd"] == 0, row
            assert row["error_code"] == "proxy_died", row
            assert billed[request_id] <= row["unresolved_nusd"] <= row["hold_nusd"], row
            assert row["unresolved_nusd"] > 0, row
            if row["model_requested"] != "gpt-5":  # a chain of one: its hold is what may have been spent
                assert row["unresolved_nusd"] == row["hold_nusd"], row
    settled = [row for row in rows if row["state"] == "settled"]
    assert sum(row["cost_nusd"] for row in rows) == sum(billed[row["request_id"]] for row in settled)
    assert any(row["attempts"] == 2 for row in settled), "no request failed over"
    assert {row["endpoint"] for row in settled} == {"chat", "embeddings"}


def assert_what_clients_were_told(rows: list[dict[str, Any]], told: Told) -> None:
    """An answer that came whole was settled before its last byte, at the price it named."""
    settled = {row["request_id"]: row["cost_nusd"] for row in rows if row["state"] == "settled"}
    assert told.whole <= settled.keys()
    assert told.cost_nusd == {request_id: settled[request_id] for request_id in told.cost_nusd}


def assert_limits(rows: list[dict[str, Any]], usage: dict[str, Any]) -> None:
    """What the limits say after the last restart is what the rows say."""
    limits = {(limit["meter"], bool(limit["models"])): limit for limit in usage["limits"]}
    for of_gpt in (False, True):
        covered = [row for row in rows if not of_gpt or row["model_requested"] == "gpt-5"]
        limit = limits["usd", of_gpt]
        assert nano(limit["spent"]) == sum(row["cost_nusd"] for row in covered)
        assert nano(limit["held"]) == sum(row["unresolved_nusd"] for row in covered)
        assert nano(limit["remaining"]) == nano(limit["cap"]) - nano(limit["spent"]) - nano(limit["held"])
    assert (limits["requests", False]["spent"], limits["requests", False]["held"]) == (len(rows), 0)
    tokens = sum(row["input_tokens"] + row["output_tokens"] for row in rows)
    assert limits["tokens", False]["spent"] == tokens
    assert limits["tokens", False]["held"] > 0
    assert (limits["concurrent", False]["spent"], limits["concurrent", False]["held"]) == (0, 0)


def assert_checked(folder: Path) -> None:
    """The product's own check agrees."""
    command = [*PROXY, "check", "--ledger", f"sqlite:///{folder / 'ledger.db'}", "--format", "json"]
    checked = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    found = json.loads(checked.stdout)
    assert (found["ok"], found["errors"], found["open"], found["overruns"]) == (True, [], 0, 0)


def nano(dollars: str) -> int:
    return int(Decimal(dollars).scaleb(9))
