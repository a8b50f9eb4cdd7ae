"""The protocol of a ledger: atomic verbs, and the records they take and give (README, "How money is counted").

A request's row goes `open` → `settled | voided | unresolved`, once. Its spend is on the counters of its limits: held
while it is open, spent when it is settled, still held where it is unresolved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Literal, NamedTuple, Protocol

from oxyy_proxy.rules.budget import Reservation, Standing
from oxyy_proxy.rules.figures import Snapshot
from oxyy_proxy.rules.types import Limit, Target, Usage

State = Literal["settled", "voided", "unresolved"]


class Opening(NamedTuple):
    """A request at the moment before it is sent: its hold, and the first attempt. `started_at`: epoch seconds."""

    request_id: str
    started_at: float
    team: str
    key_id: str
    cost_center: str
    tag: str | None
    endpoint: str
    model_requested: str
    stream: bool
    reservations: tuple[Reservation, ...]
    hold_nusd: int
    first: Target


class AttemptEnd(NamedTuple):
    """How an attempt ended. `outcome`: answered, failed (definite, costs nothing) or ambiguous (may be billed).
    `reason` says why, from a closed set; `status` is the upstream's, None where it sent none."""

    outcome: Literal["answered", "failed", "ambiguous"]
    reason: str
    status: int | None = None


class Settlement(NamedTuple):
    """The end of a request. `status`: HTTP, as sent to the client (499: it had left). `cost_nusd` is what the answer
    cost; the ledger adds what ambiguous attempts may have cost as `unresolved_nusd`."""

    request_id: str
    finished_at: float
    state: State
    status: int
    last: AttemptEnd
    model_served: str | None = None
    usage: Usage | None = None
    cost_nusd: int = 0
    error_code: str | None = None
    sent: bool = True
    """False where it is certain that nothing went upstream: then the request does not count as one."""


class Recovered(NamedTuple):
    """What start-up found of an earlier process: requests it had sent, and requests it had not."""

    unresolved: int
    voided: int


class Ledger(Protocol):
    """Every verb takes effect at once and as a whole: it is queued when called, so cancelling the caller's wait does
    not undo it. The awaited result means that it is durable.

    All raise LedgerUnavailable when the store cannot be written.
    """

    @property
    def writable(self) -> bool:
        """Whether the last write succeeded."""
        ...

    def open(self, opening: Opening) -> Awaitable[tuple[Standing, ...]]:
        """Hold on all limits or none, and mark the first attempt as sent. Returns how each limit then stands.
        Raises QuotaExceeded or RateLimited; then there is no row."""
        ...

    def next_attempt(self, request_id: str, ended: AttemptEnd, following: Target, at: float) -> Awaitable[None]:
        """End the running attempt and mark the next as sent. After an ambiguous one the hold is topped up by its
        worst case. Raises QuotaExceeded or RateLimited where a cap forbids that; the attempt is then still running."""
        ...

    def settle(self, settlement: Settlement) -> asyncio.Future[None]:
        """End a request, once: settling what is not open changes nothing. A settlement that cannot be written is
        kept and tried again until it is; the wait then raises LedgerUnavailable."""
        ...

    def standings(self, limits: Sequence[Limit], now: float) -> Awaitable[tuple[Standing, ...]]:
        """How each limit stands in its window that holds `now`."""
        ...

    def snapshot(self, limits: Sequence[Limit], now: float) -> Awaitable[Snapshot]: ...

    async def close(self) -> None:
        """Finish what is queued, checkpoint, and release the store."""
        ...
