"""Reads of a SQLite ledger beside a live proxy, or without one: read-only, so that the proxy stays its one writer."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import aiosqlite

from oxyy_proxy.errors import StartupError
from oxyy_proxy.ledger.schema import APPLICATION_ID, MIGRATIONS
from oxyy_proxy.ledger.sqlite import LONGEST_BODY_S
from oxyy_proxy.ledger.sqlite_open import ledger_path
from oxyy_proxy.rules.requestid import first_id_at

DIMENSIONS = {
    "team": "team",
    "key": "key_id",
    "cost_center": "cost_center",
    "tag": "coalesce(tag, '')",
    "endpoint": "endpoint",
    "model": "coalesce(model_served, model_requested)",
    "state": "state",
    "day": "substr(started_at, 1, 10)",
    "month": "substr(started_at, 1, 7)",
}
"""What spend may be grouped by -> its expression on the view `usage`; days and months are UTC's."""


class Spend(NamedTuple):
    """One row of a report: the values of the dimensions, and sums. Seconds are exact to the millisecond."""

    group: tuple[str, ...]
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    images: int
    video_seconds: float
    audio_seconds: float
    characters: int
    cost_nusd: int
    unresolved_nusd: int


@dataclass(frozen=True, slots=True)
class Invariant:
    """One promise about the ledger, and what breaks it: a query whose every row is a violation."""

    promise: str
    query: str


_POSTED = """
    posted AS (
        SELECT id, sum(open) AS open, sum(unresolved) AS unresolved, sum(spent) AS spent, sum(overrun) AS overrun
        FROM (
            SELECT json_extract(p.value, '$[0]') AS id, json_extract(p.value, '$[1]') AS open, 0 AS unresolved,
                   0 AS spent, 0 AS overrun
            FROM open_requests, json_each(open_requests.postings) AS p
            UNION ALL
            SELECT json_extract(p.value, '$[0]'), 0, json_extract(p.value, '$[1]'), json_extract(p.value, '$[2]'),
                   requests.overrun * (json_extract(p.value, '$[1]') + json_extract(p.value, '$[2]'))
            FROM requests, json_each(requests.postings) AS p
        ) GROUP BY id
    )"""
"""What rows have on each counter: held by open ones, kept for unresolved ones, spent, and that of overruns. To be
joined on `+c.id`: a plain column lends its affinity to the comparison, and then SQLite looks nothing up, but goes
through all of this for each counter."""

