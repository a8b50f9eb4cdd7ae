"""Bytes to the client, a copy to the meter. Owns the commit point: once the answer has begun nothing else is answered.

The settlement is durable before the last byte: before a whole answer, before the `[DONE]` of a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from time import monotonic

import orjson

from oxyy_proxy import web
from oxyy_proxy.connection import SERVER
from oxyy_proxy.endpoints.base import JobSeen
from oxyy_proxy.errors import Draining, ProxyError, UpstreamFailure, UpstreamReset
from oxyy_proxy.ledger.base import Job
from oxyy_proxy.rules.budget import left_lines
from oxyy_proxy.rules.price import cost_nusd, usd
from oxyy_proxy.steps.attempt import Answered, PassedThrough, Streaming, Whole
from oxyy_proxy.steps.hold import Hold, attempt_end
from oxyy_proxy.steps.response import StreamedAnswer, WholeAnswer
from oxyy_proxy.steps.state import Call, Exchange, Services


def relay(
    services: Services, x: Exchange, call: Call, hold: Hold, answered: Answered, request: web.BaseRequest
) -> Coroutine[None, None, web.StreamResponse]:
    """Settle and answer, when awaited; what is returned has been sent, or is about to be."""
    if isinstance(answered, Whole):
        if answered.answer.job is not None:
            return _submitted(services, x, call, hold, answered, answered.answer.job)
        return _whole(x, call, hold, answered)
    if isinstance(answered, PassedThrough):
        return _passed_through(x, hold, answered)
    return _Stream(services, x, call, hold, answered, request).run()


async def _whole(x: Exchange, call: Call, hold: Hold, answered: Whole) -> web.StreamResponse:
    usage = answered.answer.usage
    if usage is None:
        usage = call.ask.likely_usage(answered.target.model, x.policy.part_tokens, answered.answer.output_bytes)
    await hold.answered(usage)
    x.status = 200
    cost = usd(x.cost_nusd)
    lines = f"{answer_lines(x)}Content-Type: {answered.content_type}\r\nx-oxyy-cost-usd: {cost}\r\n"
    return WholeAnswer(200, lines, answered.body)


async def _submitted(
    services: Services, x: Exchange, call: Call, hold: Hold, answered: Whole, seen: JobSeen
) -> web.StreamResponse:
    """The job is on record before the client has its id."""
    model = answered.target.model
    job = Job(
        job_id=seen.job_id,
        request_id=x.request_id,
        team=call.principal.team.name,
        submitted_at=services.clock(),
        model=model.name,
        policy_version=x.policy.version,
        prices=model.prices,
        asked=call.ask.worst(model, x.policy.part_tokens),
    )
    await hold.submitted(job)
    await services.jobs.seen(job, seen)
    x.status = 200
    return WholeAnswer(200, f"{answer_lines(x)}Content-Type: {answered.content_type}\r\n", answered.body)


async def _passed_through(x: Exchange, hold: Hold, answered: PassedThrough) -> web.StreamResponse:
    await hold.ended(answered.end, answered.status, f"upstream_{answered.status}")
    x.status = answered.status
    lines = f"{answer_lines(x)}{as_lines(answered.headers)}Content-Type: {answered.content_type}\r\n"
    return WholeAnswer(answered.status, lines, answered.body)


def answer_lines(x: Exchange) -> str:
    """The headers of every answer, as lines: who answered, in how many attempts, and what is left of each meter."""
    lines = f"Server: {SERVER}\r\nx-request-id: {x.request_id}\r\n"
    if x.model_served:
        lines += f"x-oxyy-model: {x.model_served}\r\n"
    if x.attempts:
        lines += f"x-oxyy-attempts: {x.attempts}\r\n"
    if x.watch is None:
        return lines
    return lines + left_lines(x.watch, x.remaining, int(x.started_at))


def as_lines(headers: Mapping[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


def error_event(error: ProxyError) -> bytes:
    """A failure after the commit point, as an event that both SDKs raise."""
    return b"data: " + orjson.dumps(error.payload()) + b"\n\n"


class _Stream:
    """One stream on its way. The client may leave at any byte; the meter goes on then."""

    __slots__ = (
        "_behind",
        "_call",
        "_client_is_there",
        "_error",
        "_hold",
        "_meter",
        "_request",
        "_response",
        "_services",
        "_streaming",
        "_x",
        "limit_s",
        "since",
    )

    def __init__(
        self,
        services: Services,
        x: Exchange,
        call: Call,
        hold: Hold,
        streaming: Streaming,
        request: web.BaseRequest,
    ) -> None:
        self._services = services
        self._x = x
        self._call = call
        self._hold = hold
        self._streaming = streaming
        self._meter = streaming.meter
        self._request = request
        self._client_is_there = True
        self._response: StreamedAnswer
        self._error: ProxyError | None = None
        self._behind = False
        self.since: float | None = None  # as long as the client is waited for (see `sweep.Waiting`)
        self.limit_s = x.policy.retry.idle_s

    def _answer(self) -> StreamedAnswer:
        streaming = self._streaming
        lines = f"{answer_lines(self._x)}Content-Type: {streaming.content_type}\r\n"
        if streaming.meter.events:
            return StreamedAnswer(f"{lines}Cache-Control: no-cache\r\n")
        if streaming.meter.promised is not None:
            cost = usd(cost_nusd(streaming.meter.promised, streaming.target.model.prices))
            lines = f"{lines}x-oxyy-cost-usd: {cost}\r\n"
        return StreamedAnswer(lines, streaming.answer.header("Content-Length"))

    async def run(self) -> web.StreamResponse:
        try:
            await self._settle(await self._relay())
        except asyncio.CancelledError:
            await self._cut_by_us()
            if not self._services.draining:
                raise
        finally:
            answer = self._streaming.answer
            answer.close()
            self._x.upstream_s += answer.waited_s
        return self._response

    async def _relay(self) -> UpstreamFailure | None:
        """Relay to the end; what cut it short, None where the upstream came to its end."""
        meter, complete = self._meter, False
        self._begin()
        try:
            while True:
                if self._behind:
                    await self._caught_up()
                if meter.ended:
                    return None
                if complete:
                    await self._send(meter.finish())
                    return None
                if not self._client_is_there:
                    await self._finish_without_client()
                    return None
                complete = await self._streaming.answer.push(self._take)
        except UpstreamFailure as failure:
            return failure

    def _begin(self) -> None:
        """The answer begins: its head, and what was read to know that it is one."""
        x = self._x
        x.status, x.model_served = 200, self._streaming.target.model.name
        self._response = self._answer()
        x.committed = True
        try:
            self._behind = not self._response.begin(self._request, self._streaming.first)
        except ConnectionError:
            self._client_is_there = False
        x.first_byte_s = monotonic() - x.started

    def _take(self, data: bytes) -> bool:
        """A piece of the stream on its way through the meter; whether the next one may come. Where the client does not
        keep up the upstream is not read until it does."""
        meter = self._meter
        out = meter.feed(data)
        if out and not self._response.put(out):
            self._behind = True
            return False
        return not meter.ended

    async def _send(self, data: bytes) -> None:
        """Write, and wait while the client is behind; not for ever."""
        if data and self._client_is_there and not self._response.put(data):
            await self._caught_up()

    async def _caught_up(self) -> None:
        """Wait for a client that is behind, as long as `expire` allows."""
        self._behind = False
        self.since = monotonic()
        self._services.sweeper.add(self)
        try:
            await self._response.caught_up()
        except ConnectionError:
            self._client_is_there = False
        finally:
            self._services.sweeper.remove(self)
            self.since = None

    async def _send_error(self, error: ProxyError) -> None:
        """An event that broke off is ended first, or the error would be read as the rest of it. Where there are no
        events the connection is dropped: the answer must not look complete."""
        if not self._meter.events:
            self._client_is_there = False
            if self._request.transport is not None:
                self._request.transport.abort()
            return
        await self._send((b"\n\n" if self._meter.mid_event else b"") + error_event(error))

    async def _finish_without_client(self) -> None:
        """The client has left: read on for the usage, within reason."""
        policy, meter = self._x.policy, self._meter
        if policy.on_disconnect == "cancel":
            return
        try:
            async with asyncio.timeout(policy.drain_s):
                while data := await self._streaming.answer.chunk():
                    meter.feed(data)
                    if meter.ended:
                        return
        except TimeoutError:
            return
        meter.finish()
        if not meter.ended:
            raise UpstreamReset("The upstream ended its stream before it was complete.")

    async def _settle(self, cut: UpstreamFailure | None) -> None:
        """Durable before the last byte. What the upstream said is charged, however the stream ended."""
        meter = self._meter
        if meter.usage is None and not meter.ended and (self._client_is_there or cut):
            cut = cut or UpstreamReset("The upstream ended its stream before it was complete. Retry.")
        charged_whole = meter.usage is not None and meter.farewell
        told = meter.failure is not None and meter.events  # the client has read it in the stream
        self._error = None if told or charged_whole else cut
        if meter.usage is not None:
            await self._hold.answered(meter.usage, reason="ok" if self._client_is_there else "client_left")
        elif meter.ended or cut is None:
            await self._estimate("ok" if self._client_is_there else "client_left")
        else:
            self._services.health.ended(self._streaming.target.model.name, "cut", self._x.policy)
            failure = meter.failure or cut
            end = attempt_end(failure)._replace(status=200)
            if meter.events:  # an error in the middle of a stream may have cost what came before it
                end = end._replace(outcome="ambiguous")
            await self._hold.ended(end, 200, failure.code)
        await self._finish()

    async def _cut_by_us(self) -> None:
        """The time to stop is up: charge what was delivered, and say so."""
        meter = self._meter
        if self._hold.settled:  # it had come to its end: what is left to be said is said
            await self._hold.durably_settled()
            await self._finish()
            return
        self._x.error_code = Draining.code
        self._error = Draining("The proxy is restarting and cut this stream. Retry.")
        if meter.usage is not None:
            await self._hold.answered(meter.usage, reason="drained")
        else:
            await self._estimate("drained")
        await self._finish()

    async def _finish(self) -> None:
        """The last of the answer, once: what the upstream said at its end, or why there is none."""
        meter = self._meter
        error, self._error = self._error, None
        farewell, meter.farewell = meter.farewell, b""
        if error is not None:
            await self._send_error(error)
            farewell = b""
        # The client is not waited for without end.
        if self._client_is_there and not self._response.end(farewell):
            await self._caught_up()

    async def _estimate(self, reason: str) -> None:
        ask, streaming = self._call.ask, self._streaming
        usage = ask.likely_usage(streaming.target.model, self._x.policy.part_tokens, streaming.meter.output_bytes)
        await self._hold.answered(usage, reason=reason)

    def expire(self) -> None:
        """The client has not read for `idle` seconds: its connection is dropped, which ends the write that waits."""
        self.since = None
        transport = self._request.transport
        if transport is not None:
            transport.abort()
