"""Waits that may not last too long, looked at from time to time: a stream of 64 chunks costs no 64 timers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

SWEEP_EVERY_S = 0.1
"""How late a wait may be ended."""


class Waiting(Protocol):
    """Something that is waited for again and again. `since` is `time.monotonic()` while a wait runs, else None."""

    limit_s: float
    since: float | None

    def expire(self) -> None:
        """The wait has lasted longer than `limit_s`. It runs no more."""


class Wait:
    """A wait whose end is a call of `expire`."""

    __slots__ = ("_expire", "limit_s", "since")

    def __init__(self, limit_s: float, expire: Callable[[], None]) -> None:
        self.limit_s = limit_s
        self.since: float | None = None
        self._expire = expire

    def expire(self) -> None:
        self.since = None
        self._expire()


class Sweeper:
    """Ends the waits that have lasted longer than their limit. `run` is one task for the whole process; `add` and
    `remove` are called for every request, so are the set's own."""

    def __init__(self) -> None:
        self._waits: set[Waiting] = set()
        self.add = self._waits.add
        self.remove = self._waits.discard

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            now = time.monotonic()
            for wait in tuple(self._waits):
                if wait.since is not None and now - wait.since > wait.limit_s:
                    wait.expire()
