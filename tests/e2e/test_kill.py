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
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from oxyy_proxy.endpoints import ENDPOINTS
from oxyy_proxy.simulator import BillEntry, Simulator
from tests.e2e.load import VIDEOS, Told, ask_until_it_dies
from tests.e2e.serving import PROXY, Serving, environment, ledger_rows, write_policies
from tests.rig import KEY, ORG_KEY, PRICES, team_file

KILLS = 50
KILLS_AT_START = 5
CLIENTS = 16

GATEWAY = "version: 1\nretry: {budget_percent: 100}\nbreaker: {failures: 1000000}\n"
"""A model that always fails is asked every time, and its fallback after it."""

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
    write_policies(tmp_path / "policies", gateway=GATEWAY, teams={"search": team_file(limits=LIMITS)})
    (tmp_path / "uploads").mkdir()
    simulator = Simulator(PRICES, ORG_KEY, pace_ms=2, received_kept=0)
    await simulator.start()
    told, recovered, uploads = Told(), 0, 0
    try:
        for _ in range(KILLS):
            left_open, left_on_disk = await one_life(tmp_path, simulator, rng, told)
            recovered += left_open
            uploads += left_on_disk
        for _ in range(KILLS_AT_START):
            await one_short_life(tmp_path, simulator, rng)
        await simulator.wait_for(lambda: simulator.in_flight == 0)
        await simulator.wait_for(lambda: all(job.completed_at for job in simulator.jobs.values()))
        proxy = await serving(tmp_path, simulator).start()
        try:
            known = await jobs_known_to(proxy, simulator)
            usage = await get(proxy, "/usage")
        finally:
            assert await proxy.stop() == 0
    finally:
        await simulator.stop()
    rows = ledger_rows(tmp_path / "ledger.db")
    print(f"{len(rows)} requests: {dict(Counter(row['state'] for row in rows))}; {recovered} recovered while serving")
    print(f"{len(simulator.jobs)} video jobs, {len(known)} on record; {uploads} uploads on disk as they were cut")
    assert told.refused == []
    assert recovered > KILLS / 2
    assert len(told.whole) > KILLS
    assert uploads > 0
    assert os.listdir(tmp_path / "uploads") == []
    assert_every_request_is_charged_once(rows, simulator.bill)
    assert_what_clients_were_told(rows, told)
    assert_every_job_is_on_record_or_unresolved(rows, simulator, known, told)
    assert_limits(rows, usage)
    assert_checked(tmp_path)


def serving(folder: Path, simulator: Simulator) -> Serving:
    """With a folder of its own for uploads."""
    proxy = Serving(folder, simulator.url)
    proxy.environ["TMPDIR"] = str(folder / "uploads")
    return proxy


async def one_life(folder: Path, simulator: Simulator, rng: random.Random, told: Told) -> tuple[int, int]:
    """Start, load, kill. How many rows of the life before were found open, and how many uploads this one had on disk
    when it was killed."""
    proxy = await serving(folder, simulator).start()
    on_disk = 0

    def kill() -> None:
        nonlocal on_disk
        on_disk = uploads_on_disk(proxy)
        proxy.send(signal.SIGKILL)

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
    return int(proxy.ready["recovered_unresolved"]), on_disk


def uploads_on_disk(proxy: Serving) -> int:
    """Files of its folder for uploads that the process has open. They have no names there."""
    found = 0
    for descriptor in Path(f"/proc/{proxy._process.pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found += os.readlink(descriptor).startswith(proxy.environ["TMPDIR"])
    return found


async def kill_at_any_time(simulator: Simulator, rng: random.Random, kill: Callable[[], None]) -> None:
    """At some instant after the simulator has seen some requests."""
    seen = len(simulator.bill) + rng.randint(1, 60)
    await simulator.wait_for(lambda: len(simulator.bill) >= seen, timeout_s=60)
    await asyncio.sleep(rng.uniform(0, 0.05))
    kill()


def kill_once_told(told: Told, rng: random.Random, kill: Callable[[], None]) -> None:
    """The instant that a client has its whole answer: its settlement must be durable by then."""
    last = told.answers + rng.randint(1, 40)

    def on_whole() -> None:
        if told.answers == last:
            kill()

    told.on_whole = on_whole


async def one_short_life(folder: Path, simulator: Simulator, rng: random.Random) -> None:
    """Start, and kill before it is ready, or just then."""
    proxy = serving(folder, simulator)
    await proxy.spawn()
    await asyncio.sleep(rng.uniform(0.2, 0.8))
    await proxy.kill()


async def get(proxy: Serving, path: str) -> Any:
    """The JSON of a 200 answer; None for a 404."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession() as session, session.get(proxy.url + path, headers=headers) as answer:
        assert answer.status in (200, 404), await answer.text()
        return await answer.json() if answer.status == 200 else None


async def jobs_known_to(proxy: Serving, simulator: Simulator) -> set[str]:
    """Which of the simulator's video jobs, all of them ended, the proxy tells of. It settles them by that."""
    return {job_id for job_id in simulator.jobs if await get(proxy, f"{VIDEOS}/{job_id}") is not None}


def assert_every_request_is_charged_once(rows: list[dict[str, Any]], bill: list[BillEntry]) -> None:
    """The ledger against the upstream's own books."""
    billed: defaultdict[str | None, int] = defaultdict(int)
    for entry in bill:
        billed[entry.request_id] += entry.cost_nusd
    by_id = {row["request_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    assert billed.keys() <= by_id.keys(), "a request that was sent is not in the ledger"
    assert {row["state"] for row in rows} == {"settled", "unresolved", "voided"}
    for request_id, row in by_id.items():
        if row["state"] == "settled":
            assert (row["cost_nusd"], row["unresolved_nusd"]) == (billed[request_id], 0), row
        elif row["state"] == "voided":
            assert (row["error_code"], row["cost_nusd"], billed[request_id]) == ("job_failed", 0, 0), row
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
    assert {row["endpoint"] for row in settled} == {endpoint.name for endpoint in ENDPOINTS}


def assert_what_clients_were_told(rows: list[dict[str, Any]], told: Told) -> None:
    """An answer that came whole was settled before its last byte, at the price it named."""
    settled = {row["request_id"]: row["cost_nusd"] for row in rows if row["state"] == "settled"}
    assert told.whole <= settled.keys()
    assert told.cost_nusd == {request_id: settled[request_id] for request_id in told.cost_nusd}


def assert_every_job_is_on_record_or_unresolved(
    rows: list[dict[str, Any]], simulator: Simulator, known: set[str], told: Told
) -> None:
    """A job whose id a client has is known; one that is not known may have cost what its request still holds."""
    states = {row["request_id"]: row["state"] for row in rows}
    assert told.jobs.keys() <= known
    for job_id, job in simulator.jobs.items():
        ended = {"completed": "settled", "failed": "voided"}[job.status]
        assert states[job.request_id or ""] == (ended if job_id in known else "unresolved")


def assert_limits(rows: list[dict[str, Any]], usage: dict[str, Any]) -> None:
    """What the limits say after the last restart is what the rows say."""
    limits = {(limit["meter"], bool(limit["models"])): limit for limit in usage["limits"]}
    for of_gpt in (False, True):
        covered = [row for row in rows if not of_gpt or row["model_requested"].startswith("gpt-")]
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
