"""Reads beside a live proxy: spend by dimension, and the promises that `check --ledger` looks at."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from oxyy_proxy.errors import StartupError
from oxyy_proxy.ledger.sqlite_reads import DIMENSIONS, INVARIANTS, Spend, read_spend, verify
from oxyy_proxy.rules.requestid import request_id
from oxyy_proxy.rules.types import Usage
from tests.ledger.making import (
    AMBIGUOUS,
    ANSWERED,
    NOW,
    answered,
    completed,
    job,
    limit,
    opening,
    target,
    unresolved,
    voided,
)
from tests.ledger.stores import SqliteStore

DAY = 86_400
BUDGET = limit(cap=100_000, team=None)

HELD, CAP, TOTALS, COST, AMBIGUITY, ONCE, OWNED, RUNS = (invariant.promise for invariant in INVARIANTS)


@pytest.fixture
async def filled(sqlite_store: SqliteStore) -> SqliteStore:
    """Six ended requests over two months and one open one."""
    store = sqlite_store
    store.open()
    mini = [target(50, 5, "mini")]
    for opened, end in (
        (one := opening([BUDGET], now=NOW - 20 * DAY), answered(one, 1, Usage(10, 1, 0, 100))),
        (one := opening([BUDGET], now=NOW, tag="nightly"), answered(one, 20, Usage(20, 2, 0, 200))),
        (one := opening([BUDGET], mini, now=NOW + 1, key="search-dev"), answered(one, 300, Usage(30, 3, 0, 300))),
        (
            one := opening([BUDGET], now=NOW + DAY, team="support", key="support-prod", endpoint="embeddings"),
            answered(one, 4000, Usage(40, 4, 0, 400)),
        ),
        (one := opening([BUDGET], now=NOW + 2), unresolved(one)),
        (one := opening([BUDGET], now=NOW + 3, tag="nightly"), voided(one)),
        (opening([BUDGET], now=NOW + 4, team="support", key="support-prod"), None),
    ):
        await store.ledger.open(opened)
        if end is not None:
            await store.ledger.settle(end)
    return store


def row(*group: str, of: tuple[int, int, int], tokens: int) -> Spend:
    """`of`: requests, cost, unresolved. `tokens`: of input; a tenth of them are cached, the output is ten times as
    many."""
    requests, cost, unresolved_nusd = of
    return Spend(group, requests, tokens, tokens // 10, tokens * 10, 0, 0.0, 0.0, 0, cost, unresolved_nusd)


BY = {
    ("team",): [row("support", of=(2, 4000, 0), tokens=40), row("search", of=(5, 321, 100), tokens=60)],
    ("key",): [
        row("support-prod", of=(2, 4000, 0), tokens=40),
        row("search-dev", of=(1, 300, 0), tokens=30),
        row("search-prod", of=(4, 21, 100), tokens=30),
    ],
    ("cost_center",): [
        row("CC-support", of=(2, 4000, 0), tokens=40),
        row("CC-search", of=(5, 321, 100), tokens=60),
    ],
    ("tag",): [row("", of=(5, 4301, 100), tokens=80), row("nightly", of=(2, 20, 0), tokens=20)],
    ("endpoint",): [row("embeddings", of=(1, 4000, 0), tokens=40), row("chat", of=(6, 321, 100), tokens=60)],
    ("model",): [row("gpt-5", of=(6, 4021, 100), tokens=70), row("mini", of=(1, 300, 0), tokens=30)],
    ("state",): [
        row("settled", of=(4, 4321, 0), tokens=100),
        row("open", of=(1, 0, 0), tokens=0),
        row("unresolved", of=(1, 0, 100), tokens=0),
        row("voided", of=(1, 0, 0), tokens=0),
    ],
    ("day",): [
        row("2026-11-19", of=(1, 4000, 0), tokens=40),
        row("2026-11-18", of=(5, 320, 100), tokens=50),
        row("2026-10-29", of=(1, 1, 0), tokens=10),
    ],
    ("month",): [row("2026-11", of=(6, 4320, 100), tokens=90), row("2026-10", of=(1, 1, 0), tokens=10)],
    ("team", "model"): [
        row("support", "gpt-5", of=(2, 4000, 0), tokens=40),
        row("search", "mini", of=(1, 300, 0), tokens=30),
        row("search", "gpt-5", of=(4, 21, 100), tokens=30),
    ],
    (): [row(of=(7, 4321, 100), tokens=100)],
}


async def test_spend_by_every_dimension_dearest_first(filled: SqliteStore) -> None:
    assert {by[0] for by in BY if len(by) == 1} == DIMENSIONS.keys()
    assert {by: await read_spend(filled.url, by) for by in BY} == BY


async def test_however_it_is_cut_the_sum_is_that_of_the_running_totals(filled: SqliteStore) -> None:
    totals = (await filled.ledger.snapshot((), NOW)).totals.values()
    for by in itertools.chain(*(itertools.combinations(DIMENSIONS, n) for n in (0, 1, 2))):
        rows = await read_spend(filled.url, by)
        assert sum(r.cost_nusd for r in rows) == sum(t.cost_nusd for t in totals) == 4321
        assert sum(r.input_tokens + r.output_tokens for r in rows) == sum(
            t.input_tokens + t.output_tokens for t in totals
        )
        assert sum(r.requests for r in rows) == 7


async def test_since_is_included_and_until_is_not(filled: SqliteStore) -> None:
    noon = datetime.fromtimestamp(NOW, UTC)

    async def cost(since: datetime | None, until: datetime | None) -> int:
        (found,) = await read_spend(filled.url, [], since, until)
        return found.cost_nusd

    second, step = timedelta(seconds=1), timedelta(milliseconds=1)
    assert await cost(noon, None) == 4320
    assert await cost(noon + step, None) == 4300
    assert await cost(None, noon) == 1
    assert await cost(None, noon + step) == 21
    assert await cost(noon, noon + second) == 20
    assert await cost(noon, noon + second + step) == 320
    assert await cost(noon, noon) == 0
    assert await cost(noon + timedelta(days=2), None) == 0
    in_tokyo = noon.astimezone(timezone(timedelta(hours=9)))
    assert await cost(in_tokyo, in_tokyo + second) == 20


async def test_a_request_belongs_to_the_month_it_started_in_not_that_of_its_head(sqlite_store: SqliteStore) -> None:
    """Its id is of the time when its head came; the body, and with it the hold, may be there only in the next month."""
    first = datetime(2026, 12, 1, tzinfo=UTC)
    head_came = first.timestamp() - 30
    opened = opening([], now=first.timestamp() + 0.25)
    opened = replace(opened, head=(request_id(head_came, "0" * 16), *opened.head[1:]))
    sqlite_store.open()
    await sqlite_store.ledger.open(opened)
    await sqlite_store.ledger.settle(answered(opened, 40))
    (month,) = await read_spend(sqlite_store.url, ["month"])
    (since,) = await read_spend(sqlite_store.url, [], since=first)
    (until,) = await read_spend(sqlite_store.url, [], until=first)
    assert (month.group, month.cost_nusd) == (("2026-12",), 40)
    assert (since.cost_nusd, until.cost_nusd) == (40, 0)


async def test_a_ledger_without_requests_has_spent_nothing(sqlite_store: SqliteStore) -> None:
    sqlite_store.open()
    assert await read_spend(sqlite_store.url, ["team"]) == []
    assert await read_spend(sqlite_store.url, []) == [Spend((), 0, 0, 0, 0, 0, 0.0, 0.0, 0, 0, 0)]


async def test_units_are_summed_to_the_millisecond(sqlite_store: SqliteStore) -> None:
    sqlite_store.open()
    for model, usage in (
        *[("tts", Usage(characters=7, audio_ms=1))] * 3,
        *[("veo", Usage(video_ms=100))] * 3,  # 0.1 + 0.1 + 0.1 is not 0.3
        ("dall-e", Usage(images=2)),
    ):
        opened = opening([], [target(model=model)])
        await sqlite_store.ledger.open(opened)
        await sqlite_store.ledger.settle(answered(opened, 3, usage))
    units = {
        found.group: (found.images, found.video_seconds, found.audio_seconds, found.characters)
        for found in [*await read_spend(sqlite_store.url, ["model"]), *await read_spend(sqlite_store.url, [])]
    }
    assert units == {
        ("tts",): (0, 0.0, 0.003, 21),
        ("veo",): (0, 0.3, 0.0, 0),
        ("dall-e",): (2, 0.0, 0.0, 0),
        (): (2, 0.3, 0.003, 21),
    }


# --- the promises ----------------------------------------------------------------------------------------------


async def test_a_clean_ledger_keeps_every_promise(filled: SqliteStore) -> None:
    verdict = await filled.verify()
    assert verdict.broken == ()
    assert (verdict.requests, verdict.open, verdict.unresolved, verdict.overruns) == (7, 1, 1, 2)


@pytest.fixture
async def filming(filled: SqliteStore) -> SqliteStore:
    """And two video jobs: one that ended, and one that runs."""
    for end in (completed, None):
        opened = opening([BUDGET], [target(100, 10, "veo")], now=NOW + 5, endpoint="videos")
        await filled.ledger.open(opened)
        await filled.ledger.submitted(job(opened), ANSWERED)
        if end is not None:
            usage = Usage(images=1, video_ms=8_000, audio_ms=1_001, characters=1)
            await filled.ledger.settle(end(opened, 40, usage))
    return filled


async def test_a_clean_ledger_with_jobs_keeps_every_promise(filming: SqliteStore) -> None:
    verdict = await filming.verify()
    assert (verdict.broken, verdict.requests, verdict.open) == ((), 9, 2)


RUNS_NOW = "(SELECT request_id FROM open_requests JOIN jobs USING (request_id))"
IDLE = "(SELECT min(request_id) FROM open_requests)"
ENDED = "(SELECT min(request_id) FROM requests WHERE state = 'settled')"


@pytest.mark.parametrize(
    ("broken", "promises"),
    [
        ("UPDATE counters SET spent = spent + 1", {HELD}),
        ("UPDATE counters SET spent = spent - 1", {HELD}),
        ("UPDATE counters SET unresolved = unresolved - 1", {HELD}),
        ("UPDATE counters SET opening = 1", {HELD}),
        ("UPDATE counters SET cap = 50", {CAP}),
        ("UPDATE open_records SET record = json_set(record, '$[2][0][1]', 1000000)", {CAP}),
        (f"UPDATE requests SET postings = json_set(postings, '$[0][2]', 2) WHERE request_id = {ENDED}", {HELD}),
        ("DELETE FROM counters", {HELD}),
        ("UPDATE totals SET cost_nusd = cost_nusd + 1 WHERE model = 'mini'", {TOTALS}),
        ("UPDATE totals SET output_tokens = 0 WHERE model = 'mini'", {TOTALS}),
        ("UPDATE totals SET unresolved = 0", {TOTALS}),
        ("DELETE FROM totals WHERE model = 'mini'", {TOTALS}),
        (f"UPDATE requests SET cost_nusd = 2 WHERE request_id = {ENDED}", {TOTALS}),
        (f"UPDATE requests SET team = 'other' WHERE request_id = {ENDED}", {TOTALS}),
        (f"DELETE FROM requests WHERE request_id = {ENDED}", {HELD, TOTALS}),
        ("UPDATE requests SET cost_nusd = 1 WHERE state = 'voided'", {COST}),
        ("UPDATE requests SET unresolved_nusd = 99 WHERE state = 'unresolved'", {AMBIGUITY}),
        ("UPDATE requests SET unresolved_nusd = 1 WHERE state = 'voided'", {AMBIGUITY}),
        (
            "UPDATE requests SET attempts = json_set(attempts, '$[0][5]', 'failed') WHERE state = 'unresolved'",
            {AMBIGUITY},
        ),
        (f"UPDATE open_records SET request_id = {ENDED} WHERE request_id = {IDLE}", {ONCE}),
        ("UPDATE totals SET images = 0", {TOTALS}),
        ("UPDATE totals SET video_ms = 7999 WHERE model = 'veo'", {TOTALS}),
        ("UPDATE totals SET audio_ms = 1000 WHERE model = 'veo'", {TOTALS}),
        ("UPDATE totals SET characters = 2 WHERE model = 'veo'", {TOTALS}),
        ("UPDATE requests SET images = 2 WHERE model_served = 'veo'", {TOTALS}),
        ("UPDATE requests SET video_seconds = 8.001 WHERE model_served = 'veo'", {TOTALS}),
        ("UPDATE requests SET audio_seconds = 0 WHERE model_served = 'veo'", {TOTALS}),
        (f"UPDATE jobs SET request_id = 'req_0' WHERE request_id = {RUNS_NOW}", {OWNED, RUNS}),
        (f"UPDATE jobs SET request_id = 'req_0' WHERE request_id <> {RUNS_NOW}", {OWNED}),
        ("UPDATE jobs SET team = 'support'", {OWNED}),
        (f"DELETE FROM jobs WHERE request_id = {RUNS_NOW}", {RUNS}),
        (f"UPDATE jobs SET request_id = {IDLE}, team = 'support' WHERE request_id <> {RUNS_NOW}", {RUNS}),
        (f"UPDATE open_records SET record = json_set(record, '$[3][0][5]', NULL) WHERE request_id = {RUNS_NOW}",
         {RUNS}),
        (f"UPDATE open_records SET record = json_set(record, '$[3][0][5]', 'failed') WHERE request_id = {RUNS_NOW}",
         {RUNS}),
        (f"UPDATE open_records SET record = json_set(record, '$[3][0][5]', 'failed') WHERE request_id = {IDLE}",
         {RUNS}),
    ],
)  # fmt: skip
async def test_a_broken_promise_is_named(filming: SqliteStore, broken: str, promises: set[str]) -> None:
    filming.path = filming.copy()
    db = sqlite3.connect(filming.path, isolation_level=None)
    changed = db.execute(broken).rowcount
    db.close()
    assert changed > 0
    found = (await filming.verify()).broken
    assert {each.split(": ")[0] for each in found} == promises
    assert all("\n" not in each and each.split(": ", 1)[1] for each in found)


async def filled_with(store: SqliteStore, minutes: int) -> None:
    """Of each minute one request that ended, one whose job ended and one whose job runs, on a counter of its own."""
    ledger, rate = store.ledger, limit("requests", "minute", 9)
    for minute in range(minutes):
        ended, filmed, films = (opening([rate], now=NOW + 60 * minute) for _ in range(3))
        await asyncio.gather(*(ledger.open(opened) for opened in (ended, filmed, films)))
        await asyncio.gather(*(ledger.submitted(job(opened), ANSWERED) for opened in (filmed, films)))
        await asyncio.gather(ledger.settle(answered(ended)), ledger.settle(completed(filmed)))


def work_of(query: str, ledger: Path) -> int:
    """How many instructions of its machine SQLite runs for a query that finds nothing, to the ten."""
    instructions = itertools.count()
    with contextlib.closing(sqlite3.connect(ledger)) as db:
        db.set_progress_handler(lambda: next(instructions) < 0, 10)
        assert db.execute(query).fetchall() == []
    return 10 * next(instructions)


async def test_the_work_of_checking_grows_as_the_ledger_does(tmp_path: Path) -> None:
    work = {}
    for minutes in (300, 1200):
        (tmp_path / f"{minutes}").mkdir()
        store = SqliteStore(tmp_path / f"{minutes}")
        store.open()
        await filled_with(store, minutes)
        await store.close()
        work[minutes] = {invariant.promise: work_of(invariant.query, store.path) for invariant in INVARIANTS}
    growth = {promise: work[1200][promise] / max(work[300][promise], 1) for promise in work[300]}
    # Four times the rows; to go through one table for each row of another would be sixteen times the work.
    assert {promise: times for promise, times in growth.items() if times > 5} == {}


async def test_no_more_violations_are_listed_than_asked_for(filled: SqliteStore) -> None:
    filled.path = filled.copy()
    db = sqlite3.connect(filled.path, isolation_level=None)
    db.execute("UPDATE requests SET unresolved_nusd = 7")
    db.close()
    found = (await verify(filled.url, shown=2)).broken
    assert len(found) == 3
    assert found[-1] == f"{AMBIGUITY}: … and 4 more"


async def test_checking_does_not_disturb_a_ledger_that_is_being_written(sqlite_store: SqliteStore) -> None:
    defects: list[Exception] = []
    ledger = sqlite_store.open(on_defect=defects.append)
    done = asyncio.Event()

    async def write() -> None:
        n = 0
        while not done.is_set():
            opened = opening([BUDGET])
            await ledger.open(opened)
            if n % 3:
                await ledger.next_attempt(opened.request_id, AMBIGUOUS, target(1), NOW)
            await ledger.settle(answered(opened, 1))
            n += 1

    async def check() -> list[int]:
        seen = []
        for _ in range(15):
            verdict = await sqlite_store.verify()
            assert verdict.broken == ()
            seen.append(verdict.requests)
        done.set()
        return seen

    writers = [asyncio.create_task(write()) for _ in range(3)]
    try:
        seen = await check()
    finally:
        done.set()
        await asyncio.gather(*writers)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]
    assert (ledger.writable, defects) == (True, [])


async def test_a_reader_sees_a_ledger_that_another_writer_holds(filled: SqliteStore) -> None:
    other = sqlite3.connect(filled.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert (await filled.verify()).requests == 7
    finally:
        other.close()


async def test_reading_changes_no_file(filled: SqliteStore) -> None:
    await filled.close()
    before = filled.path.read_bytes()
    assert (await filled.verify()).broken == ()
    await read_spend(filled.url, ["team"])
    assert filled.path.read_bytes() == before


@pytest.mark.parametrize("read", [verify, lambda url: read_spend(url, ["team"])])
async def test_what_is_no_ledger_is_refused_in_one_line(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "notes.txt").write_text("no database\n" * 100)
    for name, marked in (("other.db", "CREATE TABLE requests (a)"), ("newer.db", "PRAGMA application_id = 1870166393")):
        db = sqlite3.connect(tmp_path / name, isolation_level=None)
        db.execute(marked)
        db.execute("PRAGMA user_version = 99")
        db.close()
    for name, said in (
        ("missing.db", "there is no ledger"),
        ("notes.txt", "cannot be read"),
        ("other.db", "is not an oxyy-proxy ledger of this version"),
        ("newer.db", "is not an oxyy-proxy ledger of this version"),
    ):
        with pytest.raises(StartupError, match=said) as refused:
            await read(f"sqlite:///{tmp_path / name}")
        assert "\n" not in str(refused.value)
        assert str(tmp_path / name) in str(refused.value)
    assert not (tmp_path / "missing.db").exists()
    with pytest.raises(StartupError, match="is not a URL"):
        await read("postgres://localhost/ledger")
