"""How many retries there may be: a share of recent requests, and a few in any case (README, "Failover").

Both are counted by the second, and a second is forgotten once all of it is longer ago than the window. So a retry is
made only if those of the last 10 s, itself among them, are at most the floor and the share of the requests of the last
10 to 11 s: no 10 s, wherever they begin, see more retries than was allowed at the last of them. Pure: `now` is an
argument.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 10
"""What counts as recent."""

FLOOR = 3
"""Retries in a window that are allowed however few requests there were."""


class Allowance:
    """Requests and retries of the last `WINDOW_S` whole seconds and the running one, of one model or of all."""

    __slots__ = ("_requests", "_retries", "_running", "_seconds", "_until")

    def __init__(self) -> None:
        self._running = [-1, 0, 0]  # second, requests, retries
        self._until = 0.0  # the end of that second
        self._seconds = deque([self._running])
        self._requests = 0
        self._retries = 0

    def request(self, now: float) -> None:
        """A request has begun."""
        if now >= self._until:
            self._second(now)
        self._running[1] += 1
        self._requests += 1

    def has_room(self, percent: int, now: float) -> bool:
        """Whether one more retry stays within `percent` of the requests, and the floor."""
        self._second(now)
        return self._retries < FLOOR + self._requests * percent // 100

    def retry(self, now: float) -> None:
        """A retry is made."""
        self._second(now)[2] += 1
        self._retries += 1

    def _second(self, now: float) -> list[int]:
        """The running second's counts; what is no longer recent is forgotten."""
        second = int(now)
        if self._running[0] != second:
            self._running, self._until = [second, 0, 0], second + 1.0
            seconds = self._seconds
            seconds.append(self._running)
            while seconds[0][0] < second - WINDOW_S:
                _, requests, retries = seconds.popleft()
                self._requests -= requests
                self._retries -= retries
        return self._running
