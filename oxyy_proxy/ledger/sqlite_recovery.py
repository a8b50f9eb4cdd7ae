"""Start-up on SQLite: what an earlier process left open is ended, or taken up again where a job still runs."""

from __future__ import annotations

import json
import sqlite3
from typing import Literal

from oxyy_proxy.ledger import schema, verbs
from oxyy_proxy.ledger.base import AttemptEnd, Recovered, Settlement
from oxyy_proxy.ledger.book import Book, Counter, Group, OpenRequest, Tried
from oxyy_proxy.rules.budget import Window


def load_totals(db: sqlite3.Connection, book: Book) -> None:
    for row in db.execute("SELECT * FROM totals"):
        book.totals[row[:4]] = row[4:]


def recover(db: sqlite3.Connection, book: Book, now: float) -> Recovered:
    """End what an earlier process left open: sent means unresolved with its hold, not sent means voided. What made a
    job stays open and holds again, on counters that everybody who asks for theirs will find. The ends are noted in
    `book`, to be written."""
    counters: dict[int, Counter] = {}
    found = {"unresolved": 0, "voided": 0, "running": 0}
    for *head, hold_nusd, postings, attempts, job_id in db.execute(schema.SELECT_LEFT_OPEN).fetchall():
        posted = json.loads(postings)
        group = Group([_counter(db, book, counters, counter_id) for counter_id, _ in posted])
        held = tuple([amount for _, amount in posted])
        *before, sent = json.loads(attempts) or [None]
        running = None if sent is None else tuple(sent[:4])
        tried = tuple([Tried(*attempt) for attempt in before])
        book.begin(OpenRequest(tuple(head), hold_nusd, group, held, running, tried, job_id=job_id))
        if job_id is not None:
            found["running"] += 1
            continue
        state: Literal["unresolved", "voided"] = "unresolved" if sent else "voided"
        found[state] += 1
        last = AttemptEnd("ambiguous", "proxy_died")
        verbs.settle(book, Settlement(head[0], now, state, 0, last, error_code="proxy_died", sent=bool(sent)))
    return Recovered(**found)


def _counter(db: sqlite3.Connection, book: Book, known: dict[int, Counter], counter_id: int) -> Counter:
    """The one counter of that id, also for those who look it up by its limit and window."""
    if counter_id not in known:
        limit_id, start, end, meter, models, cap, spent, unresolved = db.execute(
            schema.SELECT_COUNTER_BY_ID, (counter_id,)
        ).fetchone()
        counter = Counter(counter_id, meter, tuple(json.loads(models)), Window(start, end), cap, spent, unresolved)
        book.add_counter((limit_id, start), counter)
        known[counter_id] = counter
    return known[counter_id]
