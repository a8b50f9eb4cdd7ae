"""The ledger on SQLite: one connection, one writing thread, group commit.

Verbs are queued and run on the writer's thread; all that wait go into one transaction (group commit), so that the
cost of a commit is shared under load and nobody waits for others without it. WAL with synchronous NORMAL survives any
crash of the process; FULL survives loss of power (measured: no commit lost in 300 kills; at a simulated power cut up to
17 with NORMAL and none with FULL).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import IO, Any

from oxyy_proxy.errors import InternalError, LedgerUnavailable, ProxyError
from oxyy_proxy.ledger import schema, verbs
from oxyy_proxy.ledger.base import AttemptEnd, Job, Opening, Recovered, Settlement
from oxyy_proxy.ledger.book import Book, Counter, Group, job_of_row, job_row
from oxyy_proxy.ledger.sqlite_recovery import load_totals, recover
from oxyy_proxy.rules import budget
from oxyy_proxy.rules.budget import Standing, Watch, Window
from oxyy_proxy.rules.figures import Snapshot, Total, TotalKey
from oxyy_proxy.rules.requestid import first_id_at, made_at
from oxyy_proxy.rules.types import Limit, Target

RETRY_EVERY_S = 0.5
"""How often settlements that could not be written are tried again."""

MAX_BATCH = 512
"""Verbs in one transaction at most, so that the first of them is not kept waiting by the last."""

PATIENCE_S = 0.010
"""How long a patient settlement waits at most for a verb whose transaction it can share: one of its own costs more than
all that it carries, most of all where little else is done (the code and the pages are no longer in the core's caches:
measured, four times as much after 3 ms)."""

_COUNTERS_KEPT = 4096
_GROUPS_KEPT = 1024

LONGEST_BODY_S = 3600
"""A request id is made when its head comes, the hold when its body is there: at most this much later."""

_DEFECTS = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.InterfaceError)
"""Errors of a statement, not of the store: trying again would fail again."""

# For a value of these types that has no adapter the module looks for one everywhere, and makes an error that it drops.
sqlite3.register_adapter(type(None), lambda nothing: nothing)
sqlite3.register_adapter(bool, int)

_Results = list[tuple["asyncio.Future[Any] | None", Any]]
"""Who waits, and what came of it: an exception that it gets, or a value."""

_Waiting = tuple["asyncio.Future[Any] | None", Callable[..., Any], tuple[Any, ...], bool]
"""Who waits, the verb, its arguments, and whether it must happen in the end whatever the store says now."""

_END: _Waiting = (None, bool, (), False)
"""No verb follows."""


class SqliteLedger:
    """See `ledger.base.Ledger`. Made by `ledger.sqlite_open.open_ledger`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        lock: IO[str],
        on_commit: Callable[[float], None],
        on_defect: Callable[[Exception], None],
    ) -> None:
        """`on_commit` is told the seconds of each transaction, `on_defect` why one failed; both on the writer's
        thread."""
        self._db = connection
        self._cursor = connection.cursor()
        """The one of all writes: to make one takes as long as to write a row."""
        self._lock = lock
        self._on_commit = on_commit
        self._on_defect = on_defect
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._late: list[_Waiting] = []
        self._patient: list[_Waiting] = []
        self._patience: asyncio.TimerHandle | None = None
        self._book = Book()
        self._counters_kept = _COUNTERS_KEPT
        self._closed = False
        self._known_from = math.inf
        self.writable = True
        self.recovered = Recovered(0, 0, 0)
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)

    # --- the verbs, called on the event loop -------------------------------------------------------------------

    def open(self, opening: Opening) -> Awaitable[tuple[int, ...]]:
        return self._submit(self._do_open, (opening,))

    def next_attempt(self, request_id: str, ended: AttemptEnd, following: Target, at: float) -> Awaitable[None]:
        return self._submit(verbs.next_attempt, (self._book, request_id, ended, following, at))

    def settle(self, settlement: Settlement, *, patient: bool = False) -> asyncio.Future[None]:
        if not patient or self._closed:
            return self._submit(verbs.settle, (self._book, settlement), True)
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._patient.append((waiter, verbs.settle, (self._book, settlement), True))
        if self._patience is None:
            self._patience = self._loop.call_later(PATIENCE_S, self._wait_no_longer)
        return waiter

    def submitted(self, job: Job, ended: AttemptEnd) -> asyncio.Future[bool]:
        return self._submit(self._do_submitted, (job, ended), True)

    def job(self, job_id: str) -> Awaitable[Job | None]:
        return self._submit(self._do_job, (job_id,))

    def running_jobs(self) -> Awaitable[tuple[Job, ...]]:
        return self._submit(self._do_running_jobs, ())

    def standings(self, limits: Sequence[Limit], now: float) -> Awaitable[tuple[Standing, ...]]:
        return self._submit(self._do_standings, (limits, now))

    def snapshot(self, limits: Sequence[Limit], now: float) -> Awaitable[Snapshot]:
        return self._submit(self._do_snapshot, (limits, now))

    async def close(self) -> None:
        self._wait_no_longer()
        self._closed = True
        self._queue.put(_END)
        await asyncio.to_thread(self._thread.join)
        self._lock.close()

    def _submit(
        self, verb: Callable[..., Any], arguments: tuple[Any, ...], must_happen: bool = False
    ) -> asyncio.Future[Any]:
        waiter: asyncio.Future[Any] = self._loop.create_future()
        if self._closed:  # nobody would ever answer
            waiter.set_exception(_unavailable())
        else:
            if self._patience is not None:
                self._wait_no_longer()
            self._queue.put((waiter, verb, arguments, must_happen))
        return waiter

    def _wait_no_longer(self) -> None:
        """Who was patient goes before who comes now: verbs happen in the order in which they were called."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        for item in self._patient:
            self._queue.put(item)
        self._patient.clear()

    # --- the writer's thread -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover what an earlier process left, then begin to write. Called once, before any verb."""
        self._db.execute(schema.ON_END)
        self._in_transaction(self._take_over)
        self._book.commit()
        self._thread.start()

    def _take_over(self) -> None:
        self._probe()  # a file that may only be read is found now, and not by the first request
        load_totals(self._db, self._book)
        self.recovered = recover(self._db, self._book, time.time())
        self._flush()
        self._known_from = self._after_all_rows()

    def _after_all_rows(self) -> float:
        """The first second at which no request began that is in the store now. Infinite where its ids tell no time."""
        (last,) = self._db.execute(schema.SELECT_LAST_ID).fetchone()
        try:
            return 0.0 if last is None else made_at(last) + LONGEST_BODY_S + 1
        except ValueError:
            return math.inf

    def _probe(self) -> None:
        """Write what is there already: changes nothing, and has to be written."""
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        self._db.execute(f"PRAGMA user_version = {version}")

    def _run(self) -> None:
        closing = False
        while not closing:
            batch = self._gathered()
            if closing := _END in batch:
                batch.pop()
            if self._late:
                batch, self._late = self._late + batch, []
            if batch or not self.writable:
                self._commit(batch)
        self._shut()

    def _gathered(self) -> list[_Waiting]:
        """What waits. Nothing where it is time to try again."""
        waiting = self._queue
        try:
            batch = [waiting.get(timeout=RETRY_EVERY_S) if self._late or not self.writable else waiting.get()]
        except queue.Empty:
            return []
        more = min(waiting.qsize(), MAX_BATCH - 1)
        return batch + [waiting.get_nowait() for _ in range(more)] if more else batch

    def _commit(self, batch: list[_Waiting]) -> None:
        """Run a batch in one transaction, then tell everybody who waits."""
        started = time.perf_counter()
        try:
            results: _Results = self._in_transaction(self._results, batch)
        except Exception as error:  # noqa: BLE001 - one verb's defect must not end the writer, nor take others with it
            self._book.undo()
            self._on_defect(error)
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, _DEFECTS):
                self._cannot_write(batch)
            elif len(batch) > 1:
                for item in batch:
                    self._commit([item])
            else:
                failed = InternalError("The proxy's ledger failed. Tell your platform team.")
                self._tell([(item[0], failed) for item in batch])
        else:
            self.writable = True
            self._book.commit()
            self._tell(results)
            self._on_commit(time.perf_counter() - started)

    def _in_transaction(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Commit what `work` does; where that or the commit fails, nothing is changed in the store."""
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
            result = work(*arguments)
            self._cursor.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._cursor.execute("ROLLBACK")
        return result

    def _results(self, batch: list[_Waiting]) -> _Results:
        """Run a batch. A verb that is refused has changed nothing; its refusal is its result."""
        if not self.writable:
            self._probe()
        results: _Results = []
        for waiter, verb, arguments, _ in batch:
            try:
                result = verb(*arguments)
            except ProxyError as refused:
                result = refused
            results.append((waiter, result))
        self._flush()
        return results

    def _cannot_write(self, batch: list[_Waiting]) -> None:
        self.writable = False
        self._late += [(None, verb, arguments, True) for _, verb, arguments, must_happen in batch if must_happen]
        self._tell([(item[0], _unavailable()) for item in batch])

    def _tell(self, results: _Results) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
            self._loop.call_soon_threadsafe(_deliver, results)

    def _shut(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # a reader may hold the log; the next start checkpoints
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()

    def _flush(self) -> None:
        """Write what the verbs of this transaction noted: each row, counter and total once."""
        book = self._book
        if book.opened:
            self._write(schema.INSERT_OPEN, book.opened)
        if book.reopened:
            self._write(schema.REPLACE_OPEN, list(chain.from_iterable(book.reopened.items())))
        if book.ended:
            self._write(schema.INSERT_ENDED, book.ended)
        if book.answered:
            self._write(schema.INSERT_ANSWERED, book.answered)
        self._write(schema.UPDATE_COUNTER, book.changed_counters())
        self._write(schema.UPSERT_TOTAL, book.changed_totals())
        book.written()

    def _write(self, statement: schema.Rows, values: list[object]) -> None:
        """Write rows; the values of one come after those of the other."""
        rows = len(values) // statement.columns
        if rows > schema.MOST_ROWS:
            most = schema.MOST_ROWS * statement.columns
            self._write(statement, values[:most])
            self._write(statement, values[most:])
        elif rows:
            self._cursor.execute(statement.text(rows), values)

    # --- counters ----------------------------------------------------------------------------------------------

    def _group(self, watch: Watch) -> Group:
        counters = [self._counter(*one) for one in zip(watch.limits, watch.windows, strict=True)]
        group = Group(counters, [limit.cap for limit in watch.limits])
        if len(self._book.groups) >= _GROUPS_KEPT:
            self._book.groups.clear()
        self._book.groups[watch] = group
        return group

    def _counter(self, limit: Limit, window: Window) -> Counter:
        """The counter of a limit in a window, made if there is none."""
        key = (limit.id, window.start)
        counter = self._book.counters.get(key)
        if counter is None:
            if len(self._book.counters) >= self._counters_kept:
                self._drop_past_counters(window.start)
            counter = self._load_counter(limit, window) or self._make_counter(limit, window)
            self._book.add_counter(key, counter)
        return counter

    def _drop_past_counters(self, now: int) -> None:
        """To look at all of them takes long where many are needed: next when there are twice as many."""
        self._book.drop_past_counters(now)
        self._counters_kept = max(_COUNTERS_KEPT, 2 * len(self._book.counters))

    def _looked_at(self, limit: Limit, now: float) -> Counter:
        """The counter as it stands, for somebody who looks. A short window that nobody used gets no row by that: every
        scrape would make one for every limit and minute."""
        window = budget.window(limit, now)
        if limit.per not in ("minute", "hour") or (limit.id, window.start) in self._book.counters:
            return self._counter(limit, window)
        found = self._load_counter(limit, window)
        if found is None:
            found = Counter(0, limit.meter, limit.models, window, limit.cap, self._spent_before(limit, window))
        return found

    def _load_counter(self, limit: Limit, window: Window) -> Counter | None:
        if limit.meter == "concurrent":
            return Counter(0, limit.meter, limit.models, window, limit.cap)
        row = self._db.execute(schema.SELECT_COUNTER, (limit.id, window.start)).fetchone()
        return None if row is None else Counter(row[0], limit.meter, limit.models, window, *row[1:])

    def _make_counter(self, limit: Limit, window: Window) -> Counter:
        opening = self._spent_before(limit, window)
        row = (limit.id, *window, limit.meter, json.dumps(limit.models), limit.cap, opening, opening)
        inserted = self._db.execute(schema.INSERT_COUNTER, row)
        return Counter(inserted.lastrowid or 0, limit.meter, limit.models, window, limit.cap, opening)

    def _spent_before(self, limit: Limit, window: Window) -> int:
        """What the rows say was spent in this window before the limit had a counter in it: a limit that is added in
        the middle of a month starts where the month stands. Meanwhile nothing else is written: measured, 0.2 s for each
        million requests of the window, 0.4 s where the limit names models."""
        if window.start >= self._known_from and not self._has_begun_since(window.start, limit.team):
            return 0  # as for nearly every new minute
        self._flush()  # what this transaction has ended counts too
        of: dict[str, Any] = {
            "first_id": first_id_at(window.start - LONGEST_BODY_S),
            "start_ms": window.start * 1000,
            "end_ms": window.end * 1000,
            "team": limit.team,
            "key": limit.key,
            "models": None,
        }
        if limit.models:
            models = [model for (model,) in self._db.execute(schema.MODELS_STARTED, of) if budget.covers(limit, model)]
            of["models"] = json.dumps(models)
        usd, tokens, requests = self._db.execute(schema.SPENT_BEFORE, of).fetchone()
        return int({"usd": usd, "tokens": tokens, "requests": requests}[limit.meter])

    def _has_begun_since(self, epoch_s: int, team: str | None) -> bool:
        """Whether a request of the team, or of any, has begun then or later, of those that this process has opened."""
        latest_ms = self._book.latest_ms
        latest = max(latest_ms.values(), default=0) if team is None else latest_ms.get(team, 0)
        return latest >= epoch_s * 1000

    # --- the verbs, run in a transaction -----------------------------------------------------------------------

    def _do_open(self, opening: Opening) -> tuple[int, ...]:
        group = self._book.groups.get(opening.watch) or self._group(opening.watch)
        return verbs.open_request(self._book, opening, group)

    def _do_standings(self, limits: Sequence[Limit], now: float) -> tuple[Standing, ...]:
        return tuple([self._looked_at(limit, now).standing(limit) for limit in limits])

    def _do_snapshot(self, limits: Sequence[Limit], now: float) -> Snapshot:
        totals = {TotalKey(*key): Total(*total) for key, total in self._book.totals.items()}
        return Snapshot(totals, self._do_standings(limits, now))

    def _do_submitted(self, job: Job, ended: AttemptEnd) -> bool:
        known = self._do_job(job.job_id)
        if known is not None:
            return known.request_id == job.request_id
        if not verbs.submitted(self._book, job, ended):
            return False
        self._db.execute(schema.INSERT_JOB, job_row(job))
        return True

    def _do_job(self, job_id: str) -> Job | None:
        row = self._db.execute(schema.SELECT_JOB, (job_id,)).fetchone()
        return None if row is None else job_of_row(*row)

    def _do_running_jobs(self) -> tuple[Job, ...]:
        self._flush()  # what this transaction has opened and ended counts too
        return tuple([job_of_row(*row) for row in self._db.execute(schema.SELECT_RUNNING_JOBS)])


def _unavailable() -> LedgerUnavailable:
    return LedgerUnavailable(
        "The proxy cannot write its ledger, so nothing may be spent. Retry shortly; your platform team is told.",
        headers={"Retry-After": "1"},
    )


def _deliver(results: _Results) -> None:
    for waiter, result in results:
        if waiter is None or waiter.done():
            continue  # nobody waits, or the one who did was cancelled; the verb has happened
        if isinstance(result, Exception):
            waiter.set_exception(result)
        else:
            waiter.set_result(result)
