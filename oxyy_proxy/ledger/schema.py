"""The SQLite schema, as the steps that made it. A step that has been released is never edited; add one.

Money is integer nano-USD, times are integer milliseconds since the epoch. A request is a row of `open_records` while it
runs, which the view `open_requests` reads, and a row of `requests` for ever after: few pages are written per request,
and start-up finds what was left open without a search. What is held is not stored a second time: it is the sum over
open rows, plus each counter's `unresolved`. A job runs while its request is open; its row stays for ever, as it says
whose it is.
"""

from __future__ import annotations

APPLICATION_ID = 0x6F787979
"""Marks a SQLite file as a ledger of this program ("oxyy")."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE open_requests (
        request_id TEXT PRIMARY KEY,          -- begins with its time, so that the tables grow at their end
        started_ms INTEGER NOT NULL,
        team TEXT NOT NULL,
        key_id TEXT NOT NULL,
        cost_center TEXT NOT NULL,
        tag TEXT,
        endpoint TEXT NOT NULL,
        model_requested TEXT NOT NULL,
        stream INTEGER NOT NULL,
        hold_nusd INTEGER NOT NULL,
        postings TEXT NOT NULL,               -- JSON: [[counter id, held], ...]
        attempts TEXT NOT NULL                -- JSON: [[model, worst nano-USD, worst tokens, started ms, finished ms,
    ) WITHOUT ROWID;                          --         outcome, reason, status], ...]; the last one runs

    CREATE TABLE requests (
        request_id TEXT PRIMARY KEY,
        started_ms INTEGER NOT NULL,
        finished_ms INTEGER NOT NULL,
        team TEXT NOT NULL,
        key_id TEXT NOT NULL,
        cost_center TEXT NOT NULL,
        tag TEXT,
        endpoint TEXT NOT NULL,
        model_requested TEXT NOT NULL,
        model_served TEXT,
        state TEXT NOT NULL                   -- not IN (…), for which a table is built each time
            CHECK (state = 'settled' OR state = 'voided' OR state = 'unresolved'),
        status INTEGER,
        stream INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        cached_input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        images INTEGER NOT NULL DEFAULT 0,
        video_seconds REAL NOT NULL DEFAULT 0,
        audio_seconds REAL NOT NULL DEFAULT 0,
        characters INTEGER NOT NULL DEFAULT 0,
        hold_nusd INTEGER NOT NULL,
        cost_nusd INTEGER NOT NULL,
        unresolved_nusd INTEGER NOT NULL,
        usage_source TEXT,
        overrun INTEGER NOT NULL,
        error_code TEXT,
        postings TEXT NOT NULL,               -- JSON: [[counter id, still held as unresolved, spent], ...]
        attempts TEXT NOT NULL                -- JSON, as above
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
        unresolved INTEGER NOT NULL,          -- held for attempts whose cost is not known
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
        estimated INTEGER NOT NULL,           -- settled requests whose usage the upstream did not say
        unresolved INTEGER NOT NULL,          -- requests in that state, under the model of their last attempt
        PRIMARY KEY (team, cost_center, model, endpoint)
    ) WITHOUT ROWID;

    CREATE VIEW usage AS
    SELECT request_id,
           strftime('%Y-%m-%dT%H:%M:%fZ', started_ms / 1000.0, 'unixepoch') AS started_at,
           strftime('%Y-%m-%dT%H:%M:%fZ', finished_ms / 1000.0, 'unixepoch') AS finished_at,
           team, key_id, cost_center, tag, endpoint, model_requested, model_served, state, status,
           json_array_length(attempts) AS attempts, stream, input_tokens, cached_input_tokens, output_tokens, images,
           video_seconds, audio_seconds, characters, hold_nusd, cost_nusd, unresolved_nusd, usage_source, overrun,
           error_code
    FROM requests
    UNION ALL
    SELECT request_id, strftime('%Y-%m-%dT%H:%M:%fZ', started_ms / 1000.0, 'unixepoch'), NULL, team, key_id,
           cost_center, tag, endpoint, model_requested, NULL, 'open', NULL, json_array_length(attempts), stream, 0, 0,
           0, 0, 0.0, 0.0, 0, hold_nusd, 0, 0, NULL, 0, NULL
    FROM open_requests;

    CREATE VIEW attempts AS
    SELECT request_id, a.key + 1 AS n, json_extract(a.value, '$[0]') AS model,
           json_extract(a.value, '$[1]') AS worst_nusd,
           json_extract(a.value, '$[2]') AS worst_tokens, json_extract(a.value, '$[3]') AS started_ms,
           json_extract(a.value, '$[4]') AS finished_ms, json_extract(a.value, '$[5]') AS outcome,
           json_extract(a.value, '$[6]') AS reason, json_extract(a.value, '$[7]') AS status
    FROM (SELECT request_id, attempts FROM requests UNION ALL SELECT request_id, attempts FROM open_requests) AS r,
         json_each(r.attempts) AS a;
    """,
    """
    ALTER TABLE totals ADD COLUMN images INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE totals ADD COLUMN video_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE totals ADD COLUMN audio_ms INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE totals ADD COLUMN characters INTEGER NOT NULL DEFAULT 0;

    CREATE TABLE jobs (
        job_id TEXT PRIMARY KEY,              -- the upstream's
        request_id TEXT NOT NULL,             -- its request: open while the job runs
        team TEXT NOT NULL,
        submitted_ms INTEGER NOT NULL,
        terms TEXT NOT NULL                   -- JSON: model, policy_version, prices {unit: [default, {variant:
    ) WITHOUT ROWID;                          --       price}]}, asked {field of a usage: value}

    CREATE UNIQUE INDEX jobs_by_request ON jobs (request_id);
    """,
    """
    CREATE TABLE open_records (
        request_id TEXT PRIMARY KEY,
        record TEXT NOT NULL                  -- JSON: [[request id, started ms, team, key id, cost center, tag,
    ) WITHOUT ROWID;                          --       endpoint, model requested, stream], hold, postings, attempts]

    INSERT INTO open_records
    SELECT request_id,
           json_array(json_array(request_id, started_ms, team, key_id, cost_center, tag, endpoint, model_requested,
                                 stream),
                      hold_nusd, json(postings), json(attempts))
    FROM open_requests;

    DROP TABLE open_requests;

    CREATE VIEW open_requests AS
    SELECT request_id, json_extract(record, '$[0][1]') AS started_ms, json_extract(record, '$[0][2]') AS team,
           json_extract(record, '$[0][3]') AS key_id, json_extract(record, '$[0][4]') AS cost_center,
           json_extract(record, '$[0][5]') AS tag, json_extract(record, '$[0][6]') AS endpoint,
           json_extract(record, '$[0][7]') AS model_requested, json_extract(record, '$[0][8]') AS stream,
           json_extract(record, '$[1]') AS hold_nusd, json_extract(record, '$[2]') AS postings,
           json_extract(record, '$[3]') AS attempts
    FROM open_records;
    """,
)

