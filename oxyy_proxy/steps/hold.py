"""Both ends of a request's spend: reserve on entry, settle exactly once on the way out, whatever the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from types import TracebackType

from oxyy_proxy.errors import (
    Draining,
    InternalError,
    LedgerUnavailable,
    ProxyError,
    UpstreamBadResponse,
    UpstreamFailure,
    UpstreamStatus,
)
from oxyy_proxy.ledger.base import AttemptEnd, Head, Job, Opening, Settlement, State
from oxyy_proxy.rules.budget import reservations
from oxyy_proxy.rules.price import cost_nusd
from oxyy_proxy.rules.types import Target, Usage
from oxyy_proxy.steps.state import Call, Exchange, Services

CLIENT_LEFT_STATUS = 499
"""The status on record where no answer was sent, as nginx logs it."""

BUSY_REQUESTS = 7
UNHURRIED_S = 0.1
"""While more requests than that are served, the settlement of a stream that has taken so long is patient: its client
has the text, and waits a little longer for the end alone."""

_ABANDONED = AttemptEnd("ambiguous", "abandoned")
_SUBMITTED = AttemptEnd("answered", "job_submitted", 200)
_OK = AttemptEnd("answered", "ok", 200)


def attempt_end(failure: UpstreamFailure) -> AttemptEnd:
    """How a failed attempt is recorded."""
    status = failure.upstream_status if isinstance(failure, UpstreamStatus) else None
    return AttemptEnd("ambiguous" if failure.ambiguous else "failed", failure.reason, status)


class Hold:
    """`async with Hold(...)`: open on entry; on exit settled, by the block or else for it.

    An upstream failure that leaves the block settles as that failure; anything else that leaves it (cancelled, a
    defect) leaves the attempt ambiguous. The ledger queues a verb when it is called, so neither can be lost by
    cancelling this task.
    """

    def __init__(self, services: Services, exchange: Exchange, call: Call) -> None:
        self._services = services
        self._exchange = exchange
        self._call = call
        self._target = call.targets[0]
        self._ambiguous_before = False
        self._settlement: Settlement | None = None
        self.settled = False

    async def __aenter__(self) -> Hold:
        x, call, targets = self._exchange, self._call, self._call.targets
        team = call.principal.team
        # Windows and the row's time are of this instant: a body may have taken long to come.
        now = self._services.clock()
        watch, amounts = reservations(call, now)
        head: Head = (
            x.request_id, int(now * 1000), team.name, x.key_id, team.cost_center, x.tag, x.endpoint, x.model_requested,
            1 if x.stream else 0,
        )  # fmt: skip
        worst_nusd = targets[0].worst_nusd if len(targets) == 1 else max([target.worst_nusd for target in targets])
        opening = Opening(head, now, watch, amounts, worst_nusd, self._target)
        try:
            x.remaining = await self._services.ledger.open(opening)
            x.watch = watch
        except BaseException as error:
            self._services.health.ended(self._target.model.name, "nothing", x.policy)
            if isinstance(error, asyncio.CancelledError):
                queued = self._settle("voided", CLIENT_LEFT_STATUS, AttemptEnd("failed", "not_sent"), sent=False)
                queued.add_done_callback(_noticed)
            raise
        return self

    async def next_attempt(self, ended: AttemptEnd, following: Target) -> None:
        """Mark the running attempt as ended and the next as sent. Raises QuotaExceeded, RateLimited (a cap forbids
        it) or LedgerUnavailable; then nothing more may be sent."""
        services = self._services
        await services.ledger.next_attempt(self._exchange.request_id, ended, following, services.clock())
        services.metrics.attempt(self._target.model.name, ended.outcome)
        services.metrics.failover(self._target.model.name, following.model.name, ended.reason)
        self._target = following
        self._ambiguous_before |= ended.outcome == "ambiguous"

    def answered(self, usage: Usage, status: int = 200, reason: str = "ok") -> Awaitable[None]:
        """Settle at what `usage` costs with the model that answered; durable when awaited."""
        x, model = self._exchange, self._target.model
        x.usage = usage
        x.cost_nusd = cost_nusd(usage, model.prices)
        x.model_served = model.name
        return self._durably(
            self._settle("settled", status, _OK if reason == "ok" else AttemptEnd("answered", reason, 200))
        )

    async def submitted(self, job: Job) -> None:
        """What was asked for is being made: put the job on record, which keeps the hold until it ends; durable on
        return. Raises UpstreamBadResponse where the id is that of another job, and LedgerUnavailable; the job is then
        still put on record as soon as that can be done."""
        services = self._services
        self.settled = True
        recorded = services.ledger.submitted(job, _SUBMITTED)
        recorded.add_done_callback(partial(_follow, services, job))
        if not await recorded:
            self.settled = False
            raise UpstreamBadResponse("The upstream gave this job the id of another. Ask your platform team.")
        self._exchange.model_served = job.model
        services.metrics.attempt(job.model, _SUBMITTED.outcome)

    async def ended(self, end: AttemptEnd, status: int, error_code: str) -> None:
        """End without an answer that could be charged: unresolved where it may have cost, else voided."""
        self._exchange.error_code = error_code
        await self._durably(self._settle(self._unanswered(end), status, end))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.settled:
            return
        if isinstance(error, UpstreamFailure):
            end = attempt_end(error)
            status = error.upstream_status if isinstance(error, UpstreamStatus) else error.status
            await self.ended(end, status, error.code)
        else:
            status, self._exchange.error_code = self._broken_off(error)
            self._settle("unresolved", status, _ABANDONED).add_done_callback(_noticed)

    def _broken_off(self, error: BaseException | None) -> tuple[int, str]:
        """Status and code on record where a defect or a cancellation ended the block: what the client is then told."""
        if isinstance(error, Exception):
            return 200 if self._exchange.committed else InternalError.status, InternalError.code
        if self._services.draining:
            return Draining.status, Draining.code
        return CLIENT_LEFT_STATUS, "abandoned"

    def _unanswered(self, end: AttemptEnd) -> State:
        return "unresolved" if end.outcome == "ambiguous" or self._ambiguous_before else "voided"

    def _settle(self, state: State, status: int, end: AttemptEnd, *, sent: bool = True) -> asyncio.Future[None]:
        """Queue the settlement; it happens whether or not anybody waits for it."""
        self.settled = True
        x = self._exchange
        if sent:
            self._services.metrics.attempt(self._target.model.name, end.outcome)
        now = self._services.clock()
        self._settlement = Settlement(
            x.request_id, now, state, status, end, x.model_served, x.usage, x.cost_nusd, x.error_code, sent
        )
        patient = x.stream and now - x.started_at > UNHURRIED_S and len(self._services.running) > BUSY_REQUESTS
        return self._services.ledger.settle(self._settlement, patient=patient)

    async def durably_settled(self) -> None:
        """Wait for a settlement whose own wait was cancelled. Told twice it changes nothing."""
        if self._settlement is not None:
            await self._durably(self._services.ledger.settle(self._settlement))

    async def _durably(self, settlement: asyncio.Future[None]) -> None:
        """Wait for the settlement. One that cannot be written is tried again by the ledger, and until then the row is
        open with its hold: nothing is lost, so an answer that is paid for still goes to the client."""
        try:
            await settlement
        except ProxyError as error:
            self._services.log.error("settlement_deferred", request_id=self._exchange.request_id, reason=error.code)


def _noticed(settlement: asyncio.Future[None]) -> None:
    """A settlement that nobody waits for may fail: the ledger has told why, and tries again."""
    if not settlement.cancelled():
        settlement.exception()


def _follow(services: Services, job: Job, recorded: asyncio.Future[bool]) -> None:
    """From the moment that the job is on record, or will be, whoever still waits."""
    if recorded.cancelled():
        return
    error = recorded.exception()
    if isinstance(error, LedgerUnavailable) or (error is None and recorded.result()):
        services.jobs.follow(job)
