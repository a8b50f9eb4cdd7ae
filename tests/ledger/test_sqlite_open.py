"""Opening a ledger: what a URL names, who may write, and one line about what is wrong."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oxyy_proxy.errors import StartupError
from oxyy_proxy.ledger import sqlite_open
from oxyy_proxy.ledger.sqlite_open import ledger_path, open_ledger
from tests.ledger.making import NOW, limit, opening
from tests.ledger.stores import SqliteStore


async def refusal(url: str) -> str:
    """Why a ledger could not be opened: one line."""
    with pytest.raises(StartupError) as refused:
        open_ledger(url, "process")
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///oxyy-ledger.db", "oxyy-ledger.db"),
        ("sqlite:///data/ledger.db", "data/ledger.db"),
        ("sqlite:////var/lib/oxyy/ledger.db", "/var/lib/oxyy/ledger.db"),
        ("sqlite:////var/lib/my%20ledger%3F.db", "/var/lib/my ledger?.db"),
    ],
)
def test_a_url_names_a_file(url: str, path: str) -> None:
    assert ledger_path(url) == Path(path)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://localhost/ledger",
        "postgresql://u:p@h/d",
        "ledger.db",
        "/var/lib/ledger.db",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite://ledger.db",
        "sqlite://host/ledger.db",
        "sqlite3:///ledger.db",
        "",
    ],
)
async def test_a_url_that_names_no_file_is_refused_with_the_ones_that_do(url: str) -> None:
    assert re.search(r"is not a URL .* use sqlite:///FILE", await refusal(url))


async def test_a_missing_ledger_is_made(sqlite_store: SqliteStore) -> None:
    assert sqlite_store.open().recovered == (0, 0, 0)
    assert sqlite_store.path.exists()
    assert sqlite_store.usage() == []


async def test_an_empty_file_becomes_a_ledger(sqlite_store: SqliteStore) -> None:
    sqlite_store.path.touch()
    await sqlite_store.open().open(opening([]))
    assert len(sqlite_store.usage()) == 1


async def test_two_proxies_cannot_share_a_ledger(sqlite_store: SqliteStore) -> None:
    sqlite_store.open()
    said = await refusal(sqlite_store.url)
    assert str(sqlite_store.path) in said
    assert "in use by another oxyy-proxy" in said
    await sqlite_store.ledger.open(opening([]))  # the first is not disturbed
    await sqlite_store.reopen()


async def test_two_names_of_one_ledger_are_one_ledger(sqlite_store: SqliteStore) -> None:
    sqlite_store.open()
    folder = sqlite_store.path.parent
    (folder / "link.db").symlink_to(sqlite_store.path)
    (folder / "linked").symlink_to(folder)
    for link in (folder / "link.db", folder / "linked" / "ledger.db", folder / ".." / folder.name / "ledger.db"):
        assert "in use by another oxyy-proxy" in await refusal(f"sqlite:///{link}")


def open_elsewhere(url: str) -> subprocess.CompletedProcess[str]:
    """Another process opens the ledger."""
    script = f"""
import asyncio
from oxyy_proxy.ledger.sqlite_open import open_ledger
async def main(): open_ledger({url!r}, "process")
asyncio.run(main())"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)


async def test_another_process_cannot_share_a_ledger(sqlite_store: SqliteStore) -> None:
    sqlite_store.open()
    other = open_elsewhere(sqlite_store.url)
    assert other.returncode != 0
    assert "in use by another oxyy-proxy" in other.stderr


async def test_a_ledger_is_free_once_it_was_refused_or_closed(sqlite_store: SqliteStore) -> None:
    sqlite_store.path.write_text("not a database, and long enough that SQLite looks at it" * 50)
    await refusal(sqlite_store.url)
    sqlite_store.path.unlink()
    await sqlite_store.open().close()
    sqlite_store.open()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("the notes of a meeting\n" * 100)
    assert str(file) in await refusal(f"sqlite:///{file}")
    assert file.read_text() == "the notes of a meeting\n" * 100


@pytest.mark.parametrize("marked", ["CREATE TABLE t (a)", "PRAGMA application_id = 7", "PRAGMA user_version = 1"])
async def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path, marked: str) -> None:
    file = tmp_path / "other.db"
    db = sqlite3.connect(file, isolation_level=None)
    db.execute(marked)
    db.close()
    before = file.read_bytes()
    assert await refusal(f"sqlite:///{file}") == (
        f"{file} is a database, but not an oxyy-proxy ledger; name another file"
    )
    assert file.read_bytes() == before


async def test_a_ledger_of_a_newer_version_is_refused(sqlite_store: SqliteStore) -> None:
    await sqlite_store.open().close()
    db = sqlite3.connect(sqlite_store.path, isolation_level=None)
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert "was written by a newer oxyy-proxy (schema 99" in await refusal(sqlite_store.url)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    said = await refusal(f"sqlite:///{tmp_path}/no/such/ledger.db")
    assert "No such file or directory" in said
    assert f"{tmp_path}/no/such" in said


async def test_a_folder_is_no_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert str(folder) in await refusal(f"sqlite:///{folder}")


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A folder in which this user may make no file; for root, who may write anywhere else, one of the kernel's."""
    if os.geteuid() == 0:
        yield Path("/sys")
        return
    tmp_path.chmod(0o500)
    yield tmp_path
    tmp_path.chmod(0o700)


async def test_a_folder_that_cannot_be_written_is_named(unwritable: Path) -> None:
    said = await refusal(f"sqlite:///{unwritable}/ledger.db")
    assert "Permission denied" in said
    assert str(unwritable) in said


async def test_a_ledger_that_somebody_else_writes_is_refused(
    sqlite_store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_open, "_BUSY_TIMEOUT_MS", 20)
    await sqlite_store.open().close()
    other = sqlite3.connect(sqlite_store.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        assert "locked" in await refusal(sqlite_store.url)
    finally:
        other.close()
    sqlite_store.open()


async def test_an_sqlite_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    assert "is too old; 3.35.0 is needed" in await refusal(f"sqlite:///{tmp_path}/ledger.db")


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2)])
async def test_durability_is_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str, synchronous: int
) -> None:
    connections: list[sqlite3.Connection] = []
    connect = sqlite_open._connect
    monkeypatch.setattr(sqlite_open, "_connect", lambda *args: connections.append(connect(*args)) or connections[-1])
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db", durability)  # type: ignore[arg-type]
    try:
        assert connections[0].execute("PRAGMA synchronous").fetchone() == (synchronous,)
        assert connections[0].execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        await ledger.close()


async def test_a_clean_close_leaves_one_whole_file(sqlite_store: SqliteStore) -> None:
    sqlite_store.open()
    await sqlite_store.ledger.open(opening([limit()]))
    await sqlite_store.ledger.close()
    for leftover in ("ledger.db-wal", "ledger.db-shm"):
        assert not sqlite_store.path.with_name(leftover).exists()
    assert sqlite_store.open().recovered == (1, 0, 0)
    assert [(s.spent, s.held) for s in await sqlite_store.ledger.standings([limit()], NOW)] == [(0, 100)]
