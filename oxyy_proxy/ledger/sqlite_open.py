"""From a ledger URL to a connection: the file, its lock, its schema. What is wrong is said in one line."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal
from urllib.parse import unquote, urlsplit

from oxyy_proxy.errors import StartupError
from oxyy_proxy.ledger.schema import APPLICATION_ID, MIGRATIONS
from oxyy_proxy.ledger.sqlite import SqliteLedger

Durability = Literal["process", "power"]

_SYNCHRONOUS = {"process": "NORMAL", "power": "FULL"}
_OLDEST_SQLITE = (3, 35, 0)
_BUSY_TIMEOUT_MS = 2000


def ledger_path(url: str) -> Path:
    """`sqlite:///relative.db` or `sqlite:////absolute.db` as a path. Raises StartupError for anything else."""
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2:
        raise StartupError(
            f"the ledger {url!r} is not a URL this version knows; use sqlite:///FILE (relative) or sqlite:////FILE"
        )
    path = unquote(parts.path[1:])
    if path == ":memory:":
        raise StartupError("a ledger in memory would lose everything; name a file, such as sqlite:///oxyy-ledger.db")
    return Path(path)


def open_ledger(
    url: str,
    durability: Durability,
    on_commit: Callable[[float], None] = lambda _: None,
    on_defect: Callable[[Exception], None] = lambda _: None,
) -> SqliteLedger:
    """The ledger at `url`, made if there is none, recovered and writing. Called on the event loop that will use it.

    Raises StartupError: not a ledger, of a newer version, in use by another proxy, not writable.
    """
    path = ledger_path(url)
    lock = _lock(path)
    try:
        connection = _connect(path, durability)
        try:
            _migrate(connection, path)
            ledger = SqliteLedger(connection, lock, on_commit, on_defect)
            ledger.start()
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        lock.close()
        raise StartupError(f"the ledger {path} cannot be used: {error}") from None
    except BaseException:
        lock.close()
        raise
    return ledger


def _lock(path: Path) -> IO[str]:
    """Held until the process ends: two writers would not see each other's holds."""
    try:
        lock = open(f"{path.resolve()}.lock", "w")  # noqa: SIM115 - closed with the ledger
    except OSError as error:
        raise StartupError(f"the ledger {path} cannot be opened: {error.strerror} ({path.parent or '.'})") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StartupError(f"the ledger {path} is in use by another oxyy-proxy; give each its own") from None
    return lock


def _connect(path: Path, durability: Durability) -> sqlite3.Connection:
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise StartupError(
            f"SQLite {sqlite3.sqlite_version} is too old; {'.'.join(map(str, _OLDEST_SQLITE))} is needed"
        )
    # The writer's thread takes the connection over once start-up is done: one user at any time.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    try:
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        schema_version(connection, path)  # before anything is written: it may be another program's database
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to this version, step by step, each in its own transaction."""
    version = schema_version(connection, path)
    for step, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN; {script} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {step}; COMMIT;"
        )


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """0 for an empty database. Raises StartupError for a database that is not a ledger, or from a newer version."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id != APPLICATION_ID and (tables or application_id or version):
        raise StartupError(f"{path} is a database, but not an oxyy-proxy ledger; name another file")
    if version > len(MIGRATIONS):
        raise StartupError(
            f"the ledger {path} was written by a newer oxyy-proxy (schema {version}, this one knows {len(MIGRATIONS)})"
        )
    return int(version)
