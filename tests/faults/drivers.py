"""Who plays an entry, by its `side`: `play(entry, folder) -> Outcome`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from tests.faults.entries import Entry
from tests.faults.outcome import Outcome

MODULES = {"upstream": "upstreams", "client": "clients", "host": "hosts"}


async def play(entry: Entry, folder: Path) -> Outcome:
    """Make the fault happen in `folder`, which is empty, and tell what came of it."""
    driver = import_module(f"tests.faults.{MODULES[entry.side]}")
    return await driver.play(entry, folder)  # type: ignore[no-any-return]
