"""Try the targets of a plan until one answers, under one deadline (README, "Failover").

An answer that comes whole is read and checked here, up to a megabyte of it, and a stream is read up to its first real
event, so that a failure still moves on: nothing has gone to the client yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

from oxyy_proxy.endpoints.base import Answer, Ask, StreamMeter
from oxyy_proxy.endpoints.large import LargeMeter
from oxyy_proxy.errors import (
    ProxyError,
    UpstreamAuth,
    UpstreamBadResponse,
    UpstreamErrorAnswer,
    UpstreamFailure,
    UpstreamStatus,
    UpstreamTimeout,
)
from oxyy_proxy.ledger.base import AttemptEnd
from oxyy_proxy.rules.breaker import Event
from oxyy_proxy.rules.hints import retry_after_s
from oxyy_proxy.rules.route import backoff_s, following
from oxyy_proxy.rules.types import Model, Policy, Retry, Target
from oxyy_proxy.steps.health import verdict
from oxyy_proxy.steps.hold import Hold, attempt_end
from oxyy_proxy.steps.state import Call, Exchange, Services
from oxyy_proxy.upstream import Outgoing, UpstreamAnswer

COMMIT_AT_BYTES = 1024 * 1024
"""A whole answer that is larger is not kept to be checked: it goes out as it comes."""

_ALL_BUT = 0.9
"""Of its time: what was before an attempt, a ledger's commit say, takes a little of the deadline."""

_KEPT_HEADERS = ("Retry-After",)
"""Of an error of the upstream, beside its Content-Type."""

_AMBIGUOUS_STATUS = frozenset({408, 502, 504})
"""Statuses by which a gateway on the way says that it gave up waiting: the work may have been done."""


@dataclass(slots=True)
class Whole:
    """A 200 that was read whole: its bytes, and what they say was consumed."""

    target: Target
    content_type: str
    body: bytes
    answer: Answer


@dataclass(slots=True)
class Streaming:
    """A 200 whose first event is here: `first` may go to the client, the rest is in `answer`."""

    target: Target
    content_type: str
    answer: UpstreamAnswer
    meter: StreamMeter
    first: bytes


@dataclass(slots=True)
class PassedThrough:
    """An error of the upstream that is the client's to see, unchanged."""

    target: Target
    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str]
    end: AttemptEnd


Answered = Whole | Streaming | PassedThrough


async def attempt(services: Services, x: Exchange, call: Call, target: Target) -> Answered:
    """One call, and the word of how it went to who decides about the next. Raises UpstreamFailure."""
    x.attempts += 1
    ask, sent = call.ask, monotonic()
    event: Event = "nothing"
    took_s = 0.0
    try:
        own_s, left_s = _own_limit_s(x, call, target), x.deadline - sent
        headers = f"Content-Type: {ask.content_type}\r\nx-request-id: {x.request_id}\r\n{x.forwarded}"
        answer = await services.upstream.post(
            call.endpoint.path, _body(x, ask, target.model), headers, own_s if own_s < left_s else left_s
        )
        answered = await _read(ask, target, answer, x.policy)
        took_s = monotonic() - sent
        event = _event(answered, took_s, x.policy.breaker.slow_s)
        return answered
    except UpstreamFailure as failure:
        took_s = monotonic() - sent
        hurried = isinstance(failure, UpstreamTimeout) and _was_hurried(x, call, target, took_s)
        event = "nothing" if hurried else verdict(failure)
        raise
    finally:
        services.health.ended(target.model.name, event, x.policy, sent)
        x.upstream_s += took_s or monotonic() - sent


async def others(services: Services, x: Exchange, call: Call, hold: Hold, failure: UpstreamFailure) -> Answered:
    """The first answer along the rest of the chain, after the first target failed so. Raises the last UpstreamFailure
    where nobody answered."""
    most, at = x.policy.retry.attempts, 0
    try:
        while True:
            if failure.ambiguous and call.endpoint.after_ambiguous is not None:
                most = min(most, x.attempts + call.endpoint.after_ambiguous)
            following = await _following(services, x, call, at, most, failure)
            if following is None:
                raise failure
            try:
                await hold.next_attempt(attempt_end(failure), call.targets[following])
            except BaseException as error:
                services.health.ended(call.targets[following].model.name, "nothing", x.policy)
                if isinstance(error, ProxyError):  # a cap or the ledger forbids it: the failure is the answer
                    raise failure from None
                raise
            at = following
            try:
                return await attempt(services, x, call, call.targets[at])
            except UpstreamFailure as error:
                failure = error
    finally:
        del failure  # or it would be kept by its own traceback


def _was_hurried(x: Exchange, call: Call, target: Target, took_s: float) -> bool:
    """Whether a time-out says nothing of the model: for the client's sake it had less time than the policy gives."""
    policy = x.policy
    slow = policy.breaker.slow_s is not None and took_s > policy.breaker.slow_s
    return not slow and took_s < _ALL_BUT * min(_own_limit_s(x, call, target), policy.retry.deadline_s)


