"""Plays the entries whose fault is the host's: a proxy as a process of its own, and what a machine can do to it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from oxyy_proxy.ledger.sqlite_reads import verify
from oxyy_proxy.simulator import Simulator
from tests.e2e.serving import PROXY, Serving, event_of, ledger_rows, write_policies
from tests.faults.clients import question
from tests.faults.entries import Entry
from tests.faults.outcome import Answer, Call, Outcome
from tests.faults.questions import QUESTIONS
from tests.faults.stage import Stage, bill_of, hear, outcome_of, policies, stage
from tests.rig import ORG_KEY
from tests.steps.wires import WAIT_S, Wire, dial, until

EXPECTED_EVENTS = frozenset({"ledger_failed", "settlement_deferred"})
"""What the log must tell of where the ledger is hit; nowhere else may it."""


@dataclass
class Host:
    """A proxy process, its upstream, and the folder that both are in."""

    proxy: Serving
    simulator: Simulator
    folder: Path

    @property
    def pid(self) -> int:
        return self.proxy._process.pid

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.db"

    def rows(self) -> list[dict[str, Any]]:
        return ledger_rows(self.ledger)

    def room(self, size_bytes: int) -> None:
        """How large a file may become; -1: as large as it wants."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[Wire]:
        name, _, port = self.proxy.ready["listen"].rpartition(":")
        reader, writer = await asyncio.open_connection(name, int(port))
        try:
            yield Wire(reader, writer)
        finally:
            writer.transport.abort()
            await asyncio.sleep(0)

    async def ask(self, entry: Entry) -> Answer:
        began = monotonic()
        async with self.dial() as wire:
            await wire.send(question(entry))
            return await hear(wire, began)


