"""Ledgers that have served for long: `python -m tests.benchmarks.growth --help`.

Rows are settled requests of several teams and models over the last sixty days, the benchmark's own team among them,
with the counters and totals that a proxy would have left: `oxyy-proxy check --ledger` finds nothing wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

from oxyy_proxy import policyfiles
from oxyy_proxy.ledger.sqlite_open import open_ledger
from oxyy_proxy.rules import budget
from oxyy_proxy.rules.requestid import request_id
from oxyy_proxy.rules.types import Limit
from tests.benchmarks.progress import Progress
from tests.benchmarks.rounds import Phase, Plan, Step, play
from tests.benchmarks.targets import PROXY, Stage, write_policies
from tests.benchmarks.workloads import JSON

DAYS = 60
CONNECTIONS, SECONDS = 32, 0.5
BLOCK = 500_000
"""Rows of one statement, between two looks at the progress."""

BYTES_PER_ROW = 600
"""At most, with the counters; what the proxy writes meanwhile is little."""

_MODELS = ("gpt-5", "gpt-5-mini", "gpt-4.1", "gpt-4o", "o4-mini")
_TEAMS = ("bench", "search", "support", "billing", "growth", "legal", "mobile", "data")

_ROWS = """
    INSERT INTO requests (request_id, started_ms, finished_ms, team, key_id, cost_center, endpoint, model_requested,
                          model_served, state, status, stream, input_tokens, cached_input_tokens, output_tokens,
                          hold_nusd, cost_nusd, unresolved_nusd, usage_source, overrun, postings, attempts)
    WITH RECURSIVE
        numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :last),
        drawn AS (
            SELECT n, :began_ms + n * :span_ms / :rows AS at_ms, n * 2654435761 % 1000003 AS dice FROM numbers
        ),
        used AS (
            SELECT n, at_ms, t.name AS team, t.cost_center, t.key_id, m.name AS model,
                   20 + dice % 3000 AS input, 1 + dice / 7 % 800 AS output, dice % 3 = 0 AS stream
            FROM drawn CROSS JOIN models AS m ON m.id = dice % :models CROSS JOIN teams AS t ON t.id = dice / 5 % :teams
        ),
        priced AS (SELECT *, input * 1250 + output * 10000 AS cost, at_ms + 300 + output * 9 AS done_ms FROM used)
    SELECT printf('req_%011x%016x', at_ms, n), at_ms, done_ms, team, key_id, cost_center, 'chat', model,
           model, 'settled', 200, stream, input, 0, output, cost + 2000000, cost, 0, 'upstream', 0,
           replace(replace(replace(iif(team = 'bench', of_team, of_everybody), 'usd', cost),
                           'tokens', input + output), 'requests', 1),
           printf('[["%s",%d,%d,%d,%d,"answered","ok",200]]', model, cost + 2000000, input + 1000, at_ms, done_ms)
    FROM priced CROSS JOIN windows ON minute = at_ms / 60000"""

_TOTALS = """
    INSERT INTO totals (team, cost_center, model, endpoint, cost_nusd, input_tokens, cached_input_tokens, output_tokens,
                        estimated, unresolved)
    SELECT team, cost_center, model_served, endpoint, sum(cost_nusd), sum(input_tokens), 0, sum(output_tokens), 0, 0
    FROM requests GROUP BY team, cost_center, model_served, endpoint"""

_COUNTER = """
    INSERT INTO counters (id, limit_id, window_start, window_end, meter, models, cap, opening, unresolved, spent)
    SELECT ?, ?, ?, ?, ?, '[]', ?, 0, 0, coalesce(sum({spent}), 0)
    FROM requests WHERE request_id >= ? AND request_id < ? {team}"""

_SPENT = {"usd": "cost_nusd", "tokens": "input_tokens + output_tokens", "requests": "1"}

Windows = dict[tuple[Limit, budget.Window], int]
"""The limits' windows of the whole span, each with the id of its counter."""


def that_fit(folder: Path, sizes: Sequence[int]) -> tuple[list[int], list[str]]:
    """Of these numbers of rows those whose ledgers fit into `folder` side by side; of the others, what is missing."""
    fit, notes, free = [], [], shutil.disk_usage(folder).free
    for rows in sizes:
        wanted = rows * BYTES_PER_ROW
        if wanted <= free:
            fit.append(rows)
            free -= wanted
        else:
            figures = f"{wanted / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
            notes.append(f"a ledger of {rows:,} rows was left out: it wants {figures} in {folder}")
    return fit, notes


