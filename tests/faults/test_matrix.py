"""The whole fault matrix: what the client got, what the upstream was sent, what the ledger charged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import drivers
from tests.faults.checks import differences
from tests.faults.entries import Entry, load


@pytest.mark.parametrize("entry", load(), ids=lambda entry: entry.id)
async def test_fault(entry: Entry, tmp_path: Path) -> None:
    outcome = await drivers.play(entry, tmp_path)
    assert differences(entry, outcome) == [], entry.what
