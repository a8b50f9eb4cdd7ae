"""Bytes to the client, a copy to the meter. Owns the commit point: once the answer has begun nothing else is answered.

The settlement is durable before the last byte: before a whole answer, before the `[DONE]` of a stream.
"""

from __future__ import annotations

import asyncio
from time import monotonic

import orjson

from oxyy_proxy import web
from oxyy_proxy.connection import SERVER
from oxyy_proxy.endpoints.base import JobSeen
from oxyy_proxy.errors import Draining, ProxyError, UpstreamFailure, UpstreamReset
from oxyy_proxy.ledger.base import Job
from oxyy_proxy.rules.budget import duration, tightest
from oxyy_proxy.rules.price import cost_nusd, usd
from oxyy_proxy.steps.attempt import Answered, PassedThrough, Streaming, Whole
from oxyy_proxy.steps.hold import Hold, attempt_end
from oxyy_proxy.steps.response import whole_response
from oxyy_proxy.steps.state import Call, Exchange, Services

BEHIND_BYTES = 32 * 1024
"""Bytes that a client has not taken yet, at which it is waited for."""


_RATE_HEADERS = {
    meter: tuple([f"x-ratelimit-{what}-{meter}" for what in ("limit", "remaining", "reset")])
    for meter in ("tokens", "requests")
}


async def relay(
    services: Services, x: Exchange, call: Call, hold: Hold, answered: Answered, request: web.BaseRequest
) -> web.StreamResponse:
    """Settle and answer; what is returned has been sent, or is about to be."""
    if isinstance(answered, Whole):
        if answered.answer.job is not None:
            return await _submitted(services, x, call, hold, answered, answered.answer.job)
        return await _whole(x, call, hold, answered)
    if isinstance(answered, PassedThrough):
        return await _passed_through(x, hold, answered)
    try:
        return await _Stream(services, x, call, hold, answered, request).run()
    finally:
        answered.answer.close()
        x.upstream_s += answered.answer.waited_s


async def _whole(x: Exchange, call: Call, hold: Hold, answered: Whole) -> web.StreamResponse:
    usage = answered.answer.usage
    if usage is None:
        usage = call.ask.likely_usage(answered.target.model, x.policy.part_tokens, answered.answer.output_bytes)
    await hold.answered(usage)
    x.status = 200
    headers = {**answer_headers(x), "Content-Type": answered.content_type, "x-oxyy-cost-usd": usd(x.cost_nusd)}
    return whole_response(200, headers, answered.body)


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
    return whole_response(200, {**answer_headers(x), "Content-Type": answered.content_type}, answered.body)


async def _passed_through(x: Exchange, hold: Hold, answered: PassedThrough) -> web.StreamResponse:
    await hold.ended(answered.end, answered.status, f"upstream_{answered.status}")
    x.status = answered.status
    headers = {**answer_headers(x), **answered.headers, "Content-Type": answered.content_type}
    return whole_response(answered.status, headers, answered.body)


def answer_headers(x: Exchange) -> dict[str, str]:
    """The headers of every answer that was held for: who answered, in how many attempts, and what is left."""
    headers = {"Server": SERVER, "x-request-id": x.request_id}
    if x.model_served:
        headers["x-oxyy-model"] = x.model_served
    if x.attempts:
        headers["x-oxyy-attempts"] = str(x.attempts)
    if x.watch is None:
        return headers
    for meter, place in tightest(x.watch, x.remaining):
        if meter == "usd":
            headers["x-oxyy-budget-remaining-usd"] = usd(x.remaining[place])
        elif meter != "concurrent":
            limit, remaining, reset = _RATE_HEADERS[meter]
            headers[limit] = str(x.watch.limits[place].cap)
            headers[remaining] = str(x.remaining[place])
            headers[reset] = duration(max(0, int(x.watch.windows[place].end - x.started_at)))
    return headers


def error_event(error: ProxyError) -> bytes:
    """A failure after the commit point, as an event that both SDKs raise."""
    return b"data: " + orjson.dumps(error.payload()) + b"\n\n"