ON_END = """
    CREATE TEMP TRIGGER ended AFTER INSERT ON main.requests
    BEGIN DELETE FROM open_records WHERE request_id = NEW.request_id; END"""
"""Of the writer's connection: a request that has ended is not open. A statement of its own takes longer."""

MOST_ROWS = 64
"""Rows of one statement at most; what there is more goes into another."""


class Rows:
    """A statement that takes rows. One for all rows of a transaction: each step of a statement hands the interpreter to
    another thread and back, which costs more than the row."""

    def __init__(self, before: str, row: str, after: str = "") -> None:
        self.columns = row.count("?")
        """Values of a row."""
        self._before, self._row, self._after = before, row, after
        self._texts: dict[int, str] = {}

    def text(self, rows: int) -> str:
        """The statement for so many rows. Made when it is first wanted: all of them are half a megabyte."""
        found = self._texts.get(rows)
        if found is None:
            found = f"{self._before} VALUES {', '.join([self._row] * rows)} {self._after}"
            self._texts[rows] = found
        return found


INSERT_OPEN = Rows("INSERT INTO open_records", "(?, ?)")

REPLACE_OPEN = Rows("INSERT OR REPLACE INTO open_records", "(?, ?)")

INSERT_ENDED = Rows(
    """
    INSERT INTO requests (request_id, started_ms, team, key_id, cost_center, tag, endpoint, model_requested, stream,
                          input_tokens, cached_input_tokens, output_tokens, images, video_seconds, audio_seconds,
                          characters, finished_ms, model_served, state, status, hold_nusd, cost_nusd, unresolved_nusd,
                          usage_source, overrun, error_code, postings, attempts)""",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? / 1000.0, ? / 1000.0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
)
"""Of video and audio: milliseconds."""

