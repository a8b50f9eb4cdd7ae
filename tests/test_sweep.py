from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest

from oxyy_proxy import sweep
from oxyy_proxy.sweep import Sweeper, Wait


@pytest.fixture
async def sweeper(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sweeper]:
    """A running sweeper that looks often."""
    monkeypatch.setattr(sweep, "SWEEP_EVERY_S", 0.001)
    made = Sweeper()
    task = asyncio.create_task(made.run())
    yield made
    assert not task.done()
    task.cancel()


class _Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    made = _Clock()
    monkeypatch.setattr(sweep, "time", SimpleNamespace(monotonic=lambda: made.now))  # not the loop's own clock
    return made


async def _swept(sweeper: Sweeper, clock: _Clock) -> None:
    """Wait until the sweeper has looked at everything since this call."""
    looked = asyncio.Event()
    marker = Wait(0.0, looked.set)
    marker.since = clock.now - 1
    for _ in range(2):  # what was added before the second look is seen by it
        looked.clear()
        marker.since = clock.now - 1
        sweeper.add(marker)
        await asyncio.wait_for(looked.wait(), 5)
    sweeper.remove(marker)


async def test_a_wait_ends_once_it_is_longer_than_its_limit_and_only_once(sweeper: Sweeper, clock: _Clock) -> None:
    ended: list[float] = []
    wait = Wait(10.0, lambda: ended.append(clock.now))
    sweeper.add(wait)
    wait.since = 100.0
    clock.now = 110.0
    await _swept(sweeper, clock)
    assert ended == []
    clock.now = 110.1
    await _swept(sweeper, clock)
    await _swept(sweeper, clock)
    assert ended == [110.1]
    assert wait.since is None


async def test_a_wait_that_begins_again_counts_from_there(sweeper: Sweeper, clock: _Clock) -> None:
    ended: list[float] = []
    wait = Wait(10.0, lambda: ended.append(clock.now))
    sweeper.add(wait)
    for clock.now in (109.0, 118.0, 127.0):
        wait.since = clock.now
        await _swept(sweeper, clock)
    clock.now += 9.0
    wait.since = None  # nothing is waited for
    clock.now += 100.0
    await _swept(sweeper, clock)
    assert ended == []
    wait.since = clock.now
    clock.now += 10.5
    await _swept(sweeper, clock)
    assert ended == [clock.now]


async def test_a_removed_wait_is_left_alone(sweeper: Sweeper, clock: _Clock) -> None:
    ended: list[float] = []
    wait = Wait(1.0, lambda: ended.append(clock.now))
    wait.since = 0.0
    sweeper.add(wait)
    sweeper.remove(wait)
    sweeper.remove(wait)
    await _swept(sweeper, clock)
    assert ended == []


async def test_an_end_may_add_and_remove_waits(sweeper: Sweeper, clock: _Clock) -> None:
    ended: list[str] = []
    second = Wait(1.0, lambda: ended.append("second"))
    second.since = 0.0

    def end_first() -> None:
        ended.append("first")
        sweeper.remove(first)
        sweeper.add(second)

    first = Wait(1.0, end_first)
    first.since = 0.0
    sweeper.add(first)
    await _swept(sweeper, clock)
    await _swept(sweeper, clock)
    assert ended == ["first", "second"]
