"""Fixtures of the ledger's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.ledger.stores import STORES, SqliteStore


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A store of each kind, with its ledger open."""
    made = STORES[request.param](tmp_path)
    made.open()
    yield made
    await made.close()


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A SQLite store that the test opens itself."""
    made = SqliteStore(tmp_path)
    yield made
    await made.close()
