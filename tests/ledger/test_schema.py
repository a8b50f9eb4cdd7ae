"""The schema and its steps: what a ledger file says of itself, and how an older one is brought up to date."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from oxyy_proxy.errors import StartupError
from oxyy_proxy.ledger import schema, sqlite_open, sqlite_reads
from tests.ledger.making import NOW, answered, limit, opening
from tests.ledger.stores import SqliteStore

MORE = "CREATE TABLE notes (text TEXT NOT NULL); INSERT INTO notes VALUES ('made');"


def ask(path: Path, query: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def version(path: Path) -> tuple[object, object]:
    return ask(path, "PRAGMA application_id")[0][0], ask(path, "PRAGMA user_version")[0][0]


def know(monkeypatch: pytest.MonkeyPatch, *further: str) -> None:
    """From here on the program knows these steps too."""
    for module in (sqlite_open, sqlite_reads):
        monkeypatch.setattr(module, "MIGRATIONS", (*schema.MIGRATIONS, *further))


async def test_a_new_ledger_is_marked_and_of_this_version(sqlite_store: SqliteStore) -> None:
    await sqlite_store.open().close()
    assert version(sqlite_store.path) == (0x6F787979, len(schema.MIGRATIONS))
    assert sqlite_store.path.read_bytes()[68:72] == b"oxyy"


async def test_a_ledger_of_an_older_version_is_brought_to_this_one_with_its_rows(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, opened = limit(), opening([limit()])
    sqlite_store.open()
    await sqlite_store.ledger.open(opened)
    await sqlite_store.ledger.settle(answered(opened, 40))
    know(monkeypatch, MORE, "ALTER TABLE notes ADD COLUMN at INTEGER;")
    ledger = await sqlite_store.reopen()
    assert [(s.spent, s.held) for s in await ledger.standings([budget], NOW)] == [(40, 0)]
    assert (await sqlite_store.verify()).broken == ()
    await ledger.close()
    assert ask(sqlite_store.path, "SELECT * FROM notes") == [("made", None)]
    assert version(sqlite_store.path) == (schema.APPLICATION_ID, len(schema.MIGRATIONS) + 2)
    await sqlite_store.open().close()  # and only once
    assert ask(sqlite_store.path, "SELECT count(*) FROM notes") == [(1,)]


@pytest.mark.parametrize("failing", ["INSERT INTO notes VALUES (NULL);", "CREATE TABLE requests (a);", "no SQL;"])
async def test_a_step_that_fails_leaves_the_version_before_it(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    sqlite_store.open()
    await sqlite_store.ledger.open(opening([]))
    await sqlite_store.close()
    steps = len(schema.MIGRATIONS)
    with monkeypatch.context() as patched:
        know(patched, MORE, "CREATE TABLE half (a); " + failing)
        with pytest.raises(StartupError, match=r"^the ledger .*ledger.db cannot be used: [^\n]+$"):
            sqlite_store.open()
    assert version(sqlite_store.path) == (schema.APPLICATION_ID, steps + 1)
    assert ask(sqlite_store.path, "SELECT name FROM sqlite_schema WHERE name IN ('notes', 'half')") == [("notes",)]
    with pytest.raises(StartupError, match=rf"newer oxyy-proxy \(schema {steps + 1}, this one knows {steps}\)$"):
        sqlite_store.open()
    know(monkeypatch, MORE)
    assert sqlite_store.open().recovered == (1, 0)
    assert (await sqlite_store.verify()).broken == ()


async def test_every_step_can_be_made_one_after_the_other(sqlite_store: SqliteStore) -> None:
    """Not only all at once, as a new file does."""
    db = sqlite3.connect(sqlite_store.path, isolation_level=None)
    for step, script in enumerate(schema.MIGRATIONS, start=1):
        db.executescript(f"{script} PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = {step};")
    db.close()
    stepwise = ask(sqlite_store.path, "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2")
    sqlite_store.path = sqlite_store.path.with_name("new.db")
    await sqlite_store.open().close()
    assert ask(sqlite_store.path, "SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2") == stepwise


@pytest.mark.parametrize("milliseconds", [0, 1, 9, 29, 57, 499, 501, 999])
async def test_times_in_the_view_are_utc_and_exact_to_the_millisecond(
    sqlite_store: SqliteStore, milliseconds: int
) -> None:
    at = NOW + milliseconds / 1000 + 0.0001
    opened = opening([], now=at)
    sqlite_store.open()
    await sqlite_store.ledger.open(opened)
    await sqlite_store.ledger.settle(answered(opened, at=at))
    (row,) = sqlite_store.usage()
    said = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert row["started_at"] == row["finished_at"] == said
