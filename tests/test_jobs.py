"""The poller: every job comes to its end, whoever asks, and once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy import jobs
from oxyy_proxy.errors import LedgerUnavailable, UpstreamUnreachable
from oxyy_proxy.simulator import Simulator
from oxyy_proxy.upstream import UpstreamAnswer
from tests.rig import ORG_KEY, PRICES, Rig
from tests.steps.wires import assert_books_are_right, ended_rows, http, own_rig, raw_upstream, says, until

ORDER = {"model": "veo-3", "prompt": "A serene lake", "duration": 4, "resolution": "1080p"}
COST_NUSD = 4 * 500_000_000


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls come quickly."""
    monkeypatch.setattr(jobs, "FIRST_POLL_S", 0.02)
    monkeypatch.setattr(jobs, "LONGEST_POLL_S", 0.05)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with own_rig(tmp_path, simulator=Simulator(prices=PRICES, org_key=ORG_KEY, job_s=None)) as rig:
        yield rig


async def submit(rig: Rig, **members: Any) -> str:
    status, _, job = await rig.post("/videos/generations", {**ORDER, **members})
    assert status == 200
    return str(job["id"])


async def test_a_job_that_nobody_asks_for_is_settled(rig: Rig) -> None:
    job_id = await submit(rig)
    await rig.simulator.wait_for(lambda: rig.simulator.jobs[job_id].polls >= 3)
    assert [row["state"] for row in rig.rows()] == ["open"]
    rig.simulator.complete(job_id)
    (row,) = await ended_rows(rig)
    assert (row["state"], row["cost_nusd"]) == ("settled", COST_NUSD)
    polls = rig.simulator.jobs[job_id].polls
    await submit(rig)
    await rig.simulator.wait_for(lambda: sum(job.polls for job in rig.simulator.jobs.values()) >= polls + 3)
    assert rig.simulator.jobs[job_id].polls == polls  # and is not asked for again


async def test_a_job_that_failed_is_given_back(rig: Rig) -> None:
    rig.simulator.fail(await submit(rig))
    (row,) = await ended_rows(rig)
    assert (row["state"], row["cost_nusd"], row["error_code"]) == ("voided", 0, "job_failed")


async def test_a_restart_takes_up_what_runs(rig: Rig) -> None:
    running = [await submit(rig) for _ in range(3)]
    await rig.proxy.stop()
    for job_id in running:
        rig.simulator.complete(job_id)
    await rig.start_proxy()
    rows = await ended_rows(rig, 3)
    assert {row["state"] for row in rows} == {"settled"}
    assert sum(row["cost_nusd"] for row in rows) == rig.simulator.total_nusd
    await assert_books_are_right(rig)


async def test_no_more_polls_are_under_way_than_allowed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    real, under_way, go_on = rig.proxy.upstream.get, 0, asyncio.Event()

    async def get(path: str, headers: str, limit_s: float) -> UpstreamAnswer:
        nonlocal under_way
        under_way += 1
        await go_on.wait()
        under_way -= 1
        return await real(path, headers, limit_s)

    monkeypatch.setattr(rig.proxy.upstream, "get", get)
    for _ in range(3 * jobs.MOST_AT_ONCE):
        await submit(rig)
    await until(lambda: under_way == jobs.MOST_AT_ONCE)
    await submit(rig)  # time passes, in which more are due
    assert under_way == jobs.MOST_AT_ONCE
    go_on.set()
    await rig.simulator.wait_for(lambda: all(job.polls for job in rig.simulator.jobs.values()))


