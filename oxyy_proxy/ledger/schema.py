"""The SQLite schema, as the steps that made it. A step that has been released is never edited; add one.

Money is integer nano-USD, times are integer milliseconds since the epoch. `requests.postings` is JSON, an array of
`[counter id, held, spent]`: what the request has on each counter, so that counters can be proved from rows.
"""

from __future__ import annotations

APPLICATION_ID = 0x6F787979
"""Marks a SQLite file as a ledger of this program ("oxyy")."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE requests (
        request_id TEXT PRIMARY KEY,          -- begins with its time, so rows and index grow at their end
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER,
        team TEXT NOT NULL,
        key_id TEXT NOT NULL,
        cost_center TEXT NOT NULL,
        tag TEXT,
        endpoint TEXT NOT NULL,
        model_requested TEXT NOT NULL,
        model_served TEXT,
        state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'settled', 'voided', 'unresolved')),
        status INTEGER,
        attempts INTEGER NOT NULL DEFAULT 1,
        stream INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL DEFAULT 0,
        cached_input_tokens INTEGER NOT NULL DEFAULT 0,
        output_tokens INTEGER NOT NULL DEFAULT 0,
        images INTEGER NOT NULL DEFAULT 0,
        video_seconds REAL NOT NULL DEFAULT 0,
        audio_seconds REAL NOT NULL DEFAULT 0,
        characters INTEGER NOT NULL DEFAULT 0,
        hold_nusd INTEGER NOT NULL,
        cost_nusd INTEGER NOT NULL DEFAULT 0,
        unresolved_nusd INTEGER NOT NULL DEFAULT 0,
        usage_source TEXT,
        overrun INTEGER NOT NULL DEFAULT 0,
        error_code TEXT,
        postings TEXT NOT NULL
    );
    CREATE INDEX requests_unfinished ON requests (state) WHERE state IN ('open', 'unresolved');

    CREATE TABLE attempts (
        request_id TEXT NOT NULL,
        n INTEGER NOT NULL,
        model TEXT NOT NULL,
        worst_nusd INTEGER NOT NULL,
        worst_tokens INTEGER NOT NULL,
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER,
        outcome TEXT,                         -- answered, failed, ambiguous; null while it runs
        reason TEXT,
        status INTEGER,
        PRIMARY KEY (request_id, n)
    ) WITHOUT ROWID;

    CREATE TABLE counters (
        id INTEGER PRIMARY KEY,
        limit_id TEXT NOT NULL,
        window_start INTEGER NOT NULL,        -- epoch seconds
        window_end INTEGER NOT NULL,
        meter TEXT NOT NULL,
        models TEXT NOT NULL,                 -- JSON array of globs; empty: every model
        cap INTEGER NOT NULL,                 -- the highest under which a hold was made in this window
        opening INTEGER NOT NULL,             -- spent in the window before the limit was first used in it
        spent INTEGER NOT NULL,
        held INTEGER NOT NULL,
        UNIQUE (limit_id, window_start)
    );

    CREATE TABLE totals (
        team TEXT NOT NULL,
        cost_center TEXT NOT NULL,
        model TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        cost_nusd INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        cached_input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        estimated INTEGER NOT NULL,
        PRIMARY KEY (team, cost_center, model, endpoint)
    ) WITHOUT ROWID;

    CREATE VIEW usage AS SELECT
        request_id,
        strftime('%Y-%m-%dT%H:%M:%fZ', started_ms / 1000.0, 'unixepoch') AS started_at,
        strftime('%Y-%m-%dT%H:%M:%fZ', finished_ms / 1000.0, 'unixepoch') AS finished_at,
        team, key_id, cost_center, tag, endpoint, model_requested, model_served, state, status, attempts, stream,
        input_tokens, cached_input_tokens, output_tokens, images, video_seconds, audio_seconds, characters,
        hold_nusd, cost_nusd, unresolved_nusd, usage_source, overrun, error_code
    FROM requests;
    """,
)

INSERT_REQUEST = """
    INSERT INTO requests (request_id, started_ms, team, key_id, cost_center, tag, endpoint, model_requested, stream,
                          hold_nusd, postings)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

INSERT_ATTEMPT = """
    INSERT INTO attempts (request_id, n, model, worst_nusd, worst_tokens, started_ms) VALUES (?, ?, ?, ?, ?, ?)"""

END_ATTEMPT = """
    UPDATE attempts SET finished_ms = ?, outcome = ?, reason = ?, status = ? WHERE request_id = ? AND n = ?"""

NEXT_ATTEMPT = "UPDATE requests SET attempts = ?, hold_nusd = ?, postings = ? WHERE request_id = ?"

SETTLE_REQUEST = """
    UPDATE requests SET finished_ms = ?, model_served = ?, state = ?, status = ?, input_tokens = ?,
           cached_input_tokens = ?, output_tokens = ?, cost_nusd = ?, unresolved_nusd = ?, usage_source = ?,
           overrun = ?, error_code = ?, postings = ?
    WHERE request_id = ?"""

INSERT_COUNTER = """
    INSERT INTO counters (limit_id, window_start, window_end, meter, models, cap, opening, spent, held)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)"""

SELECT_COUNTER = """
    SELECT id, meter, models, cap, spent, held FROM counters WHERE limit_id = ? AND window_start = ?"""

UPDATE_COUNTER = "UPDATE counters SET spent = ?, held = ?, cap = ? WHERE id = ?"

UPSERT_TOTAL = "INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

SPENT_BEFORE = """
    SELECT team, key_id, coalesce(model_served, model_requested), sum(cost_nusd + unresolved_nusd),
           sum(input_tokens + output_tokens), count(*)
    FROM requests
    WHERE request_id >= ? AND started_ms >= ? AND state <> 'open'
    GROUP BY 1, 2, 3"""