def _event(answered: Answered, took_s: float, slow_s: float | None) -> Event:
    """What an answer says of the model."""
    if isinstance(answered, PassedThrough) and (answered.status >= 500 or answered.status in (408, 429)):
        return "nothing" if answered.status == 429 else "failure"
    return "success" if slow_s is None or took_s <= slow_s else "failure"


async def _following(
    services: Services, x: Exchange, call: Call, at: int, most: int, failure: UpstreamFailure
) -> int | None:
    """Which target is tried next, after a pause; None for none: nobody is left whose breaker admits it, the deadline
    leaves no time, or there were too many retries of late."""
    if not failure.retryable:
        return None
    targets, health = call.targets, services.health
    candidates = following(
        len(targets), at, x.attempts, most, ambiguous=failure.ambiguous, client_retries=x.client_retries
    )
    pause_s = backoff_s(x.attempts, services.jitter())
    if len(targets) == 1:  # the same model, which may have said when it wants to be asked again
        pause_s = max(pause_s, retry_after_s(failure.headers.get("Retry-After", "")))
    if not candidates or monotonic() + pause_s >= x.deadline:
        return None
    chosen = next((n for n in candidates if health.admit(targets[n].model.name, x.policy)), None)
    if chosen is None:
        return None
    name = targets[chosen].model.name
    if not health.may_retry(x.model_label, x.policy):
        health.ended(name, "nothing", x.policy)
        return None
    try:
        await asyncio.sleep(pause_s)
    except BaseException:
        health.ended(name, "nothing", x.policy)
        raise
    return chosen


def _own_limit_s(x: Exchange, call: Call, target: Target) -> float:
    """How long the policy lets an attempt take, until its first byte or to its end."""
    model, retry = target.model, x.policy.retry
    own_s, general_s = (model.first_byte_s, retry.first_byte_s) if call.ask.stream else (model.answer_s, retry.answer_s)
    return general_s if own_s is None else own_s


def _body(x: Exchange, ask: Ask, model: Model) -> bytes | Outgoing:
    """What is sent: as one, or as it is read from where the upload lies."""
    body = ask.body_for(model)
    if isinstance(body, bytes):
        return body
    assert x.upload is not None
    size = sum(len(piece) if isinstance(piece, bytes) else piece.end - piece.start for piece in body)
    return Outgoing(size, x.upload.pieces(body))


async def _read(ask: Ask, target: Target, answer: UpstreamAnswer, policy: Policy) -> Answered:
    """What this answer is, as far as it must be read to know; closed unless it flows on. Raises UpstreamFailure."""
    flows = False
    try:
        if not 200 <= answer.status < 300:
            return await _no_answer(target, answer, policy.retry)
        encoding = answer.header("Content-Encoding")
        if encoding and encoding.lower() != "identity":
            raise UpstreamBadResponse("The upstream's answer is encoded, which was not asked for. Retry.")
        content_type, parts = answer.header("Content-Type"), policy.part_tokens
        meter = ask.meter(content_type, target.model)
        if meter is None:
            body, whole = (await answer.read(), True) if ask.holds_back else await answer.read_up_to(COMMIT_AT_BYTES)
            if whole:
                return Whole(target, content_type, body, ask.read(body, target.model, parts))
            meter = LargeMeter(ask, target.model, parts)
            first = meter.feed(body)
        else:
            first = await _first_event(answer, meter)
        answer.flow(policy.retry.idle_s)
        flows = True
        return Streaming(target, content_type, answer, meter, first)
    finally:
        if not flows:
            answer.close()


async def _no_answer(target: Target, answer: UpstreamAnswer, retry: Retry) -> PassedThrough:
    """What has another status than 2xx. Raises UpstreamFailure."""
    status, content_type = answer.status, answer.header("Content-Type")
    if status < 400:
        raise UpstreamErrorAnswer(f"The upstream answered {status}, which is not an answer. Tell your platform team.")
    if status in (401, 403):
        raise UpstreamAuth.refused()
    kept = {name: value for name in _KEPT_HEADERS if (value := answer.header(name))}
    body = await answer.read()
    if status in retry.on:
        final = {**kept, "x-should-retry": "false"}
        raise UpstreamStatus(status, content_type, body, final, ambiguous=status in _AMBIGUOUS_STATUS)
    end = AttemptEnd("ambiguous" if status in _AMBIGUOUS_STATUS else "failed", "status", status)
    return PassedThrough(target, status, content_type, body, kept, end)


async def _first_event(answer: UpstreamAnswer, meter: StreamMeter) -> bytes:
    """Read up to the first real event: what may go to the client then. Raises UpstreamErrorAnswer for an
    error in its place (it costs nothing), UpstreamBadResponse for an end without one (it may)."""
    out = []
    while not (meter.started or meter.failure or meter.ended):
        data = await answer.chunk()
        if not data:
            out.append(meter.finish())
            break
        out.append(meter.feed(data))
    if not meter.started:
        raise meter.failure or UpstreamBadResponse("The upstream's stream ended before it began. Retry.")
    return b"".join(out)
