"""Start-up: each row that was left open, on the figures and the book; whole restarts are in test_conformance*.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from oxyy_proxy.ledger import schema
from oxyy_proxy.ledger.book import Book, job_row, record_json
from oxyy_proxy.ledger.sqlite_recovery import load_totals, recover
from oxyy_proxy.rules.figures import Total, TotalKey
from tests.ledger.making import NOW, job, opening, rows, users

NEVER_TRIED = "[]"
IN_FLIGHT = '[["gpt-5",100,10,1,null,null,null,null]]'
SUBMITTED = '[["gpt-5",100,10,1,2,"answered","ok",200]]'
MINUTE = ("team usd/minute", 600)
MONTH = ("team usd/month", 0)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """Two counters: 1 of a minute, 2 of a month, with 5 spent and 20 unresolved each."""
    made = sqlite3.connect(":memory:", isolation_level=None)
    made.executescript("".join(schema.MIGRATIONS))
    for counter_id, (limit_id, start), end in ((1, MINUTE, 660), (2, MONTH, 2_678_400)):
        made.execute(
            "INSERT INTO counters VALUES (?, ?, ?, ?, 'usd', '[\"gpt-*\"]', 900, 0, 5, 20)",
            (counter_id, limit_id, start, end),
        )
    yield made
    made.close()


def left_open(db: sqlite3.Connection, postings: str, attempts: str, job_id: str | None = None) -> str:
    opened = opening()
    head = f'["{opened.request_id}",1,"search","search-prod","CC",null,"videos","gpt-5",1]'
    db.execute("INSERT INTO open_records VALUES (?, ?)", (opened.request_id, f"[{head},100,{postings},{attempts}]"))
    if job_id is not None:
        db.execute(schema.INSERT_JOB, job_row(job(opened, job_id)))
    return opened.request_id


def figures(book: Book) -> dict[tuple[str, int], tuple[int, int, int, int]]:
    """Of each counter: spent, held, unresolved, users."""
    return {key: (c.spent, c.held, c.unresolved, users(book, c)) for key, c in book.counters.items()}


def test_what_made_a_job_holds_again_on_the_counter_that_others_find(db: sqlite3.Connection) -> None:
    book = Book()
    first = left_open(db, "[[1,100],[2,100]]", SUBMITTED, "job_1")
    second = left_open(db, "[[2,30]]", SUBMITTED, "job_2")
    assert recover(db, book, NOW) == (0, 0, 2)
    assert figures(book) == {MINUTE: (5, 120, 20, 1), MONTH: (5, 150, 20, 2)}
    assert {name: request.job_id for name, request in book.open.items()} == {first: "job_1", second: "job_2"}
    assert book.parked == {first, second}
    assert book.ended == []
    assert book.changed_counters() == []  # what is held is in the open rows
    minute = book.counters[MINUTE]
    assert (minute.id, minute.meter, minute.models) == (1, "usd", ("gpt-*",))
    assert (minute.window, minute.cap) == ((600, 660), 900)
    request = book.open[first]
    assert request.group.counters == (minute, book.counters[MONTH])
    assert (request.held, request.watch) == ((100, 100), None)
    assert (request.head[8], request.hold_nusd, request.running, request.before) == (
        True, 100, ("gpt-5", 100, 10, 1), (),
    )  # fmt: skip
    (record,) = db.execute("SELECT record FROM open_records WHERE request_id = ?", (first,)).fetchone()
    assert record_json(request, (2, "answered", "ok", 200)) == record  # as it was


@pytest.mark.parametrize(
    ("attempts", "found", "left", "state"),
    [
        (IN_FLIGHT, (1, 0, 0), (5, 120, 120, 0), "unresolved"),
        (NEVER_TRIED, (0, 1, 0), (5, 20, 20, 0), "voided"),
    ],
)
def test_what_made_none_is_ended(
    db: sqlite3.Connection, attempts: str, found: tuple[int, ...], left: tuple[int, ...], state: str
) -> None:
    book = Book()
    left_open(db, "[[1,100]]", attempts)
    assert recover(db, book, NOW) == found
    assert figures(book) == {MINUTE: left}
    assert (book.open, book.parked) == ({}, set())
    (row,) = rows(book.ended, 28)
    assert (row[18], row[25]) == (state, "proxy_died")


def test_a_ledger_that_was_closed_at_rest_has_nothing_to_recover(db: sqlite3.Connection) -> None:
    book = Book()
    assert recover(db, book, NOW) == (0, 0, 0)
    assert figures(book) == {}


def test_totals_are_read_as_they_were_written(db: sqlite3.Connection) -> None:
    book, key, total = Book(), TotalKey("search", "CC", "veo-3", "videos"), Total(*range(1, 11))
    db.execute(schema.UPSERT_TOTAL.text(1), (*key, *total))
    load_totals(db, book)
    assert book.totals == {key: total}
    names = [row[1] for row in db.execute("PRAGMA table_info(totals)")]
    assert names == [*TotalKey._fields, *Total._fields]
