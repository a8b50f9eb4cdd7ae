"""The writer on SQLite: batches, defects, a store that cannot be written, and a real kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from oxyy_proxy.errors import InternalError, LedgerUnavailable, QuotaExceeded
from oxyy_proxy.ledger import sqlite, sqlite_open
from oxyy_proxy.ledger.book import Book
from oxyy_proxy.rules.types import Limit
from tests.ledger.making import (
    AMBIGUOUS,
    ANSWERED,
    FAILED,
    NOW,
    answered,
    completed,
    concurrent,
    job,
    limit,
    opening,
    target,
    users,
)
from tests.ledger.stores import SqliteStore

BUDGET = limit(cap=100_000)


class Watch:
    """What a writer reported: `commits`, `defects`. `committed()` waits for the next commit."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.commits: list[float] = []
        self.defects: list[Exception] = []
        self._news = asyncio.Event()

    def on_commit(self, seconds: float) -> None:
        self.commits.append(seconds)
        self.loop.call_soon_threadsafe(self._news.set)

    def on_defect(self, error: Exception) -> None:
        self.defects.append(error)

    def nothing_yet(self) -> None:
        self._news.clear()

    async def committed(self) -> None:
        await asyncio.wait_for(self._news.wait(), 10)
        self._news.clear()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock is waited for only briefly."""
    monkeypatch.setattr(sqlite_open, "_BUSY_TIMEOUT_MS", 20)


@pytest.fixture
async def watched(sqlite_store: SqliteStore, impatient: None) -> AsyncIterator[tuple[SqliteStore, Watch]]:
    watch = Watch()
    sqlite_store.open(watch.on_commit, watch.on_defect)
    return sqlite_store, watch


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else writes, and does not let go."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def stands(store: SqliteStore, now: float = NOW) -> tuple[int, int]:
    (found,) = await store.ledger.standings([BUDGET], now)
    return found.spent, found.held


# --- batches ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def one_batch(store: SqliteStore, watch: Watch) -> Iterator[None]:
    """Verbs queued in the block run in one transaction: the writer is held until it is left."""
    gate, standing_still = threading.Event(), threading.Event()

    def hold(seconds: float) -> None:
        watch.commits.append(seconds)
        standing_still.set()
        gate.wait(10)

    store.open(on_commit=hold, on_defect=watch.on_defect).standings((), NOW)
    assert standing_still.wait(10)
    yield
    gate.set()


async def test_what_waits_is_committed_together(sqlite_store: SqliteStore) -> None:
    watch = Watch()
    with one_batch(sqlite_store, watch):
        waits = [sqlite_store.ledger.open(opening([BUDGET])) for _ in range(50)]
    await asyncio.gather(*waits)
    await sqlite_store.ledger.close()
    assert len(watch.commits) == 2
    assert all(seconds > 0 for seconds in watch.commits)


async def test_a_limit_that_is_new_counts_what_its_own_batch_has_ended(sqlite_store: SqliteStore) -> None:
    opened = opening([])
    with one_batch(sqlite_store, Watch()):
        ledger = sqlite_store.ledger
        waits = [ledger.open(opened), ledger.settle(answered(opened, 40)), ledger.standings([BUDGET], NOW)]
    (found,) = (await asyncio.gather(*waits))[-1]
    assert found.spent == 40
    assert (await sqlite_store.verify()).broken == ()


async def test_a_batch_has_an_end(sqlite_store: SqliteStore) -> None:
    watch = Watch()
    with one_batch(sqlite_store, watch):
        waits = [sqlite_store.ledger.standings((), NOW) for _ in range(2 * sqlite.MAX_BATCH)]
    await asyncio.gather(*waits)
    await sqlite_store.ledger.close()
    assert len(watch.commits) == 3


async def test_a_refusal_does_not_take_the_rest_of_its_batch_with_it(sqlite_store: SqliteStore) -> None:
    tight = limit(cap=100)
    with one_batch(sqlite_store, Watch()):
        waits = [sqlite_store.ledger.open(opening([tight])) for _ in range(3)]
        waits.append(sqlite_store.ledger.open(opening([])))
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(r) for r in results] == [tuple, QuotaExceeded, QuotaExceeded, tuple]
    assert (await sqlite_store.verify()).broken == ()


@pytest.mark.parametrize("defect", ["opened twice", "attempt of an unknown request"])
async def test_a_defect_does_not_take_the_rest_of_its_batch_with_it(sqlite_store: SqliteStore, defect: str) -> None:
    watch = Watch()
    opened, others = opening([BUDGET]), [opening([BUDGET, concurrent(99)]) for _ in range(5)]
    with one_batch(sqlite_store, watch):
        ledger = sqlite_store.ledger
        waits = [ledger.open(each) for each in (opened, *others[:3])]
        if defect == "opened twice":
            waits.append(ledger.open(opened))
        else:
            waits.append(ledger.next_attempt("req_unknown", AMBIGUOUS, target(), NOW))
        waits += [ledger.open(each) for each in others[3:]]
        waits += [ledger.settle(answered(opened, 40))]
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(r) for r in results] == [tuple] * 4 + [InternalError] + [tuple] * 2 + [type(None)]
    assert watch.defects
    assert "platform team" in str(results[4])
    (budget, running) = await ledger.standings([BUDGET, concurrent(99)], NOW)
    assert (budget.spent, budget.held, running.held) == (40, 500, 5)
    assert ledger.writable
    verdict = await sqlite_store.verify()
    assert (verdict.broken, verdict.requests) == ((), 6)


async def test_of_two_attempts_in_one_batch_the_second_is_written(sqlite_store: SqliteStore) -> None:
    opened = opening([BUDGET])
    with one_batch(sqlite_store, Watch()):
        ledger = sqlite_store.ledger
        waits = [ledger.open(opened)]
        waits += [ledger.next_attempt(opened.request_id, AMBIGUOUS, target(model=m), NOW) for m in ("b", "c", "d")]
    await asyncio.gather(*waits)
    assert [row["attempts"] for row in sqlite_store.usage()] == [4]
    assert [row["hold_nusd"] for row in sqlite_store.usage()] == [400]
    assert await stands(sqlite_store) == (0, 400)
    assert (await sqlite_store.verify()).broken == ()


@pytest.mark.parametrize("defect", [False, True])
async def test_a_whole_job_fits_into_one_batch(sqlite_store: SqliteStore, defect: bool) -> None:
    """A defect makes the batch run again, one verb at a time: nothing of the first run may be left."""
    watch, places = Watch(), concurrent(9)
    opened, running, other = (opening([BUDGET, places]) for _ in range(3))
    with one_batch(sqlite_store, watch):
        ledger = sqlite_store.ledger
        waits = [
            ledger.open(opened),
            ledger.open(running),
            ledger.open(other),
            ledger.submitted(job(opened, "job_1"), ANSWERED),
            ledger.submitted(job(running, "job_2"), ANSWERED),
            ledger.submitted(job(other, "job_1"), ANSWERED),
            ledger.running_jobs(),
            ledger.settle(completed(opened)),
            ledger.running_jobs(),
            ledger.submitted(job(opened, "job_1"), ANSWERED),
        ]
        if defect:
            waits.append(ledger.open(running))
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert (results[3:6], results[9]) == ([True, True, False], True)
    assert [[each.job_id for each in jobs] for jobs in (results[6], results[8])] == [["job_1", "job_2"], ["job_2"]]
    assert [type(result) for result in results[10:]] == [InternalError] * defect
    assert bool(watch.defects) == defect
    found = await ledger.standings([BUDGET, places], NOW)
    assert [(s.spent, s.held) for s in found] == [(40, 200), (0, 1)]
    assert [row["state"] for row in sqlite_store.usage()] == ["settled", "open", "open"]
    assert (await sqlite_store.verify()).broken == ()


async def test_a_job_that_cannot_be_kept_is_a_defect_that_changes_nothing(sqlite_store: SqliteStore) -> None:
    """Half of a surrogate pair, which the store cannot hold: the endpoint refuses such ids."""
    opened, places = opening([BUDGET, places := concurrent(9)]), places
    watch = Watch()
    ledger = sqlite_store.open(watch.on_commit, watch.on_defect)
    await ledger.open(opened)
    with pytest.raises(InternalError):
        await ledger.submitted(job(opened, "job_\ud83d"), ANSWERED)
    assert watch.defects
    found = await ledger.standings([BUDGET, places], NOW)
    assert [(s.spent, s.held) for s in found] == [(0, 100), (0, 1)]
    assert await ledger.running_jobs() == ()
    assert await ledger.submitted(job(opened, "job_1"), ANSWERED) is True
    assert (await sqlite_store.verify()).broken == ()


# --- a store that cannot be written ----------------------------------------------------------------------------


async def test_nothing_may_be_spent_while_the_store_is_locked(watched: tuple[SqliteStore, Watch]) -> None:
    store, watch = watched
    running = concurrent(9)
    await store.ledger.open(opening([BUDGET, running]))
    with locked(store.path):
        for _ in range(2):
            with pytest.raises(LedgerUnavailable) as refused:
                await store.ledger.open(opening([BUDGET, running]))
        with pytest.raises(LedgerUnavailable):
            await store.ledger.standings([BUDGET], NOW)
        assert not store.ledger.writable
        assert refused.value.headers["Retry-After"] == "1"
        assert watch.defects
    assert await store.ledger.open(opening([BUDGET, running])) == (BUDGET.cap - 200, running.cap - 2)
    found = await store.ledger.standings([BUDGET, running], NOW)
    assert [(s.spent, s.held) for s in found] == [(0, 200), (0, 2)]
    assert store.ledger.writable
    verdict = await store.verify()
    assert (verdict.broken, verdict.requests) == ((), 2)


async def test_an_end_that_cannot_be_written_lands_by_itself(watched: tuple[SqliteStore, Watch]) -> None:
    store, watch = watched
    opened, other = opening([BUDGET]), opening([BUDGET])
    await store.ledger.open(opened)
    await store.ledger.open(other)
    with locked(store.path):
        for end in (answered(opened, 40), answered(opened, 41), answered(other, 2)):
            with pytest.raises(LedgerUnavailable):
                await store.ledger.settle(end)
        assert [row["state"] for row in store.usage()] == ["open", "open"]
        watch.nothing_yet()
    await watch.committed()
    assert [(row["state"], row["cost_nusd"]) for row in store.usage()] == [("settled", 40), ("settled", 2)]
    assert store.ledger.writable
    assert await stands(store) == (42, 0)


async def test_a_job_that_cannot_be_written_lands_by_itself_before_its_end(watched: tuple[SqliteStore, Watch]) -> None:
    store, watch = watched
    places = concurrent(9)
    opened, ended = opening([BUDGET, places]), opening([BUDGET, places])
    await store.ledger.open(opened)
    await store.ledger.open(ended)
    with locked(store.path):
        for verb in (
            lambda: store.ledger.submitted(job(opened, "job_1"), ANSWERED),
            lambda: store.ledger.submitted(job(opened, "job_1"), ANSWERED),
            lambda: store.ledger.submitted(job(ended, "job_2"), ANSWERED),
            lambda: store.ledger.settle(completed(ended)),
            lambda: store.ledger.job("job_1"),
            lambda: store.ledger.running_jobs(),
        ):
            with pytest.raises(LedgerUnavailable):
                await verb()
        assert store.usage("SELECT outcome FROM attempts") == [{"outcome": None}] * 2
        watch.nothing_yet()
    await watch.committed()
    assert [each.job_id for each in await store.ledger.running_jobs()] == ["job_1"]
    found = await store.ledger.standings([BUDGET, places], NOW)
    assert [(s.spent, s.held) for s in found] == [(40, 100), (0, 0)]
    assert [row["reason"] for row in store.usage("SELECT reason FROM attempts ORDER BY request_id")] == [
        "ok", "job_completed",
    ]  # fmt: skip
    assert (await store.verify()).broken == ()


async def test_while_a_job_cannot_be_written_its_place_is_taken(watched: tuple[SqliteStore, Watch]) -> None:
    """What is not durable has not happened: the book is as it was before."""
    store, _ = watched
    opened, places = opening([BUDGET, places := concurrent(1)]), places
    await store.ledger.open(opened)
    book = store.ledger._book
    with locked(store.path):
        with pytest.raises(LedgerUnavailable):
            await store.ledger.submitted(job(opened), ANSWERED)
        assert [counter.held for counter in book.counters.values()] == [100, 1]
        assert [users(book, counter) for counter in book.counters.values()] == [1, 1]
        assert (book.open[opened.request_id].job_id, book.parked) == (None, set())


async def test_closing_a_ledger_that_cannot_write_a_job_leaves_its_request_unresolved(
    watched: tuple[SqliteStore, Watch],
) -> None:
    store, _ = watched
    opened = opening([BUDGET])
    await store.ledger.open(opened)
    with locked(store.path):
        with pytest.raises(LedgerUnavailable):
            await store.ledger.submitted(job(opened), ANSWERED)
        await asyncio.wait_for(store.ledger.close(), 10)
    assert store.open().recovered == (1, 0, 0)
    assert await stands(store) == (0, 100)


async def test_an_attempt_that_cannot_be_recorded_is_not_made_later(watched: tuple[SqliteStore, Watch]) -> None:
    store, _ = watched
    opened = opening([BUDGET])
    await store.ledger.open(opened)
    with locked(store.path), pytest.raises(LedgerUnavailable):
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(), NOW)
    assert await stands(store) == (0, 100)
    await store.ledger.next_attempt(opened.request_id, FAILED, target(), NOW)
    assert [row["attempts"] for row in store.usage()] == [2]
    assert await stands(store) == (0, 100)


async def test_a_ledger_that_can_be_written_again_says_so_without_being_asked(
    watched: tuple[SqliteStore, Watch],
) -> None:
    store, watch = watched
    with locked(store.path):
        with pytest.raises(LedgerUnavailable):
            await store.ledger.open(opening([BUDGET]))
        watch.nothing_yet()
    await watch.committed()  # a proxy that is not ready gets no requests that would find out
    assert store.ledger.writable


async def test_closing_a_ledger_that_cannot_be_written_leaves_the_hold(watched: tuple[SqliteStore, Watch]) -> None:
    store, _ = watched
    opened = opening([BUDGET])
    await store.ledger.open(opened)
    with locked(store.path):
        with pytest.raises(LedgerUnavailable):
            await store.ledger.settle(answered(opened, 40))
        await asyncio.wait_for(store.ledger.close(), 10)
    assert store.open().recovered == (1, 0, 0)
    assert await stands(store) == (0, 100)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """The connections that ledgers write on, to take their room away."""
    made: list[sqlite3.Connection] = []
    connect: Callable[..., sqlite3.Connection] = sqlite_open._connect

    def remember(*args: object) -> sqlite3.Connection:
        made.append(connect(*args))
        return made[-1]

    monkeypatch.setattr(sqlite_open, "_connect", remember)
    return made


async def test_a_full_disk_refuses_what_needs_room_and_loses_nothing(
    sqlite_store: SqliteStore, connections: list[sqlite3.Connection]
) -> None:
    watch = Watch()
    store = sqlite_store
    store.open(watch.on_commit, watch.on_defect)
    await store.ledger.open(opening([BUDGET]))
    await watch.committed()
    connections[0].execute("PRAGMA max_page_count = 1")  # as much as there is now, and no more
    with pytest.raises(LedgerUnavailable):
        await store.ledger.open(opening([BUDGET], tag="x" * 20_000))
    assert "full" in str(watch.defects[-1])
    assert not store.ledger.writable
    await store.ledger.close()  # nothing else uses the connection now
    store.open()
    assert await stands(store) == (0, 100)
    await store.ledger.open(opening([BUDGET], tag="x" * 20_000))
    assert await stands(store) == (0, 200)
    assert (await store.verify()).broken == ()


# --- kill -9 ---------------------------------------------------------------------------------------------------

_VICTIM = """
import asyncio, sys
from oxyy_proxy.ledger.sqlite_open import open_ledger
from tests.ledger.making import AMBIGUOUS, ANSWERED, NOW, answered, completed, job, limit, opening, target