async def test_polls_become_rarer(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    real = jobs.Jobs._poll_after

    def poll_after(self: jobs.Jobs, job_id: str, wait_s: float) -> None:
        waits.append(wait_s)
        real(self, job_id, wait_s / 1000)

    monkeypatch.setattr(jobs, "FIRST_POLL_S", 5.0)
    monkeypatch.setattr(jobs, "LONGEST_POLL_S", 60.0)
    monkeypatch.setattr(jobs.Jobs, "_poll_after", poll_after)
    rig.proxy.services.jobs._jitter = lambda: 0.5
    await submit(rig)
    await until(lambda: len(waits) >= 2)
    assert waits[0] == 5.0
    # Each wait follows from the one before as it was kept.
    assert waits[1] == pytest.approx(5.0 / 1000 * jobs.BACKOFF)


async def test_a_job_without_an_end_becomes_unresolved_and_is_not_given_back(rig: Rig) -> None:
    job_id = await submit(rig)
    rig.proxy.jobs._clock = lambda: time.time() + 23 * 3600
    await rig.simulator.wait_for(lambda: rig.simulator.jobs[job_id].polls >= 3)
    assert [row["state"] for row in rig.rows()] == ["open"]
    rig.proxy.jobs._clock = lambda: time.time() + 25 * 3600
    (row,) = await ended_rows(rig)
    assert (row["state"], row["unresolved_nusd"], row["error_code"]) == ("unresolved", COST_NUSD, "job_timeout")
    await assert_books_are_right(rig)


async def test_a_job_that_ends_at_the_last_moment_is_settled(rig: Rig) -> None:
    rig.proxy.jobs._clock = lambda: time.time() + 25 * 3600
    job_id = await submit(rig, simulate={"job_s": 0})
    (row,) = await ended_rows(rig)
    assert rig.simulator.jobs[job_id].status == "completed"
    assert row["state"] == "settled"


@pytest.mark.parametrize(
    "said",
    [
        http(b"{}", "404 Not Found"),
        http(b"{}", "500 Internal Server Error"),
        http(b"{}", "401 Unauthorized"),
        http(b"not JSON"),
        http(b'{"status": "dreaming"}'),
        http(b'{"id": "another", "status": "completed"}'),
        http(b'{"status": 7}'),
        b"",
        b"not HTTP\r\n\r\n",
    ],
)
async def test_a_poll_that_fails_is_made_again(tmp_path: Path, said: bytes) -> None:
    done = http(b'{"id": "job_1", "status": "completed", "duration": 4, "resolution": "1080p"}')
    answers = [says(http(b'{"id": "job_1", "status": "queued"}')), says(said), says(said), says(said), says(done)]
    async with raw_upstream(*answers) as upstream, own_rig(tmp_path, upstream_url=upstream.url) as rig:
        await submit(rig)
        (row,) = await ended_rows(rig)
        assert (row["state"], row["cost_nusd"]) == ("settled", COST_NUSD)


async def test_an_upstream_that_is_down_is_asked_again_when_it_is_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await submit(rig)
    real, refused = rig.proxy.upstream.get, 0

    async def get(path: str, headers: str, limit_s: float) -> UpstreamAnswer:
        nonlocal refused
        try:
            return await real(path, headers, limit_s)
        except UpstreamUnreachable:
            refused += 1
            raise

    monkeypatch.setattr(rig.proxy.upstream, "get", get)
    await rig.simulator.refuse()
    rig.simulator.complete(job_id)
    await until(lambda: refused > 2)
    assert [row["state"] for row in rig.rows()] == ["open"]
    await rig.simulator.accept()
    (row,) = await ended_rows(rig)
    assert row["state"] == "settled"


async def test_an_end_that_cannot_be_written_is_written_later(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await submit(rig)
    real, refusals = rig.proxy.ledger.settle, 0

    def settle(settlement: Any) -> asyncio.Future[None]:
        nonlocal refusals
        queued = real(settlement)
        if refusals:
            return queued
        refusals += 1
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        refused.set_exception(LedgerUnavailable("The ledger cannot be written."))
        return refused

    monkeypatch.setattr(rig.proxy.ledger, "settle", settle)
    rig.simulator.complete(job_id)
    (row,) = await ended_rows(rig)
    assert (row["state"], refusals) == ("settled", 1)
    assert not rig.proxy._stop.is_set()  # the poller lives
    rig.simulator.complete(second := await submit(rig))
    await ended_rows(rig, 2)
    assert rig.simulator.jobs[second].status == "completed"
