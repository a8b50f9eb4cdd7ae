from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.benchmarks import books


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A file with the view's columns that the check reads: two settled requests, one open."""
    path = tmp_path / "ledger.db"
    database = sqlite3.connect(path)
    with database:
        database.execute("create table usage (request_id text, state text, cost_nusd integer)")
        database.executemany(
            "insert into usage values (?, ?, ?)", [("a", "settled", 790), ("b", "settled", 790), ("c", "open", 0)]
        )
    database.close()
    return path


def _settle(ledger: Path, cost_nusd: int) -> None:
    database = sqlite3.connect(ledger)
    with database:
        database.execute("update usage set state = 'settled', cost_nusd = ? where state = 'open'", [cost_nusd])
    database.close()


def test_books_that_match_are_returned(ledger: Path) -> None:
    _settle(ledger, 790)
    assert books.check(ledger, 3, 790) == books.Books(3, 3, 2370)


def test_requests_of_before_are_not_asked_for(ledger: Path) -> None:
    _settle(ledger, 790)
    assert books.check(ledger, 2, 790, since="b") == books.Books(2, 2, 1580)


def test_a_request_that_never_settles_voids_the_run(ledger: Path) -> None:
    with pytest.raises(books.BooksDoNotMatch, match="settled=2"):
        books.check(ledger, 3, 790, within_s=0)


def test_a_wrong_price_voids_the_run(ledger: Path) -> None:
    _settle(ledger, 789)
    with pytest.raises(books.BooksDoNotMatch, match="cost_nusd=2369"):
        books.check(ledger, 3, 790, within_s=0)


def test_a_request_too_many_in_the_ledger_voids_the_run(ledger: Path) -> None:
    _settle(ledger, 790)
    with pytest.raises(books.BooksDoNotMatch, match="rows=3"):
        books.check(ledger, 2, 790, within_s=0)


def test_streams_that_settled_while_open_void_the_run(ledger: Path) -> None:
    with pytest.raises(books.BooksDoNotMatch, match="3 streams are open"):
        books.check_open(ledger, 3)
