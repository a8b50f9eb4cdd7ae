"""Follows video jobs to their end, whether or not a client asks: completed is charged, failed is given back, and one
that has no end in time is `unresolved`. Takes up again after a restart what the ledger says is running."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Literal

from oxyy_proxy.endpoints import videos
from oxyy_proxy.endpoints.base import JobSeen
from oxyy_proxy.errors import ProxyError, UpstreamFailure
from oxyy_proxy.ledger.base import AttemptEnd, Job, Ledger, Settlement
from oxyy_proxy.observe import Log
from oxyy_proxy.rules.price import cost_nusd, usd
from oxyy_proxy.rules.types import Policies, Usage
from oxyy_proxy.upstream import Upstream

FIRST_POLL_S = 5.0
"""The upstream's own advice: five seconds between polls."""

BACKOFF = 1.5
LONGEST_POLL_S = 60.0

MOST_AT_ONCE = 8
"""Polls that are under way at the same time."""

POLL_LIMIT_S = 30.0
"""How long an answer to a poll may take."""


class Jobs:
    """The jobs that run. `seen` may be told of a job by anybody, any number of times: it is settled once."""

    def __init__(
        self,
        ledger: Ledger,
        upstream: Upstream,
        policies: Policies,
        log: Log,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        """`clock`: epoch seconds; `jitter`: [0, 1)."""
        self._ledger = ledger
        self._upstream = upstream
        self._policies = policies
        self._log = log
        self._clock = clock
        self._jitter = jitter
        self._running: dict[str, Job] = {}
        self._due: list[tuple[float, str, float]] = []
        self._changed = asyncio.Event()

    async def resume(self) -> int:
        """Take up what the ledger says is running; how many."""
        jobs = await self._ledger.running_jobs()
        for job in jobs:
            self.follow(job)
        return len(jobs)

    def follow(self, job: Job) -> None:
        """Poll this job until it ends."""
        self._running[job.job_id] = job
        self._poll_after(job.job_id, FIRST_POLL_S)

    def forget(self, job: Job) -> None:
        """It was not put on record."""
        self._running.pop(job.job_id, None)

    async def seen(self, job: Job, seen: JobSeen) -> None:
        """Settle a job that has ended, durably on return. Raises LedgerUnavailable; the settlement is then tried again
        until it is written."""
        if seen.state == "completed":
            usage = Usage(
                video_ms=job.asked.video_ms if seen.video_ms is None else seen.video_ms,
                size=seen.size or job.asked.size,
                source="estimated" if seen.video_ms is None else "computed",
            )
            await self._settle(job, AttemptEnd("answered", "job_completed", 200), usage)
        elif seen.state == "failed":
            await self._settle(job, AttemptEnd("failed", "job_failed", 200), None)

    async def run(self) -> None:
        """Poll what is due, for ever."""
        async with asyncio.TaskGroup() as polls:
            room = asyncio.Semaphore(MOST_AT_ONCE)
            loop = asyncio.get_running_loop()
            while True:
                self._changed.clear()
                while self._due and self._due[0][0] <= loop.time():
                    _, job_id, waited_s = heappop(self._due)
                    job = self._running.get(job_id)
                    if job is not None:
                        await room.acquire()
                        polls.create_task(self._poll(job, waited_s)).add_done_callback(lambda _: room.release())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._due[0][0] if self._due else None):
                        await self._changed.wait()

    def _poll_after(self, job_id: str, wait_s: float) -> None:
        """Somewhere around `wait_s` from now: jobs that were submitted together are not polled together."""
        due = asyncio.get_running_loop().time() + wait_s * (0.8 + 0.4 * self._jitter())
        heappush(self._due, (due, job_id, wait_s))
        self._changed.set()

    async def _poll(self, job: Job, waited_s: float) -> None:
        """Ask the upstream once; ask again later unless the job has ended."""
        try:
            await self.seen(job, await self._ask(job))
            overdue = self._clock() - job.submitted_at > self._policies.policy.video_job_timeout_s
            if overdue and job.job_id in self._running:
                await self._settle(job, AttemptEnd("ambiguous", "job_timeout", 200), None)
        except ProxyError as error:
            self._log.event("job_not_settled", job_id=job.job_id, request_id=job.request_id, reason=error.code)
        if job.job_id in self._running:
            self._poll_after(job.job_id, min(LONGEST_POLL_S, waited_s * BACKOFF))

    async def _ask(self, job: Job) -> JobSeen:
        """What the upstream says of a job now; that it runs, where it says nothing of use."""
        try:
            headers = f"x-request-id: {job.request_id}\r\n"
            status, _, body = await self._upstream.fetch(videos.path_of(job.job_id), headers, POLL_LIMIT_S)
            if status == 200:
                return videos.read_job(job.job_id, body)
            reason = f"upstream_{status}"
        except UpstreamFailure as failure:
            reason = failure.code
        self._log.event("job_poll_failed", job_id=job.job_id, request_id=job.request_id, reason=reason)
        return JobSeen(job.job_id, "running")

    async def _settle(self, job: Job, end: AttemptEnd, usage: Usage | None) -> None:
        state, code = _ENDS[end.outcome]
        cost = 0 if usage is None else cost_nusd(usage, job.prices)
        settlement = Settlement(
            request_id=job.request_id,
            finished_at=self._clock(),
            state=state,
            status=200,
            last=end,
            model_served=job.model if usage else None,
            usage=usage,
            cost_nusd=cost,
            error_code=code,
        )
        queued = self._ledger.settle(settlement)
        if self._running.pop(job.job_id, None) is not None:  # the first to tell of it
            self._log.event(
                "job_ended",
                job_id=job.job_id,
                request_id=job.request_id,
                team=job.team,
                model=job.model,
                state=state,
                cost_usd=usd(cost),
                video_seconds=usage.video_ms / 1000 if usage else 0,
            )
        await queued


_ENDS: dict[str, tuple[Literal["settled", "voided", "unresolved"], str | None]] = {
    "answered": ("settled", None),
    "failed": ("voided", "job_failed"),
    "ambiguous": ("unresolved", "job_timeout"),
}
"""How the end of a job ends its request: its state, and the code on record."""
