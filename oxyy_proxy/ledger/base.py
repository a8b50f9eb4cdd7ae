"""The protocol of a ledger: atomic verbs, and the records they take and give (README, "How money is counted").

A request's row goes `open` → `settled | voided | unresolved`, once. Its spend is on the counters of its limits: held
while it is open, spent when it is settled, still held where it is unresolved. A request that made a video job stays
open, across restarts, until that job ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from oxyy_proxy.rules.budget import Standing, Watch
from oxyy_proxy.rules.figures import Snapshot
from oxyy_proxy.rules.types import Limit, Price, Target, Usage

State = Literal["settled", "voided", "unresolved"]


Head = tuple[str, int, str, str, str, str | None, str, str, int]
"""What a request's row begins with: request_id, started_ms (since the epoch), team, key_id, cost_center, tag, endpoint,
model_requested, stream (0 or 1)."""


@dataclass(slots=True)
class Opening:
    """A request at the moment before it is sent: its hold, and the first attempt. `started_at`: epoch seconds."""

    head: Final[Head]
    started_at: Final[float]
    watch: Final[Watch]
    amounts: Final[tuple[int, ...]]
    """What is held on each limit of `watch`: nano-USD, or a count."""
    hold_nusd: Final[int]
    first: Final[Target]

    @property
    def request_id(self) -> str:
        return self.head[0]


class AttemptEnd(NamedTuple):
    """How an attempt ended. `outcome`: answered, failed (definite, costs nothing) or ambiguous (may be billed).
    `reason` says why, from a closed set; `status` is the upstream's, None where it sent none."""

    outcome: Literal["answered", "failed", "ambiguous"]
    reason: str
    status: int | None = None


@dataclass(slots=True)
class Settlement:
    """The end of a request. `status`: HTTP, as sent to the client (499: it had left). `cost_nusd` is what the answer
    cost; the ledger adds what ambiguous attempts may have cost as `unresolved_nusd`."""

    request_id: Final[str]
    finished_at: Final[float]
    state: Final[State]
    status: Final[int]
    last: Final[AttemptEnd]
    model_served: Final[str | None] = None
    usage: Final[Usage | None] = None
    cost_nusd: Final[int] = 0
    error_code: Final[str | None] = None
    sent: Final[bool] = True
    """False where it is certain that nothing went upstream: then the request does not count as one."""


class Job(NamedTuple):
    """A video job that the upstream works on. Its request, `request_id`, is open while it runs. `submitted_at`: epoch
    seconds, kept to the millisecond."""

    job_id: str
    """The upstream's."""
    request_id: str
    team: str
    submitted_at: float
    model: str
    policy_version: str
    prices: Mapping[str, Price]
    """In force at submission: what the job is settled at."""
    asked: Usage
    """`video_ms` and `size` (the resolution) as asked for: settled at where the answer does not say."""


class Recovered(NamedTuple):
    """What start-up found open of an earlier process: requests it had sent, requests it had not, and requests whose
    job still runs. The last are open still."""

    unresolved: int
    voided: int
    running: int


class Ledger(Protocol):
    """Every verb takes effect at once and as a whole: it is queued when called, so cancelling the caller's wait does
    not undo it. The awaited result means that it is durable.

    All raise LedgerUnavailable when the store cannot be written.
    """

    @property
    def writable(self) -> bool:
        """Whether the last write succeeded."""
        ...

    def open(self, opening: Opening) -> Awaitable[tuple[int, ...]]:
        """Hold on all limits or none, and mark the first attempt as sent. Returns what each limit then has left.
        Raises QuotaExceeded or RateLimited; then there is no row."""
        ...

    def next_attempt(self, request_id: str, ended: AttemptEnd, following: Target, at: float) -> Awaitable[None]:
        """End the running attempt and mark the next as sent. After an ambiguous one the hold is topped up by its
        worst case. Raises QuotaExceeded or RateLimited where a cap forbids that; the attempt is then still running."""
        ...

    def settle(self, settlement: Settlement, *, patient: bool = False) -> asyncio.Future[None]:
        """End a request, once: settling what is not open changes nothing. A settlement that cannot be written is
        kept and tried again until it is; the wait then raises LedgerUnavailable. A `patient` one may wait a moment
        for others to be written with, though not longer than for the next verb."""
        ...

    def submitted(self, job: Job, ended: AttemptEnd) -> asyncio.Future[bool]:
        """Put a job on record, and end the running attempt of its request, which stays open with its hold; only its
        place among the `concurrent` ones is free again. True if the job is on record as this request's, however often
        it is told. False, and nothing is changed, if the id is taken by a job of another request, or if the request
        is not open or has another job.

        Like a settlement, a job that cannot be written is kept and tried again until it is, before a settlement that
        was asked for later; the wait then raises LedgerUnavailable, and `running_jobs` tells what became of it."""
        ...

    def job(self, job_id: str) -> Awaitable[Job | None]:
        """A job, running or ended; None if there is none of that id."""
        ...

    def running_jobs(self) -> Awaitable[tuple[Job, ...]]:
        """The jobs whose requests are open, oldest first."""
        ...

    def standings(self, limits: Sequence[Limit], now: float) -> Awaitable[tuple[Standing, ...]]:
        """How each limit stands in its window that holds `now`."""
        ...

    def snapshot(self, limits: Sequence[Limit], now: float) -> Awaitable[Snapshot]: ...

    async def close(self) -> None:
        """Finish what is queued, checkpoint, and release the store."""
        ...