class _Stream:
    """One stream on its way. The client may leave at any byte; the meter goes on then."""

    __slots__ = (
        "_at_once",
        "_behind",
        "_call",
        "_chunked",
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
        x.status = 200
        x.model_served = streaming.target.model.name
        self._response = web.StreamResponse(status=200, headers=self._head())
        self._at_once = self._chunked = False
        self._error: ProxyError | None = None
        self._behind = b""
        self.since: float | None = None  # as long as the client is waited for (see `sweep.Waiting`)
        self.limit_s = x.policy.retry.idle_s

    def _head(self) -> dict[str, str]:
        x, streaming = self._x, self._streaming
        headers = {**answer_headers(x), "Content-Type": streaming.content_type}
        if streaming.meter.events:
            return {**headers, "Cache-Control": "no-cache"}
        if length := streaming.answer.header("Content-Length"):
            headers["Content-Length"] = length
        if streaming.meter.promised is not None:
            headers["x-oxyy-cost-usd"] = usd(cost_nusd(streaming.meter.promised, streaming.target.model.prices))
        return headers

    async def run(self) -> web.StreamResponse:
        self._services.sweeper.add(self)
        try:
            await self._settle(await self._relay())
        except asyncio.CancelledError:
            await self._cut_by_us()
            if not self._services.draining:
                raise
        finally:
            self._services.sweeper.remove(self)
        return self._response

    async def _relay(self) -> UpstreamFailure | None:
        """Relay to the end; what cut it short, None where the upstream came to its end."""
        meter, answer = self._meter, self._streaming.answer
        try:
            await self._commit()
            while self._client_is_there and not meter.ended:
                complete = await answer.push(self._take)
                behind, self._behind = self._behind, b""
                await self._send(behind)
                if complete and not meter.ended:
                    await self._send(meter.finish())
                    return None
            if not meter.ended:
                await self._finish_without_client()
        except UpstreamFailure as failure:
            return failure
        return None

    async def _commit(self) -> None:
        """The answer begins: its head, and what was read to know that it is one."""
        self._x.committed = True
        try:
            await self._response.prepare(self._request)
        except ConnectionError:
            self._client_is_there = False
        await self._send(self._streaming.first)
        # From here on chunks may be written past aiohttp's writer, which has nothing of its own left to send.
        headers = self._response.headers
        self._chunked = headers.get("Transfer-Encoding") == "chunked"
        self._at_once = bool(self._streaming.first) and (self._chunked or "Content-Length" in headers)
        self._x.first_byte_s = monotonic() - self._x.started

    def _take(self, data: bytes) -> bool:
        """A piece of the stream on its way through the meter; whether the next one may come. Where the client does not
        keep up it waits in `_behind`, and the upstream is not read until it is sent."""
        meter = self._meter
        out = meter.feed(data)
        if not out:
            return not meter.ended
        transport = self._request.transport
        if (
            transport is None
            or transport.is_closing()
            or not self._at_once
            or transport.get_write_buffer_size() > BEHIND_BYTES
        ):
            self._behind = out
            return False
        # It keeps up, as most do: no switch of tasks, no timer.
        transport.write(b"%x\r\n%b\r\n" % (len(out), out) if self._chunked else out)
        return not meter.ended

    async def _send(self, data: bytes) -> None:
        """Write, and wait while the client is behind; not for ever."""
        if not data or not self._client_is_there:
            return
        self.since = monotonic()
        try:
            await self._response.write(data)
        except ConnectionError:
            self._client_is_there = False
        finally:
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
        await self._end(farewell)

    async def _estimate(self, reason: str) -> None:
        ask, streaming = self._call.ask, self._streaming
        usage = ask.likely_usage(streaming.target.model, self._x.policy.part_tokens, streaming.meter.output_bytes)
        await self._hold.answered(usage, reason=reason)

    async def _end(self, farewell: bytes) -> None:
        """The last bytes and the end of the answer, in one write; the client is not waited for without end."""
        if not self._client_is_there:
            return
        self.since = monotonic()
        try:
            await self._response.write_eof(farewell)
        except ConnectionError:
            self._client_is_there = False
        finally:
            self.since = None

    def expire(self) -> None:
        """The client has not read for `idle` seconds: its connection is dropped, which ends the write that waits."""
        self.since = None
        transport = self._request.transport
        if transport is not None:
            transport.abort()