@asynccontextmanager
async def host(entry: Entry, folder: Path, descriptors: int | None = None) -> AsyncIterator[Host]:
    """A started one; `descriptors`: the limit on them, as `ulimit -n` sets it."""
    gateway, models = policies(entry)
    write_policies(folder / "policies", gateway=gateway, models=models)
    prices = {name: price for each in QUESTIONS.values() for name, price in each.prices.items()}
    simulator = Simulator(prices=prices, org_key=ORG_KEY, job_s=0)
    await simulator.start()
    proxy = Serving(folder, simulator.url)
    if descriptors is not None:
        proxy.program = ("sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *PROXY)
    try:
        await proxy.start()
        yield Host(proxy, simulator, folder)
    finally:
        await proxy.kill()
        await simulator.stop()


async def come_of(here: Host, answers: list[Answer], expected: frozenset[str] = frozenset()) -> Outcome:
    """All that came of it, once the process has ended as it should. `expected`: events that the fault must lead to."""
    assert await here.proxy.stop() == 0
    events = [event_of(line) or {"event": None, "line": line} for line in here.proxy.lines]
    events += [{"event": None, "line": line} for line in here.proxy.stderr.read_text().splitlines()]
    assert expected <= {event.get("event") for event in events}
    verdict = await verify(f"sqlite:///{here.ledger}")
    simulator = here.simulator
    return Outcome(
        answers=answers,
        calls=[Call(QUESTIONS["chat"].main) for headers, _ in simulator.received if "content-length" in headers],
        billed=bill_of(list(simulator.bill)),
        rows=here.rows(),
        events=[event for event in events if event.get("event") not in (EXPECTED_EVENTS if expected else ())],
        broken=verdict.broken,
        left={"open rows": verdict.open, "requests in the simulator": simulator.in_flight},
    )


async def play(entry: Entry, folder: Path) -> Outcome:
    """The fault that `do` names, and what came of it."""
    return await PLAYS[entry.do["host"]](entry, folder)


async def _failing(here: Host, entry: Entry, fault: Callable[[], contextlib.AbstractContextManager[None]]) -> Outcome:
    """A question that meets the fault, before or behind its way upstream; and one when it is over."""
    if entry.do["when"] == "before":
        with fault():
            answers = [await here.ask(entry)]
    else:
        asking = asyncio.get_running_loop().create_task(here.ask(entry))
        await here.simulator.wait_for(lambda: here.simulator.in_flight > 0)
        with fault():
            answers = [await asking]
    await here.proxy.event("ledger_failed")
    answers.append(await _asked_until_served(here, entry))
    await until(lambda: all(row["state"] != "open" for row in here.rows()))
    answers.sort(key=lambda answer: answer.status)  # those that have a row come first
    return await come_of(here, answers, frozenset({"ledger_failed"}))


async def _asked_until_served(here: Host, entry: Entry) -> Answer:
    """What a client gets that does as Retry-After says."""
    plain = replace(entry, do={})
    async with asyncio.timeout(WAIT_S):
        while (answer := await here.ask(plain)).status == 503:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(float(answer.headers["retry-after"]) / 10)
    return answer


async def disk_full(entry: Entry, folder: Path) -> Outcome:
    """No file of the process may grow, and none that is longer than a page be written to behind that."""
    async with host(entry, folder) as here:

        @contextmanager
        def full() -> Iterator[None]:
            here.room(1)
            try:
                yield
            finally:
                here.room(resource.RLIM_INFINITY)

        return await _failing(here, entry, full)


async def locked(entry: Entry, folder: Path) -> Outcome:
    async with host(entry, folder) as here:

        @contextmanager
        def held() -> Iterator[None]:
            other = sqlite3.connect(here.ledger, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                other.execute("ROLLBACK")
                other.close()

        return await _failing(here, entry, held)


async def spool_full(entry: Entry, folder: Path) -> Outcome:
    """Files may not become longer than 1 MB: uploads go to a file beyond that."""
    async with host(entry, folder) as here:
        here.room(2**20)
        refused = await here.ask(replace(entry, do={"pad_bytes": 3 * 2**20}))
        answers = [await here.ask(entry), refused]
        here.room(resource.RLIM_INFINITY)
        return await come_of(here, answers)


async def stopped(entry: Entry, folder: Path) -> Outcome:
    async with host(entry, folder) as here, here.dial() as wire:
        await wire.send(question(entry))
        await wire.reader.readuntil(b"data: ")
        here.proxy.send(signal.SIGSTOP)
        await here.simulator.wait_for(lambda: here.simulator.in_flight == 0)  # it has said all it had to say
        here.proxy.send(signal.SIGCONT)
        body = await asyncio.wait_for(wire.reader.readuntil(b"data: [DONE]\n\n"), WAIT_S)
        answer = Answer(200, body=body[body.rindex(b"data: [DONE]") :])
        return await come_of(here, [answer])


async def clock(entry: Entry, folder: Path) -> Outcome:
    """Three requests: one across the step, one behind it, one across the step back."""
    async with stage(entry, folder) as rig:
        wall, services = rig.proxy.services.clock, rig.proxy.services
        answers = []
        for begin, end in ((0, 1), (1, 1), (1, 0)):
            services.clock = lambda step=begin: wall() + step * entry.do["step_s"]
            asking = asyncio.get_running_loop().create_task(_asked_here(rig, entry))
            await rig.simulator.wait_for(lambda: rig.simulator.in_flight > 0)
            services.clock = lambda step=end: wall() + step * entry.do["step_s"]
            answers.append(await asking)
        outcome = await outcome_of(rig, answers)
    rows = sorted(outcome.rows, key=lambda row: row["started_at"])
    assert [row["request_id"] for row in rows] == [row["request_id"] for row in outcome.rows]
    return outcome


async def _asked_here(rig: Stage, entry: Entry) -> Answer:
    async with dial(rig) as wire:
        await wire.send(question(entry))
        return await hear(wire, monotonic())


PLAYS: dict[str, Callable[[Entry, Path], Awaitable[Outcome]]] = {
    play.__name__: play for play in (disk_full, locked, spool_full, stopped, clock)
}