async def request(ledger, n):
    opened = opening([limit(cap=10**9)], [target(100 + n)])
    await ledger.open(opened)
    print("opened", opened.request_id, 100 + n, flush=True)
    if n % 3 == 0:
        await ledger.next_attempt(opened.request_id, AMBIGUOUS, target(10_000), NOW)
        print("attempt", opened.request_id, 10_000, flush=True)
    if n % 4 < 2:
        assert await ledger.submitted(job(opened, f"job_{n}"), ANSWERED)
        print("submitted", opened.request_id, n, flush=True)
    if n % 2:
        await ledger.settle(answered(opened, n))
        print("settled", opened.request_id, n, flush=True)

async def main():
    ledger = open_ledger(sys.argv[1], "process")
    n = 0
    while True:
        await asyncio.gather(*(request(ledger, n + i) for i in range(20)))
        n += 20

asyncio.run(main())
"""


def _said_before_its_death(url: str, lines: int) -> list[str]:
    """What a process that writes a ledger promised until it was killed, a while after its first lines."""
    command = [sys.executable, "-c", _VICTIM, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        said = [victim.stdout.readline() for _ in range(lines)]
        victim.send_signal(signal.SIGKILL)
        said += victim.stdout.readlines()
    assert victim.returncode == -signal.SIGKILL
    return [line for line in said if line.endswith("\n")]


@pytest.mark.parametrize("lines", [1, 37, 500])
async def test_nothing_that_was_promised_is_lost_by_kill_9(sqlite_store: SqliteStore, lines: int) -> None:
    said = _said_before_its_death(sqlite_store.url, lines)
    worst: dict[str, int] = {}
    settled: dict[str, int] = {}
    submitted: dict[str, int] = {}
    for what, request_id, amount in map(str.split, said):
        if what == "settled":
            settled[request_id] = int(amount)
        elif what == "submitted":
            submitted[request_id] = int(amount)
        else:
            worst[request_id] = worst.get(request_id, 0) + int(amount)
    before = sqlite_store.usage()
    all_jobs = {row["request_id"]: row["job_id"] for row in sqlite_store.usage("SELECT request_id, job_id FROM jobs")}
    assert {name: f"job_{n}" for name, n in submitted.items()}.items() <= all_jobs.items()
    ledger = sqlite_store.open()
    rows = {row["request_id"]: row for row in sqlite_store.usage()}
    assert worst.keys() <= rows.keys()
    assert all((rows[name]["state"], rows[name]["cost_nusd"]) == ("settled", cost) for name, cost in settled.items())
    filming = {row["request_id"] for row in before if row["state"] == "open" and row["request_id"] in all_jobs}
    in_flight = {row["request_id"] for row in before if row["state"] == "open"} - filming
    assert all(rows[name]["state"] == "open" for name in filming)
    assert {each.request_id for each in await ledger.running_jobs()} == filming
    assert all(rows[name]["state"] == "unresolved" for name in in_flight)
    # What was on its way when the process died may have landed unsaid: it can only be more.
    assert all(rows[name]["unresolved_nusd"] >= worst.get(name, 0) for name in in_flight)
    assert sqlite_store.ledger.recovered == (len(in_flight), 0, len(filming))
    verdict = await sqlite_store.verify()
    assert (verdict.broken, verdict.open) == ((), len(filming))
    assert await stands(sqlite_store) == (
        sum(row["cost_nusd"] for row in rows.values()),
        sum(row["unresolved_nusd"] or row["hold_nusd"] * (name in filming) for name, row in rows.items()),
    )
    totals = (await sqlite_store.ledger.snapshot((), NOW)).totals
    assert sum(total.cost_nusd for total in totals.values()) == sum(row["cost_nusd"] for row in rows.values())


async def test_every_commit_is_a_state_to_recover_from(sqlite_store: SqliteStore) -> None:
    """The files as they are after each transaction of a busy ledger, opened as after a crash."""
    copies: list[Path] = []
    limited = concurrent(20)
    sqlite_store.open(on_commit=lambda _: copies.append(sqlite_store.copy()))

    async def request(n: int) -> None:
        opened = opening([BUDGET, limited], [target(100 + n)])
        await sqlite_store.ledger.open(opened)
        if n % 2:
            await sqlite_store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(7), NOW)
        if n % 4 == 0:
            await sqlite_store.ledger.submitted(job(opened), ANSWERED)
        if n % 3:
            await sqlite_store.ledger.settle(answered(opened, n))

    for start in range(0, 12, 4):
        await asyncio.gather(*(request(n) for n in range(start, start + 4)))
    await sqlite_store.ledger.close()
    assert len(copies) >= 3
    for copied in copies:
        sqlite_store.path = copied
        ledger = sqlite_store.open()
        rows = sqlite_store.usage()
        running = await ledger.running_jobs()
        assert {row["request_id"] for row in rows if row["state"] == "open"} == {each.request_id for each in running}
        assert (await sqlite_store.verify()).broken == ()
        (budget, places) = await ledger.standings([BUDGET, limited], NOW)
        assert budget.spent == sum(row["cost_nusd"] for row in rows)
        assert budget.held == sum(
            row["hold_nusd"] if row["state"] == "open" else row["unresolved_nusd"] for row in rows
        )
        assert places.held == 0


async def test_an_open_row_without_an_attempt_gives_everything_back(sqlite_store: SqliteStore) -> None:
    sqlite_store.open()
    limits = [BUDGET, limit("requests", "day", 9)]
    await sqlite_store.ledger.open(opening(limits))
    await sqlite_store.ledger.open(opening(limits))
    await sqlite_store.close()
    db = sqlite3.connect(sqlite_store.path, isolation_level=None)
    db.execute(
        "UPDATE open_records SET record = json_set(record, '$[3]', json('[]'))"
        " WHERE request_id = (SELECT max(request_id) FROM open_records)"
    )
    db.close()
    assert sqlite_store.open().recovered == (1, 1, 0)
    assert [row["state"] for row in sqlite_store.usage()] == ["unresolved", "voided"]
    found = await sqlite_store.ledger.standings(limits, NOW)
    assert [(s.spent, s.held) for s in found] == [(0, 100), (1, 0)]
    assert (await sqlite_store.verify()).broken == ()


# --- memory ----------------------------------------------------------------------------------------------------


async def test_counters_of_ended_windows_leave_memory_and_stay_in_the_store(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_COUNTERS_KEPT", 5)
    sqlite_store.open()
    rate = limit("requests", "minute", 1)
    late = opening([rate])
    await sqlite_store.ledger.open(late)
    for minute in range(1, 20):
        opened = opening([rate], now=NOW + 60 * minute)
        await sqlite_store.ledger.open(opened)
        await sqlite_store.ledger.settle(answered(opened))
    (again,) = await sqlite_store.ledger.standings([rate], NOW)
    assert (again.spent, again.held) == (0, 1)
    await sqlite_store.ledger.settle(answered(late))
    (again,) = await sqlite_store.ledger.standings([rate], NOW)
    assert (again.spent, again.held) == (1, 0)
    for minute in range(1, 20):
        (again,) = await sqlite_store.ledger.standings([rate], NOW + 60 * minute)
        assert (again.spent, again.held) == (1, 0)
    assert (await sqlite_store.verify()).broken == ()


async def test_what_a_new_window_has_spent_is_asked_of_the_rows_only_where_a_request_may_have_begun_in_it(
    sqlite_store: SqliteStore,
) -> None:
    sqlite_store.open()
    mine, theirs, ours = (
        limit("requests", "minute"),
        limit("requests", "minute", team="b"),
        limit(team=None, per="hour"),
    )
    asked: list[str] = []

    async def begins(at: float, *limits: Limit, team: str = "search") -> int:
        """How often the rows were asked for what was spent."""
        opened = opening(limits, now=at, team=team)
        sqlite_store.ledger._db.set_trace_callback(lambda text: asked.append(text) if "sum(" in text else None)
        await sqlite_store.ledger.open(opened)
        sqlite_store.ledger._db.set_trace_callback(None)
        await sqlite_store.ledger.settle(answered(opened))
        count = len(asked)
        asked.clear()
        return count

    assert await begins(NOW, mine) == 0  # nothing is in the store
    assert await begins(NOW + 1) == 0
    assert await begins(NOW + 60, mine) == 0  # a new minute, and its first request
    assert await begins(NOW + 61, theirs, team="b") == 0  # and the first of another team
    assert await begins(NOW + 62, ours) == 1  # in an hour in which others were before it
    assert await begins(NOW + 3600, ours, mine) == 0
    assert await begins(NOW + 3720, team="b") == 0
    assert await begins(NOW + 3721, theirs, team="b") == 1  # a limit that was added in the middle of a minute
    (stands,) = await sqlite_store.ledger.standings([theirs], NOW + 3721)
    assert stands.spent == 2
    await sqlite_store.reopen()
    assert await begins(NOW + 3780, mine) == 1  # an earlier process may have begun one whose body came late
    assert await begins(NOW + 3 * 3600, mine) == 0
    assert (await sqlite_store.verify()).broken == ()


async def test_counters_that_are_needed_are_not_looked_at_again_for_each_new_one(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_COUNTERS_KEPT", 4)
    looked_at: list[int] = []
    drop = Book.drop_past_counters

    def noted(book: Book, now: int) -> None:
        looked_at.append(len(book.counters))
        drop(book, now)

    monkeypatch.setattr(Book, "drop_past_counters", noted)
    ledger = sqlite_store.open()
    needed = [limit("requests", "hour", 1, team=f"team-{n}") for n in range(100)]
    await ledger.open(opening(needed))
    assert looked_at == [4, 8, 16, 32, 64]
    looked_at.clear()
    rate = limit("requests", "minute", 1)
    for minute in range(1, 1000):
        opened = opening([rate], now=NOW + 3600 + 60 * minute)
        await ledger.open(opened)
        await ledger.settle(answered(opened))
    assert max(looked_at) <= 2 * (len(needed) + 1)  # as many are in memory at most
    assert sum(looked_at) < 3 * 1000


async def test_the_counter_of_a_job_from_before_a_restart_is_never_forgotten(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second one for the same minute would not know what the job holds, nor get what it spends."""
    monkeypatch.setattr(sqlite, "_COUNTERS_KEPT", 5)
    ledger = sqlite_store.open()
    rate = limit("usd", "minute", 150)
    film = opening([rate])
    await ledger.open(film)
    await ledger.submitted(job(film), ANSWERED)
    ledger = await sqlite_store.reopen()
    for minute in range(1, 20):
        opened = opening([rate], now=NOW + 60 * minute)
        await ledger.open(opened)
        await ledger.settle(answered(opened))
    with pytest.raises(QuotaExceeded):
        await ledger.open(opening([rate], [target(51)]))
    await ledger.settle(completed(film, 70))
    (standing,) = await ledger.standings([rate], NOW)
    assert (standing.spent, standing.held) == (70, 0)
    assert (await sqlite_store.verify()).broken == ()