INVARIANTS = (
    Invariant(
        "held and spent of each counter equal what its requests have on it",
        f"""
        WITH {_POSTED}
        SELECT c.limit_id || ' from ' || datetime(c.window_start, 'unixepoch') || ': unresolved ' || c.unresolved
               || ', rows say ' || coalesce(p.unresolved, 0) || '; spent ' || c.spent || ', rows say '
               || (c.opening + coalesce(p.spent, 0))
        FROM counters AS c LEFT JOIN posted AS p ON p.id = +c.id
        WHERE c.unresolved <> coalesce(p.unresolved, 0) OR c.spent <> c.opening + coalesce(p.spent, 0)
        UNION ALL
        SELECT 'counter ' || id || ' is missing: rows say unresolved ' || unresolved || ', spent ' || spent
        FROM posted WHERE id NOT IN (SELECT id FROM counters)""",
    ),
    Invariant(
        "spent + held never passes a cap, overruns apart",
        f"""
        WITH {_POSTED}
        SELECT c.limit_id || ' from ' || datetime(c.window_start, 'unixepoch') || ': '
               || (c.spent + c.unresolved + coalesce(p.open, 0)) || ' of ' || c.cap
        FROM counters AS c LEFT JOIN posted AS p ON p.id = +c.id
        WHERE c.spent + c.unresolved + coalesce(p.open, 0) - coalesce(p.overrun, 0) > max(c.cap, c.opening)""",
    ),
    Invariant(
        "totals equal the rows",
        """
        SELECT team || ' ' || model || ' ' || endpoint || ': rows minus totals is ' || sum(cost) || ' nano-USD, '
               || sum(input) || ' + ' || sum(output) || ' tokens, ' || sum(unresolved) || ' unresolved, '
               || sum(images) || ' images, ' || sum(video) || ' + ' || sum(audio) || ' ms of video + audio, '
               || sum(characters) || ' characters'
        FROM (
            SELECT team, cost_center, coalesce(model_served, json_extract(attempts, '$[#-1][0]')) AS model, endpoint,
                   cost_nusd AS cost, input_tokens AS input, output_tokens AS output,
                   state = 'unresolved' AS unresolved, images, CAST(round(video_seconds * 1000) AS INTEGER) AS video,
                   CAST(round(audio_seconds * 1000) AS INTEGER) AS audio, characters
            FROM requests WHERE state <> 'voided'
            UNION ALL
            SELECT team, cost_center, model, endpoint, -cost_nusd, -input_tokens, -output_tokens, -unresolved,
                   -images, -video_ms, -audio_ms, -characters
            FROM totals
        )
        GROUP BY team, cost_center, model, endpoint
        HAVING sum(cost) <> 0 OR sum(input) <> 0 OR sum(output) <> 0 OR sum(unresolved) <> 0 OR sum(images) <> 0
               OR sum(video) <> 0 OR sum(audio) <> 0 OR sum(characters) <> 0""",
    ),
    Invariant(
        "only settled requests cost",
        """
        SELECT request_id || ': ' || state || ' with cost ' || cost_nusd FROM requests
        WHERE state <> 'settled' AND cost_nusd <> 0""",
    ),
    Invariant(
        "what a request may still cost is the sum of its ambiguous attempts",
        """
        SELECT r.request_id || ': ' || r.unresolved_nusd || ', attempts say '
               || coalesce(sum(json_extract(a.value, '$[1]')), 0)
        FROM requests AS r LEFT JOIN json_each(r.attempts) AS a ON json_extract(a.value, '$[5]') = 'ambiguous'
        GROUP BY r.request_id
        HAVING r.unresolved_nusd <> coalesce(sum(json_extract(a.value, '$[1]')), 0)""",
    ),
    Invariant(
        "no request is both open and ended",
        "SELECT request_id || ': open, and ' || state FROM requests JOIN open_requests USING (request_id)",
    ),
    Invariant(
        "each job is of a request of its team",
        """
        SELECT 'job ' || job_id || ': ' || jobs.request_id || ' of team ' || jobs.team || ' is '
               || coalesce('of team ' || coalesce(o.team, r.team), 'missing')
        FROM jobs LEFT JOIN open_requests AS o USING (request_id) LEFT JOIN requests AS r USING (request_id)
        WHERE coalesce(o.team, r.team) IS NOT jobs.team""",
    ),
    Invariant(
        "the last attempt of an open request runs, or has made a job",
        """
        SELECT request_id || ': ' || coalesce('job ' || job_id, 'no job') || ', and the last attempt '
               || coalesce('ended ' || outcome, 'runs')
        FROM (
            SELECT o.request_id, j.job_id, json_extract(o.attempts, '$[#-1][5]') AS outcome
            FROM open_requests AS o LEFT JOIN jobs AS j USING (request_id)
        )
        WHERE outcome IS NOT iif(job_id IS NULL, NULL, 'answered')""",
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check of a ledger found: broken promises, each with its first violations; rows looked at; overruns."""

    broken: tuple[str, ...]
    requests: int
    unresolved: int
    open: int
    overruns: int


async def read_spend(
    url: str, by: Sequence[str], since: datetime | None = None, until: datetime | None = None
) -> list[Spend]:
    """Sums by the named DIMENSIONS over requests that started in [since, until), dearest first. Raises StartupError."""
    columns = [DIMENSIONS[name] for name in by]
    where, bounds = _between(since, until)
    group = f"GROUP BY {', '.join(str(n + 1) for n in range(len(columns)))}" if columns else ""
    query = f"""
        SELECT {"".join(f"{column}, " for column in columns)} count(*), coalesce(sum(input_tokens), 0),
               coalesce(sum(cached_input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(images), 0),
               coalesce(sum(CAST(round(video_seconds * 1000) AS INTEGER)), 0) / 1000.0,
               coalesce(sum(CAST(round(audio_seconds * 1000) AS INTEGER)), 0) / 1000.0,
               coalesce(sum(characters), 0), coalesce(sum(cost_nusd), 0) AS cost, coalesce(sum(unresolved_nusd), 0)
        FROM usage {where} {group} ORDER BY cost DESC, 1"""
    async with _reading(url) as db:
        rows = await db.execute_fetchall(query, bounds)
    return [Spend(tuple(map(str, row[: len(by)])), *row[len(by) :]) for row in rows]


async def verify(url: str, shown: int = 5) -> Verdict:
    """Check every invariant on one snapshot of the ledger. `shown`: violations named of each. Raises StartupError, also
    for a ledger that a proxy of this version has not opened yet."""
    broken = []
    async with _reading(url) as db:
        (version,) = await db.execute_fetchall("SELECT (SELECT * FROM pragma_user_version)")
        if version[0] < len(MIGRATIONS):
            raise StartupError(
                f"the ledger {ledger_path(url)} was written by an older oxyy-proxy (schema {version[0]}, this one "
                f"checks {len(MIGRATIONS)}); the proxy of this version brings it up to date when it starts"
            )
        await db.execute("BEGIN")
        for invariant in INVARIANTS:
            rows = list(await db.execute_fetchall(invariant.query))
            broken += [f"{invariant.promise}: {row[0]}" for row in rows[:shown]]
            if len(rows) > shown:
                broken.append(f"{invariant.promise}: … and {len(rows) - shown} more")
        figures = await db.execute_fetchall(
            "SELECT count(*), coalesce(sum(state = 'unresolved'), 0), coalesce(sum(state = 'open'), 0),"
            " coalesce(sum(overrun), 0) FROM usage"
        )
    return Verdict(tuple(broken), *next(iter(figures)))


def _between(since: datetime | None, until: datetime | None) -> tuple[str, tuple[Any, ...]]:
    """A condition on the start, which the primary key narrows: an id is of the time of the request's head, the start
    is when its body was there."""
    conditions: list[str] = []
    bounds: list[str] = []
    if since is not None:
        conditions += ["request_id >= ?", "started_at >= ?"]
        bounds += [first_id_at(int(since.timestamp()) - LONGEST_BODY_S), _written(since)]
    if until is not None:
        conditions += ["request_id < ?", "started_at < ?"]
        bounds += [first_id_at(int(until.timestamp()) + 1), _written(until)]
    return ("WHERE " + " AND ".join(conditions) if conditions else "", tuple(bounds))


def _written(when: datetime) -> str:
    """As the view `usage` writes times; text in this form sorts as time does."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@asynccontextmanager
async def _reading(url: str) -> AsyncIterator[aiosqlite.Connection]:
    path = ledger_path(url)
    if not path.exists():
        raise StartupError(f"there is no ledger {path}; name it with --ledger sqlite:///FILE")
    try:
        async with aiosqlite.connect(f"file:{quote(str(path))}?mode=ro", uri=True) as db:
            await db.execute("PRAGMA query_only = 1")
            (found,) = await db.execute_fetchall("SELECT (SELECT * FROM pragma_application_id)")
            (version,) = await db.execute_fetchall("SELECT (SELECT * FROM pragma_user_version)")
            if found[0] != APPLICATION_ID or version[0] > len(MIGRATIONS):
                raise StartupError(f"{path} is not an oxyy-proxy ledger of this version")
            yield db
    except sqlite3.Error as error:
        raise StartupError(f"the ledger {path} cannot be read: {error}") from None