INSERT_ANSWERED = Rows(
    """
    INSERT INTO requests (request_id, started_ms, team, key_id, cost_center, tag, endpoint, model_requested, stream,
                          input_tokens, cached_input_tokens, output_tokens, finished_ms, model_served, hold_nusd,
                          cost_nusd, usage_source, postings, attempts, state, status, unresolved_nusd, overrun)""",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'settled', 200, 0, 0)",
)
"""What most requests end as: answered in tokens, and nothing amiss. A third of the row then says nothing, and each
value that is not handed over is one less."""

UPDATE_COUNTER = Rows(
    "INSERT INTO counters (spent, unresolved, cap, id, limit_id, window_start, window_end, meter, models, opening)",
    "(?, ?, ?, ?, '', 0, 0, '', '', 0)",
    """
    ON CONFLICT (id) DO UPDATE
    SET spent = excluded.spent, unresolved = excluded.unresolved, cap = excluded.cap""",
)
"""An upsert whose rows are always there: an UPDATE of many rows builds two tables for itself each time, which takes
longer than to write them."""

UPSERT_TOTAL = Rows("INSERT OR REPLACE INTO totals", "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")

INSERT_COUNTER = """
    INSERT INTO counters (limit_id, window_start, window_end, meter, models, cap, opening, spent, unresolved)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)"""

SELECT_COUNTER = "SELECT id, cap, spent, unresolved FROM counters WHERE limit_id = ? AND window_start = ?"

SELECT_COUNTER_BY_ID = """
    SELECT limit_id, window_start, window_end, meter, models, cap, spent, unresolved FROM counters WHERE id = ?"""

SELECT_LAST_ID = """
    SELECT max(request_id) FROM (SELECT max(request_id) AS request_id FROM requests
                                 UNION ALL SELECT max(request_id) FROM open_requests)"""

SELECT_LEFT_OPEN = "SELECT o.*, j.job_id FROM open_requests AS o LEFT JOIN jobs AS j USING (request_id)"

INSERT_JOB = "INSERT INTO jobs VALUES (?, ?, ?, ?, ?)"

SELECT_JOB = "SELECT * FROM jobs WHERE job_id = ?"

SELECT_RUNNING_JOBS = """
    SELECT jobs.* FROM open_requests CROSS JOIN jobs USING (request_id) ORDER BY submitted_ms, job_id"""
"""In this order (`CROSS`): there are few open requests, and jobs of all time."""

_STARTED = """
    FROM requests
    WHERE request_id >= :first_id AND started_ms >= :start_ms AND started_ms < :end_ms
          AND (:team IS NULL OR team = :team) AND (:key IS NULL OR key_id = :key)"""

MODELS_STARTED = f"SELECT DISTINCT coalesce(model_served, model_requested) {_STARTED}"

SPENT_BEFORE = f"""
    SELECT coalesce(sum(cost_nusd + unresolved_nusd), 0) AS usd,
           coalesce(sum(input_tokens + output_tokens), 0) AS tokens, count(*) AS requests
    {_STARTED}
          AND (:models IS NULL
               OR coalesce(model_served, model_requested) IN (SELECT value FROM json_each(:models)))"""
"""Without groups, as to sort the rows takes five times as long as to read them."""
