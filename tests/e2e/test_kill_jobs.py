"""`kill -9` while video jobs are submitted, run and end: each is on record or its request is unresolved, and the next
life of the proxy follows it to its end."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from oxyy_proxy.simulator import Job, Simulator
from tests.e2e.serving import PROXY, START_S, Serving, environment, ledger_rows, write_policies
from tests.rig import KEY, ORG_KEY, OTHER_KEY, PRICES, team_file

KILLS = 30
AT_ONCE = 24
"""Submissions that are under way when the proxy is killed."""

SECONDS = 4
COST_NUSD = SECONDS * 400_000_000
"""Of a video of as many seconds at the default resolution; what is held is for the dearest."""

VIDEOS = "/videos/generations"
LIMITS = "{meter: usd, per: month, cap: 1000000}"
TEAMS = {
    "search": team_file(limits=LIMITS),
    "support": team_file("support", OTHER_KEY, limits=LIMITS),
}
KEYS = {"search": KEY, "support": OTHER_KEY}


@dataclass
class World:
    """A proxy that is killed and started again, on one ledger, before a simulator whose jobs end when they are told to.
    `told`: job id -> the team and the request id of the client that has it."""

    folder: Path
    simulator: Simulator
    session: aiohttp.ClientSession
    told: dict[str, tuple[str, str]] = field(default_factory=dict)
    has_one: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> Serving:
        self.proxy = await Serving(self.folder, self.simulator.url).start()
        return self.proxy

    async def submit(self, team: str = "search", **wishes: Any) -> str:
        """The id of a job. Raises aiohttp.ClientError where the proxy dies meanwhile."""
        body = {"model": "veo-3", "prompt": "A serene lake", "duration": SECONDS, "simulate": wishes}
        headers = {"Authorization": f"Bearer {KEYS[team]}"}
        async with self.session.post(self.proxy.url + VIDEOS, json=body, headers=headers) as answer:
            said = await answer.json()
            assert answer.status == 200, said
            self.told[said["id"]] = (team, answer.headers["x-request-id"])
            self.has_one.set()
            return str(said["id"])

    async def look(self, job_id: str, team: str = "search") -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {KEYS[team]}"}
        async with self.session.get(f"{self.proxy.url}{VIDEOS}/{job_id}", headers=headers) as answer:
            return answer.status, await answer.json()

    def rows(self, query: str = "SELECT * FROM usage ORDER BY request_id") -> list[dict[str, Any]]:
        return ledger_rows(self.folder / "ledger.db", query)

    def on_record(self) -> dict[str, str]:
        """Job id -> its request."""
        return {row["job_id"]: row["request_id"] for row in self.rows("SELECT job_id, request_id FROM jobs")}

    async def until_open(self, count: int) -> None:
        """Return once no more requests than that are open."""
        async with asyncio.timeout(START_S):
            while sum(row["state"] == "open" for row in self.rows()) > count:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.1)

    def assert_checked(self, still_open: int = 0) -> None:
        """The product's own check agrees."""
        command = [*PROXY, "check", "--ledger", f"sqlite:///{self.folder / 'ledger.db'}", "--format", "json"]
        checked = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        found = json.loads(checked.stdout)
        assert (found["ok"], found["errors"], found["open"], found["overruns"]) == (True, [], still_open, 0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    write_policies(tmp_path / "policies", teams=TEAMS)
    simulator = Simulator(PRICES, ORG_KEY, job_s=None, received_kept=0)
    await simulator.start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        world = World(tmp_path, simulator, session)
        yield world
        await world.proxy.kill()
    await simulator.stop()


# Kills between the upstream's answer to a submission and ours.


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_job_that_was_being_submitted_at_a_kill_is_on_record_or_its_request_is_unresolved(world: World) -> None:
    seed = int(os.environ.get("KILL_SEED") or random.randrange(2**32))
    print(f"KILL_SEED={seed}")
    rng = random.Random(seed)
    kills = [(kill_while_clients_submit, kill_amid_answers, kill_as_an_id_is_told)[n % 3] for n in range(KILLS)]
    hits: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for kill in kills:
        await world.start()
        known = set(world.simulator.jobs)
        await kill(world, rng)
        hits[kill.__name__].update(what_became_of(world, known))
        end_some(world.simulator, rng)
    for name, hit in hits.items():
        print(f"{name}: {dict(hit)}")
    hit = sum(hits.values(), Counter())
    assert hit["no answer, unresolved"] > KILLS // 4
    assert hit["no answer, on record"] > KILLS // 4
    assert hit["told, unresolved"] == 0
    end_all(world.simulator, rng)
    await world.start()
    await assert_clients_find_their_jobs(world)
    await world.until_open(0)  # those that nobody asks for are polled
    assert await world.proxy.stop() == 0
    assert_every_job_is_accounted_for(world)
    world.assert_checked()


async def kill_while_clients_submit(world: World, rng: random.Random) -> None:
    """At any instant, while clients submit one job after the other and look at those that they have, from earlier lives
    too. The upstream's answers come in drips: some are cut in the middle."""
    drip = {"fault": "drip", "bytes": 16, "every_ms": 0.5}

    async def client() -> None:
        while True:
            team = rng.choice(list(KEYS))
            await world.submit(team, **rng.choice(({}, drip)), delay_ms=rng.uniform(0, 5))
            job_id, (team, _) = rng.choice(list(world.told.items()))  # its end may not be settled yet
            assert (await world.look(job_id, team))[0] == 200

    clients = [asyncio.ensure_future(client()) for _ in range(AT_ONCE // 2)]
    wanted = len(world.simulator.jobs) + rng.randint(1, 60)
    await world.simulator.wait_for(lambda: len(world.simulator.jobs) >= wanted, timeout_s=START_S)
    await asyncio.sleep(rng.uniform(0, 0.02))
    await world.proxy.kill()
    await broken_off(clients)


async def kill_amid_answers(world: World, rng: random.Random) -> None:
    """So soon after the upstream's answers that the proxy has read some of them, recorded some and told some."""
    clients = await submitted_at_once(world, rng)
    let_live(world.proxy, rng.uniform(0, 0.005))
    await world.proxy.kill()
    await broken_off(clients)


def let_live(proxy: Serving, seconds: float) -> None:
    """Go on, and die so much later: measured while nothing else runs here, which a timer of the loop would wait for."""
    proxy.send(signal.SIGCONT)
    time.sleep(seconds)
    proxy.send(signal.SIGKILL)


async def kill_as_an_id_is_told(world: World, rng: random.Random) -> None:
    """The instant that a client has its id: others, recorded with it, are about to be told theirs."""
    clients = await submitted_at_once(world, rng)
    world.has_one.clear()
    world.proxy.send(signal.SIGCONT)
    async with asyncio.timeout(START_S):
        await world.has_one.wait()
    await world.proxy.kill()
    await broken_off(clients)


async def submitted_at_once(world: World, rng: random.Random) -> list[asyncio.Future[Any]]:
    """Clients that wait for the ids of their jobs. The upstream has answered all of them, and the proxy stands still
    (SIGSTOP) before it has seen most of these answers."""
    before = len(world.simulator.jobs)
    clients = [asyncio.ensure_future(world.submit(rng.choice(list(KEYS)), delay_ms=50)) for _ in range(AT_ONCE)]
    await world.simulator.wait_for(lambda: len(world.simulator.jobs) == before + AT_ONCE, timeout_s=START_S)
    world.proxy.send(signal.SIGSTOP)
    await world.simulator.wait_for(lambda: world.simulator.in_flight == 0)
    return clients


async def broken_off(clients: list[asyncio.Future[Any]]) -> None:
    """Wait until each client has what it gets; nothing but the kill may have kept it from its answer."""
    for end in await asyncio.gather(*clients, return_exceptions=True):
        assert isinstance(end, str | aiohttp.ClientError | ConnectionError), end


def what_became_of(world: World, before: set[str]) -> Counter[str]:
    """Of the jobs that the simulator took on since `before`."""
    on_record = world.on_record()
    return Counter(
        f"{'told' if job_id in world.told else 'no answer'}, {'on record' if job_id in on_record else 'unresolved'}"
        for job_id in world.simulator.jobs.keys() - before
    )


def running(simulator: Simulator) -> list[Job]:
    return [job for job in simulator.jobs.values() if job.completed_at is None]


def end_some(simulator: Simulator, rng: random.Random) -> None:
    for job in running(simulator):
        if rng.random() < 0.3:
            end(simulator, job, rng)


def end_all(simulator: Simulator, rng: random.Random) -> None:
    for job in running(simulator):
        end(simulator, job, rng)


def end(simulator: Simulator, job: Job, rng: random.Random) -> None:
    """As it was asked for, shorter, or not well."""
    if rng.random() < 0.25:
        simulator.fail(job.id)
    else:
        simulator.complete(job.id, duration=rng.choice((None, 2.5)))


async def assert_clients_find_their_jobs(world: World) -> None:
    """Who has an id is told what the upstream says of it, and nobody else is."""

    async def look(job_id: str, team: str) -> None:
        assert await world.look(job_id, team) == (200, world.simulator.jobs[job_id].shown())
        (other,) = KEYS.keys() - {team}
        status, said = await world.look(job_id, other)
        assert (status, said["error"]["code"]) == (404, "job_not_found")

    async with asyncio.TaskGroup() as clients:
        for job_id, (team, _) in world.told.items():
            clients.create_task(look(job_id, team))


def assert_every_job_is_accounted_for(world: World) -> None:
    """By its job row, and then its request has ended at what it was billed; or by a request that is unresolved and
    holds as much. Never by both, and never twice."""
    simulator, on_record = world.simulator, world.on_record()
    rows = {row["request_id"]: row for row in world.rows()}
    billed: defaultdict[str, int] = defaultdict(int)
    for entry in simulator.bill:
        billed[entry.request_id or ""] += entry.cost_nusd
    assert len(rows) == len(world.rows())
    assert len(set(on_record.values())) == len(on_record)
    assert on_record.keys() <= simulator.jobs.keys()
    assert {job_id: request_id for job_id, (_, request_id) in world.told.items()}.items() <= on_record.items()
    requests = {job.request_id: job for job in simulator.jobs.values()}
    assert len(requests) == len(simulator.jobs), "a submission was sent twice"
    for job in simulator.jobs.values():
        assert job.request_id in rows, "a job is lost"
        assert on_record.get(job.id, job.request_id) == job.request_id
    for request_id, row in rows.items():
        if request_id in on_record.values():
            state = {"completed": "settled", "failed": "voided"}[requests[request_id].status]
            assert (row["state"], row["cost_nusd"], row["unresolved_nusd"]) == (state, billed[request_id], 0), row
        else:  # what is known of it: whose it is, what was asked for, and what it may have cost
            assert (row["state"], row["error_code"]) == ("unresolved", "proxy_died"), row
            assert (row["endpoint"], row["model_requested"], row["attempts"]) == ("videos", "veo-3", 1), row
            assert (row["key_id"], row["cost_nusd"]) == (f"{row['team']}-key", 0), row
            assert billed[request_id] <= row["unresolved_nusd"] == row["hold_nusd"], row
            assert row["hold_nusd"] >= COST_NUSD, row
    covered = sum(billed[request_id] for request_id, row in rows.items() if row["state"] == "unresolved")
    assert sum(row["cost_nusd"] for row in rows.values()) == simulator.total_nusd - covered


# After a kill.


@pytest.mark.slow
async def test_jobs_that_ran_at_a_kill_are_followed_to_their_end_though_no_client_asks(world: World) -> None:
    await world.start()
    jobs = await asyncio.gather(*[world.submit() for _ in range(8)])
    await world.proxy.kill()
    asked_for, *others, failed, runs = jobs
    for job_id in (asked_for, *others):
        world.simulator.complete(job_id)
    world.simulator.fail(failed)
    ready = (await world.start()).ready
    assert (ready["jobs"], ready["recovered_unresolved"], ready["recovered_voided"]) == (8, 0, 0)
    assert (await world.look(asked_for))[1]["status"] == "completed"
    await world.until_open(1)
    await world.simulator.wait_for(lambda: world.simulator.jobs[runs].polls > 0)
    states = {row["request_id"]: row["state"] for row in world.rows()}
    assert states == {world.told[job_id][1]: {runs: "open", failed: "voided"}.get(job_id, "settled") for job_id in jobs}
    assert sum(row["cost_nusd"] for row in world.rows()) == world.simulator.total_nusd == 6 * COST_NUSD
    assert all(world.simulator.jobs[job_id].polls == 1 for job_id in (asked_for, *others, failed))
    assert await world.proxy.stop() == 0
    world.assert_checked(still_open=1)


# Many who ask.


@pytest.mark.slow
async def test_two_hundred_polls_of_a_job_at_once_settle_it_once(world: World) -> None:
    await world.start()
    job_id = await world.submit()
    world.simulator.complete(job_id)
    world.proxy.send(signal.SIGSTOP)  # so that all have asked before the first is heard
    address = world.proxy.ready["listen"].split(":")
    wires = await asyncio.gather(*[asyncio.open_connection(*address) for _ in range(200)])
    for _, writer in wires:
        head = f"GET /v1{VIDEOS}/{job_id} HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer {KEY}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
    world.proxy.send(signal.SIGCONT)
    answers = await asyncio.gather(*[reader.read() for reader, _ in wires])
    for _, writer in wires:
        writer.close()
    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert {json.loads(answer.partition(b"\r\n\r\n")[2])["status"] for answer in answers} == {"completed"}
    assert world.simulator.jobs[job_id].polls == 200
    (row,) = world.rows()
    assert (row["state"], row["cost_nusd"], row["video_seconds"]) == ("settled", COST_NUSD, SECONDS)
    assert row["cost_nusd"] == world.simulator.total_nusd
    totals = world.rows("SELECT cost_nusd, video_ms FROM totals WHERE endpoint = 'videos'")
    assert totals == [{"cost_nusd": COST_NUSD, "video_ms": SECONDS * 1000}]
    async with world.session.get(f"{world.proxy.admin_url}/metrics") as answer:
        metrics = (await answer.text()).splitlines()
    series = 'endpoint="videos",model="veo-3",team="search"'
    assert f'oxyy_units_total{{{series},unit="video_seconds"}} {SECONDS:.1f}' in metrics
    assert f'oxyy_cost_usd_total{{cost_center="CC-search",{series}}} {COST_NUSD / 1e9}' in metrics
    assert await world.proxy.stop() == 0
    world.assert_checked()