async def test_a_patient_settlement_goes_with_the_next_verb(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE_S", 60.0)
    transactions: list[float] = []
    ledger, spend = sqlite_store.open(transactions.append), limit("usd", "month", 1000)
    several = [opening([spend], [target(nusd=100)]) for _ in range(3)]
    for opened in several:
        await ledger.open(opened)
    waiting = [ledger.settle(answered(opened, 40), patient=True) for opened in several]
    (standing,) = await ledger.standings([spend], NOW)
    assert (standing.spent, standing.held) == (120, 0)
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    await sqlite_store.close()  # the writer tells of a transaction after those who wait for it
    assert len(transactions) == len(several) + 1


async def test_a_patient_settlement_is_written_soon_whoever_else_comes(sqlite_store: SqliteStore) -> None:
    ledger = sqlite_store.open()
    await ledger.open(opened := opening([]))
    began = time.monotonic()
    await asyncio.wait_for(ledger.settle(answered(opened), patient=True), 10)
    assert time.monotonic() - began >= sqlite.PATIENCE_S - 0.002  # the loop's timers tick in milliseconds
    (row,) = sqlite_store.usage()
    assert row["state"] == "settled"


async def test_a_patient_settlement_is_written_before_the_ledger_closes(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE_S", 60.0)
    ledger = sqlite_store.open()
    await ledger.open(opened := opening([]))
    waiting = ledger.settle(answered(opened), patient=True)
    await sqlite_store.close()
    await asyncio.wait_for(waiting, 10)
    (row,) = sqlite_store.usage()
    assert row["state"] == "settled"
    with pytest.raises(LedgerUnavailable):
        await ledger.settle(answered(opened), patient=True)


def counters_in(store: SqliteStore) -> int:
    with contextlib.closing(sqlite3.connect(store.path)) as db:
        return int(db.execute("SELECT count(*) FROM counters").fetchone()[0])


async def test_looking_at_a_minute_writes_no_counter_and_using_it_does(sqlite_store: SqliteStore) -> None:
    ledger = sqlite_store.open()
    watched = limit("usd", "minute", 1000)
    for minute in range(3):
        (standing,) = await ledger.standings([watched], NOW + 60 * minute)
        assert (standing.spent, standing.held) == (0, 0)
    assert counters_in(sqlite_store) == 0
    opened = opening([watched], [target(nusd=60)])
    await ledger.open(opened)
    (standing,) = await ledger.standings([watched], NOW)
    assert standing.held == 60
    assert counters_in(sqlite_store) == 1
    await ledger.settle(answered(opened, 7))
    assert (await sqlite_store.verify()).broken == ()
