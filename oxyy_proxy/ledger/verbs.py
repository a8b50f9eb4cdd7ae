"""The verbs of a ledger on its book: what is held, what a request leaves, and the rows to write. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import add, gt

from oxyy_proxy.ledger.base import AttemptEnd, Job, Opening, Settlement
from oxyy_proxy.ledger.book import (
    NOTHING_USED,
    Book,
    Group,
    OpenRequest,
    Tried,
    attempts_json,
    closed_json,
    held_json,
    kept,
    spent,
)
from oxyy_proxy.rules import budget
from oxyy_proxy.rules.budget import Standing
from oxyy_proxy.rules.types import Limit, Target


def open_request(book: Book, opening: Opening, group: Group) -> tuple[int, ...]:
    """Hold on all counters of `group`, those of the opening's watch in its order, or on none. Raises QuotaExceeded or
    RateLimited."""
    limits, amounts = opening.watch.limits, opening.amounts
    left = [
        limit.cap - counter.spent - counter.held - amount
        for limit, counter, amount in zip(limits, group.counters, amounts)  # noqa: B905 - see `Book`
    ]
    if left and min(left) < 0:
        refused = budget.refusal(_asked(limits, group, amounts), opening.started_at)
        if refused is not None:
            raise refused
        left = [max(0, what) for what in left]  # nothing is asked of those that are overdrawn
    if not group.under_caps:
        for counter, limit in zip(group.counters, limits, strict=True):
            book.raise_cap(counter, limit.cap)
        group.under_caps = True
    started_ms = int(opening.started_at * 1000)
    first = opening.first
    request = OpenRequest(
        (opening.request_id, started_ms, *opening[2:8], int(opening.stream)),
        opening.hold_nusd,
        group,
        amounts,
        (Tried(first.model.name, first.worst_nusd, first.worst_tokens, started_ms),),
        opening.watch,
    )
    book.opened.append(request.row())
    book.begin(request)
    return tuple(left)


def _asked(limits: Sequence[Limit], group: Group, amounts: Sequence[int]) -> Iterator[tuple[Standing, int]]:
    """How each limit stands, with what is asked of it, where anything is."""
    for limit, counter, amount in zip(limits, group.counters, amounts, strict=True):
        if amount:
            yield counter.standing(limit), amount


def next_attempt(book: Book, request_id: str, ended: AttemptEnd, following: Target, at: float) -> None:
    """End the running attempt and begin the next. Raises QuotaExceeded or RateLimited where a cap forbids the top-up
    that an ambiguous end needs."""
    request = book.open[request_id]
    running, at_ms = request.attempts[-1], int(at * 1000)
    held, hold_nusd = request.held, request.hold_nusd
    if ended.outcome == "ambiguous":
        more = kept(request, [running])
        if request.watch is not None:
            refused = budget.refusal(_asked(request.watch.limits, request.group, more), at)
            if refused is not None:
                raise refused
        for counter, amount in zip(request.group.counters, more, strict=True):
            book.hold_more(counter, amount)
        held = tuple(map(add, held, more))
        hold_nusd += running.worst_nusd
    attempts = (
        *request.attempts[:-1],
        _ended(running, ended, at_ms),
        Tried(following.model.name, following.worst_nusd, following.worst_tokens, at_ms),
    )
    _reopen(book, request._replace(hold_nusd=hold_nusd, held=held, attempts=attempts))


def submitted(book: Book, job: Job, ended: AttemptEnd) -> bool:
    """End the running attempt of a request that made a job, and free its place among the `concurrent` ones; the rest
    of its hold stays. Returns whether it did: False if the request is not open, or has a job already."""
    request = book.open.get(job.request_id)
    if request is None or request.job_id is not None:
        return False
    counters, held = [], []
    for counter, amount in zip(request.group.counters, request.held, strict=True):
        if counter.meter == "concurrent":
            book.hold_more(counter, -amount)
        else:
            counters.append(counter)
            held.append(amount)
    attempts = (*request.attempts[:-1], _ended(request.attempts[-1], ended, round(job.submitted_at * 1000)))
    changed = request._replace(
        group=Group(counters), held=tuple(held), attempts=attempts, watch=None, job_id=job.job_id
    )
    _reopen(book, changed)
    return True


def _reopen(book: Book, request: OpenRequest) -> None:
    """An open request has changed."""
    book.reopened[request.head[0]] = (
        request.hold_nusd,
        held_json(request),
        attempts_json(request.attempts),
        request.head[0],
    )
    book.change(request)


def settle(book: Book, end: Settlement) -> None:
    """End a request, once: what is not open is left as it is. Of one that made a job, `end.last` says how the job
    ended, in the place of its submission."""
    request = book.open.get(end.request_id)
    if request is None:
        return  # settled already: twice changes nothing
    finished_ms = int(end.finished_at * 1000)
    attempts = request.attempts
    if attempts:
        attempts = (*attempts[:-1], _ended(attempts[-1], end.last, finished_ms))
    ambiguous = [tried for tried in attempts if tried.outcome == "ambiguous"]
    unresolved_nusd = sum([tried.worst_nusd for tried in ambiguous])
    unresolved, charged = kept(request, ambiguous), spent(request, end)
    overrun = end.cost_nusd + unresolved_nusd > request.hold_nusd or any(
        map(gt, map(add, unresolved, charged), request.held)
    )
    book.end(request, unresolved, charged)
    usage = end.usage or NOTHING_USED
    head = request.head
    book.ended.append(
        (
            *head[:2],
            finished_ms,
            *head[2:8],
            end.model_served,
            end.state,
            end.status,
            head[8],
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.output_tokens,
            usage.images,
            usage.video_ms / 1000,
            usage.audio_ms / 1000,
            usage.characters,
            request.hold_nusd,
            end.cost_nusd,
            unresolved_nusd,
            usage.source if end.usage else None,
            int(overrun),
            end.error_code,
            closed_json(request.group, unresolved, charged),
            attempts_json(attempts),
        )
    )
    if end.state != "voided":
        book.add_to_totals(request.total_key(end.model_served or attempts[-1].model), end)


def _ended(running: Tried, end: AttemptEnd, at_ms: int) -> Tried:
    return Tried(*running[:4], at_ms, end.outcome, end.reason, end.status)