def steps(sizes: Sequence[int], plan: Plan) -> int:
    return len(plan.numbers) + sum(-(-rows // BLOCK) for rows in sizes)


def measure(stage: Stage, sizes: Sequence[int], plan: Plan, key: str, step: Step) -> dict[int, list[Phase]]:
    """JSON on 32 connections against proxies that take turns, each on a ledger of so many rows: the rounds by rows."""
    names = {}
    with ExitStack() as running:
        targets = []
        for rows in sizes:
            folder = stage.folder / f"ledger-{rows}"
            folder.mkdir(mode=0o700)
            if rows:
                fill(folder / "ledger.db", rows, time.time(), step)
            targets.append(target := stage.start_in(folder, PROXY))
            running.callback(target.stop)
            names[rows] = target.name = f"{PROXY} on {rows:,} rows"
        rounds = play(targets, [(JSON, CONNECTIONS, SECONDS)], plan, key, step)
        return {rows: rounds.phases[JSON.name, CONNECTIONS, name] for rows, name in names.items()}


def fill(ledger: Path, rows: int, now: float, step: Step = lambda _: None, days: int = DAYS) -> None:
    """A new ledger of that many settled requests, spread over `days` until the minute before `now` (epoch seconds).
    Calls `step` once for each BLOCK of rows."""
    asyncio.run(_made(ledger))
    with tempfile.TemporaryDirectory() as policies:
        write_policies(Path(policies))
        policy = policyfiles.load(Path(policies), now).policy
    (team,) = {key.team.name: key.team for key in policy.keys.values()}.values()
    limits = [limit for limit in (*policy.limits, *team.limits) if limit.per is not None]
    ended = int(now) // 60 * 60
    began = ended - days * 86400
    db = sqlite3.connect(ledger, isolation_level=None)
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("BEGIN")
    windows = _windows(db, limits, range(began, ended, 60))
    db.execute("CREATE TEMP TABLE models (id INTEGER PRIMARY KEY, name)")
    db.executemany("INSERT INTO models VALUES (?, ?)", enumerate(_MODELS))
    db.execute("CREATE TEMP TABLE teams (id INTEGER PRIMARY KEY, name, cost_center, key_id)")
    db.executemany(
        "INSERT INTO teams VALUES (?, ?, ?, ?)",
        [(number, name, f"CC-{number + 1}", f"{name}-1") for number, name in enumerate(_TEAMS)],
    )
    span = {"began_ms": began * 1000, "span_ms": (ended - began) * 1000, "rows": rows}
    for first, last in pairwise([*range(0, rows, BLOCK), rows]):
        step(f"a ledger of {rows:,} rows: {first:,} made")
        about = {"first": first, "last": last, "models": len(_MODELS), "teams": len(_TEAMS)}
        db.execute(_ROWS, {**span, **about})
    _count(db, windows)
    db.execute(_TOTALS)
    db.execute("COMMIT")
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    _written(ledger)


async def _made(ledger: Path) -> None:
    await open_ledger(f"sqlite:///{ledger}", "process").close()


def _windows(db: sqlite3.Connection, limits: Sequence[Limit], minutes: range) -> Windows:
    """Makes a table of what a row of each minute has on its counters, the amounts named by their meters."""
    known: Windows = {}

    def lines() -> Iterator[tuple[int, str, str]]:
        for at in minutes:
            ids = [(limit, known.setdefault((limit, budget.window(limit, at)), len(known) + 1)) for limit in limits]
            every = [f"[{counter},0,{limit.meter}]" for limit, counter in ids]
            shared = [f"[{counter},0,{limit.meter}]" for limit, counter in ids if limit.team is None]
            yield at // 60, f"[{','.join(every)}]", f"[{','.join(shared)}]"

    db.execute("CREATE TEMP TABLE windows (minute INTEGER PRIMARY KEY, of_team, of_everybody)")
    db.executemany("INSERT INTO windows VALUES (?, ?, ?)", lines())
    return known


def _count(db: sqlite3.Connection, windows: Windows) -> None:
    """The counters, each with what its rows have spent."""
    for (limit, window), counter in windows.items():
        statement = _COUNTER.format(spent=_SPENT[limit.meter], team="AND team = ?" if limit.team else "")
        row = (counter, limit.id, *window, limit.meter, limit.cap)
        bounds = (request_id(window.start, ""), request_id(window.end, ""))
        db.execute(statement, (*row, *bounds, *([limit.team] if limit.team else [])))


def _written(path: Path) -> None:
    """Wait for the disk now, not while somebody measures."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.growth",
        description="Makes a ledger of many settled requests, to see how the proxy fares on it.",
        epilog="example: python -m tests.benchmarks.growth /var/tmp/big.db 1000000",
    )
    parser.add_argument("ledger", type=Path, help="a file that does not exist yet")
    parser.add_argument("rows", type=int, help="how many requests")
    options = parser.parse_args(arguments)
    ledger, rows = options.ledger.resolve(), options.rows
    if ledger.exists():
        parser.error(f"{ledger} exists")
    if rows < 1:
        parser.error("at least one row")
    _, notes = that_fit(ledger.parent, [rows])
    if notes:
        parser.error(notes[0])
    with Progress(-(-rows // BLOCK)) as step:
        fill(ledger, rows, time.time(), step)
    return 0


if __name__ == "__main__":
    sys.exit(main())
