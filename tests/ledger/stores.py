"""The stores that the conformance suite runs on: each opens, closes, and crashes."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oxyy_proxy.ledger.sqlite import SqliteLedger
from oxyy_proxy.ledger.sqlite_open import open_ledger
from oxyy_proxy.ledger.sqlite_reads import Verdict, verify


class SqliteStore:
    """One ledger in a folder of its own. `ledger` is the one in use."""

    ledger: SqliteLedger

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._crashes = 0
        self._opened: list[SqliteLedger] = []
        self.path = folder / "ledger.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def open(
        self,
        on_commit: Callable[[float], None] = lambda _: None,
        on_defect: Callable[[Exception], None] = lambda _: None,
    ) -> SqliteLedger:
        self.ledger = open_ledger(self.url, "process", on_commit, on_defect)
        self._opened.append(self.ledger)
        return self.ledger

    async def close(self) -> None:
        """Cleanly. Ledgers that crashed are closed too, so that no thread of theirs outlives the test."""
        while self._opened:
            await self._opened.pop().close()

    async def reopen(self, **reports: Callable[..., Any]) -> SqliteLedger:
        """Close cleanly and open again. `reports`: on_commit, on_defect."""
        await self.ledger.close()
        self._opened.remove(self.ledger)
        return self.open(**reports)

    def crash(self) -> SqliteLedger:
        """What the next process finds after kill -9: the files as they are now, and nothing that was in memory."""
        self.path = self.copy()
        return self.open()

    def copy(self) -> Path:
        self._crashes += 1
        copied = self._folder / f"crash{self._crashes}.db"
        for suffix in ("", "-wal"):
            if Path(f"{self.path}{suffix}").exists():
                shutil.copy(f"{self.path}{suffix}", f"{copied}{suffix}")
        return copied

    def usage(self, query: str = "SELECT * FROM usage ORDER BY request_id") -> list[dict[str, Any]]:
        """Rows of the view `usage`, as SQL users see them."""
        db = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        try:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(query)]
        finally:
            db.close()

    async def verify(self) -> Verdict:
        return await verify(self.url)


STORES = {"sqlite": SqliteStore}
"""A new store is one more line here."""
