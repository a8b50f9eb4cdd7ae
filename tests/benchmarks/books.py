"""The proxy's figures count only if its books are right: each request that was sent is in the ledger, at its price."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path


class BooksDoNotMatch(Exception):
    """What was sent and what the ledger holds differ: the run measured something else than this proxy."""


@dataclass(frozen=True, slots=True)
class Books:
    rows: int
    settled: int
    cost_nusd: int

    def plus(self, others: Books | None) -> Books:
        """The sum of two ledgers."""
        if others is None:
            return self
        return Books(self.rows + others.rows, self.settled + others.settled, self.cost_nusd + others.cost_nusd)


def read(ledger: Path, since: str = "") -> Books:
    """The totals of a ledger that may be in use, of requests whose id does not sort below `since`. The database is
    opened read-only."""
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=5) as database:
        row = database.execute(
            "select count(*), count(*) filter (where state = 'settled'), coalesce(sum(cost_nusd), 0) from usage"
            " where request_id >= ?",
            [since],
        ).fetchone()
    database.close()
    return Books(*row)


def check(ledger: Path, sent: int, cost_nusd_each: int, within_s: float = 5.0, since: str = "") -> Books:
    """Waits until every request is settled, then compares rows and money of requests whose id does not sort below
    `since`. Raises `BooksDoNotMatch`."""
    wanted = Books(sent, sent, sent * cost_nusd_each)
    until = time.monotonic() + within_s
    while (books := read(ledger, since)) != wanted:
        if time.monotonic() > until:
            raise BooksDoNotMatch(f"sent {wanted}, the ledger holds {books}")
        time.sleep(0.1)
    return books


def check_open(ledger: Path, sent: int) -> None:
    """Every stream that is still open has its hold in the ledger. Raises `BooksDoNotMatch`."""
    books = read(ledger)
    if (books.rows, books.settled) != (sent, 0):
        raise BooksDoNotMatch(f"{sent} streams are open, the ledger holds {books}")
