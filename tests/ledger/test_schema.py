"""The schema and its steps: what a ledger file says of itself, and how an older one is brought up to date."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from oxyy_proxy.errors import InternalError, StartupError
from oxyy_proxy.ledger import schema, sqlite_open, sqlite_reads
from oxyy_proxy.ledger.base import Settlement
from oxyy_proxy.ledger.book import job_row
from oxyy_proxy.rules.figures import Total, TotalKey
from oxyy_proxy.rules.types import Usage
from tests.ledger.making import ANSWERED, COMPLETED, NOW, answered, completed, job, limit, opening
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


async def test_no_request_ends_in_a_state_that_there_is_not(sqlite_store: SqliteStore) -> None:
    opened = opening([limit()])
    ledger = sqlite_store.open()
    await ledger.open(opened)
    with pytest.raises(InternalError):
        await ledger.settle(replace(answered(opened, 40), state="paid"))  # type: ignore[arg-type]
    await ledger.close()
    assert ask(sqlite_store.path, "SELECT count(*) FROM requests") == [(0,)]


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
    assert sqlite_store.open().recovered == (1, 0, 0)
    assert (await sqlite_store.verify()).broken == ()


def first_ledger(path: Path) -> None:
    """A ledger as the first version left it: a settled request, an unresolved one, and one in flight."""
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(
        f"{schema.MIGRATIONS[0]} PRAGMA application_id = {schema.APPLICATION_ID}; PRAGMA user_version = 1;"
    )
    start, end, at = 1_793_491_200, 1_796_083_200, int(NOW * 1000)
    db.execute(
        "INSERT INTO counters VALUES (7, ?, ?, ?, 'usd', '[]', 1000, 5, 45, 30)", (limit(cap=1000).id, start, end)
    )
    db.execute("INSERT INTO totals VALUES ('search', 'CC-search', 'gpt-5', 'chat', 40, 3, 1, 4, 1, 1)")
    names = (
        "request_id, started_ms, finished_ms, team, key_id, cost_center, endpoint, model_requested, model_served,"
        " state, status, stream, input_tokens, cached_input_tokens, output_tokens, hold_nusd, cost_nusd,"
        " unresolved_nusd, usage_source, overrun, postings, attempts"
    )
    common = (at, at + 1000, "search", "search-prod", "CC-search", "chat", "gpt-5")
    answered = f'[["gpt-5",100,10,{at},{at + 1000},"answered","ok",200]]'
    ambiguous = f'[["gpt-5",30,10,{at},{at + 1000},"ambiguous","reset",null]]'
    marks = ", ".join("?" * 22)
    for row in (
        ("req_1", *common, "gpt-5", "settled", 200, 0, 3, 1, 4, 100, 40, 0, "estimated", 0, "[[7,0,40]]", answered),
        ("req_2", *common, None, "unresolved", 502, 0, 0, 0, 0, 100, 0, 30, None, 0, "[[7,30,0]]", ambiguous),
    ):
        db.execute(f"INSERT INTO requests ({names}) VALUES ({marks})", row)
    running = f'[["gpt-5",100,10,{at},null,null,null,null]]'
    db.execute(
        "INSERT INTO open_requests VALUES ('req_3', ?, 'search', 'search-prod', 'CC-search', NULL, 'chat', 'gpt-5', 0,"
        " 100, '[[7,100]]', ?)",
        (at, running),
    )
    db.close()


async def test_a_ledger_of_the_first_version_keeps_its_figures(sqlite_store: SqliteStore) -> None:
    budget, key = limit(cap=1000), TotalKey("search", "CC-search", "gpt-5", "chat")
    first_ledger(sqlite_store.path)
    with pytest.raises(StartupError, match=r"schema 1, this one checks 3\); the proxy .* brings it up to date"):
        await sqlite_store.verify()
    assert sum(row.cost_nusd for row in await sqlite_reads.read_spend(sqlite_store.url, ["team"])) == 40
    rows = sqlite_store.usage()
    ledger = sqlite_store.open()
    assert version(sqlite_store.path) == (schema.APPLICATION_ID, len(schema.MIGRATIONS))
    assert ledger.recovered == (1, 0, 0)
    assert [(s.spent, s.held) for s in await ledger.standings([budget], NOW)] == [(45, 130)]
    assert (await ledger.snapshot((), NOW)).totals == {key: Total(40, 3, 1, 4, estimated=1, unresolved=2)}
    assert sqlite_store.usage()[:2] == rows[:2]
    assert (await sqlite_store.verify()).broken == ()
    # And it is good for what is new.
    film = opening([budget])
    await ledger.open(film)
    await ledger.submitted(job(film), ANSWERED)
    ledger = await sqlite_store.reopen()
    assert ledger.recovered == (0, 0, 1)
    await ledger.settle(completed(film, 60, Usage(video_ms=8_000)))
    assert [(s.spent, s.held) for s in await ledger.standings([budget], NOW)] == [(105, 130)]
    assert (await ledger.snapshot((), NOW)).totals == {key: Total(100, 3, 1, 4, 1, 2, video_ms=8_000)}
    assert (await sqlite_store.verify()).broken == ()


async def test_what_the_second_version_left_open_stays_as_it_was(sqlite_store: SqliteStore) -> None:
    budget, views = limit(cap=1000), ("SELECT * FROM usage ORDER BY 1", "SELECT * FROM attempts ORDER BY 1, 2")
    first_ledger(sqlite_store.path)
    db = sqlite3.connect(sqlite_store.path, isolation_level=None)
    db.executescript(f"{schema.MIGRATIONS[1]} PRAGMA user_version = 2;")
    at = int(NOW * 1000)
    waits = f'[["gpt-5",9,1,{at},{at + 5},"failed","status",503],["gpt-5",100,10,{at},{at + 9},"answered","ok",200]]'
    db.execute("UPDATE open_requests SET attempts = ?, tag = 'a \"tag\"', stream = 1", (waits,))
    made = job(opening([budget]), "job_1")._replace(request_id="req_3")
    db.execute(schema.INSERT_JOB, job_row(made))
    db.close()
    before = [sqlite_store.usage(query) for query in views]
    ledger = sqlite_store.open()
    assert ledger.recovered == (0, 0, 1)
    assert await ledger.running_jobs() == (made,)
    assert [sqlite_store.usage(query) for query in views] == before
    assert (await sqlite_store.verify()).broken == ()
    await ledger.settle(Settlement("req_3", NOW + 90, "settled", 200, COMPLETED, "gpt-5", Usage(), 60))
    assert [(s.spent, s.held) for s in await ledger.standings([budget], NOW)] == [(105, 30)]
    assert (await sqlite_store.verify()).broken == ()


async def test_running_jobs_are_found_without_a_search_through_all_of_them(sqlite_store: SqliteStore) -> None:
    await sqlite_store.open().close()
    for query in (schema.SELECT_RUNNING_JOBS, schema.SELECT_LEFT_OPEN):
        plan = [str(step[3]) for step in ask(sqlite_store.path, f"EXPLAIN QUERY PLAN {query}")]
        (jobs,) = [step for step in plan if re.match(r"(SCAN|SEARCH) (j|jobs)\b", step)]
        assert re.match(r"SEARCH \w+ USING (COVERING )?INDEX jobs_by_request \(request_id=\?\)", jobs), plan


@pytest.mark.parametrize("query", [schema.SPENT_BEFORE, schema.MODELS_STARTED], ids=["spent", "models"])
async def test_what_a_window_has_spent_is_read_from_its_rows_alone_and_without_sorting_them(
    sqlite_store: SqliteStore, query: str
) -> None:
    sqlite_store.open()
    query = re.sub(r":\w+", "NULL", query)
    plan = [str(step[3]) for step in ask(sqlite_store.path, f"EXPLAIN QUERY PLAN {query}")]
    assert plan[0] == "SEARCH requests USING PRIMARY KEY (request_id>?)"
    assert not [step for step in plan if "GROUP BY" in step or "SCAN requests" in step]


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
