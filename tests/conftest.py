"""Fixtures that many tests share; the parts themselves stand in `tests.rig`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig


@pytest.fixture
async def make_rig(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await make_rig(teams=…, gateway=…)`: a started Rig, stopped at the end of the test."""
    made: list[Rig] = []

    async def make(**options: Any) -> Rig:
        folder = tmp_path / f"rig{len(made)}"
        folder.mkdir()
        rig = Rig(folder, **options)
        made.append(rig)
        return await rig.start()

    yield make
    for rig in made:
        await rig.stop()


@pytest.fixture
async def rig(make_rig: Callable[..., Any]) -> Rig:
    """A proxy with generous limits and its simulator."""
    return await make_rig()  # type: ignore[no-any-return]
