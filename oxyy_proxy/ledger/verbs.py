"""The verbs of a ledger on its book: what is held, what a request leaves, and the rows to write. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from oxyy_proxy.ledger.base import AttemptEnd, Job, Opening, Settlement
from oxyy_proxy.ledger.book import (
    NOTHING_USED,
    Book,
    Closed,
    Counter,
    OpenRequest,
    Posting,
    Tried,
    attempts_json,
    closed_json,
    closed_postings,
    held_json,
)
from oxyy_proxy.rules import budget
from oxyy_proxy.rules.budget import Standing
from oxyy_proxy.rules.types import Target


def open_request(book: Book, opening: Opening, counters: Sequence[Counter]) -> tuple[Standing, ...]:
    """Hold on all `counters`, those of the opening's reservations in their order, or on none. Raises QuotaExceeded or
    RateLimited."""
    reservations = zip(counters, opening.reservations, strict=True)
    held = [(counter, limit, amount) for counter, (limit, _, amount) in reservations]
    for counter, limit, amount in held:
        if amount and amount > limit.cap - counter.spent - counter.held:
            asked = ((counter.standing(limit), amount) for counter, limit, amount in held)
            raise budget.refusal(asked, opening.started_at) or AssertionError("a full limit that has room")
    for counter, limit, amount in held:
        book.hold(counter, amount, limit.cap)
    started_ms = int(opening.started_at * 1000)
    first = opening.first
    request = OpenRequest(
        (
            opening.request_id,
            started_ms,
            opening.team,
            opening.key_id,
            opening.cost_center,
            opening.tag,
            opening.endpoint,
            opening.model_requested,
        ),
        opening.stream,
        opening.hold_nusd,
        tuple([Posting(*one) for one in held]),
        (Tried(first.model.name, first.worst_nusd, first.worst_tokens, started_ms),),
    )
    book.opened.append(request.row())
    book.set_open(opening.request_id, request)
    return tuple([counter.standing(limit) for counter, limit, _ in held])


def next_attempt(book: Book, request_id: str, ended: AttemptEnd, following: Target, at: float) -> None:
    """End the running attempt and begin the next. Raises QuotaExceeded or RateLimited where a cap forbids the top-up
    that an ambiguous end needs."""
    request = book.open[request_id]
    running, at_ms = request.attempts[-1], int(at * 1000)
    postings, hold_nusd = request.postings, request.hold_nusd
    if ended.outcome == "ambiguous":
        more = [posting.counter.kept_for(running) for posting in postings]
        pairs = list(zip(postings, more, strict=True))
        asked = ((p.counter.standing(p.limit), amount) for p, amount in pairs if p.limit is not None and amount)
        refused = budget.refusal(asked, at)
        if refused is not None:
            raise refused
        for posting, amount in pairs:
            book.hold_more(posting.counter, amount)
        postings = tuple(posting._replace(held=posting.held + amount) for posting, amount in pairs)
        hold_nusd += running.worst_nusd
    attempts = (
        *request.attempts[:-1],
        _ended(running, ended, at_ms),
        Tried(following.model.name, following.worst_nusd, following.worst_tokens, at_ms),
    )
    _reopen(book, request_id, request._replace(hold_nusd=hold_nusd, postings=postings, attempts=attempts))


def submitted(book: Book, job: Job, ended: AttemptEnd) -> bool:
    """End the running attempt of a request that made a job, and free its place among the `concurrent` ones; the rest
    of its hold stays. Returns whether it did: False if the request is not open, or has a job already."""
    request = book.open.get(job.request_id)
    if request is None or request.job_id is not None:
        return False
    kept = []
    for posting in request.postings:
        if posting.counter.meter == "concurrent":
            book.release(posting, Closed(posting.counter, 0, 0))
        else:
            kept.append(posting)
    attempts = (*request.attempts[:-1], _ended(request.attempts[-1], ended, round(job.submitted_at * 1000)))
    _reopen(book, job.request_id, request._replace(postings=tuple(kept), attempts=attempts, job_id=job.job_id))
    return True


def _reopen(book: Book, request_id: str, request: OpenRequest) -> None:
    """An open request has changed."""
    book.reopened[request_id] = (
        request.hold_nusd,
        held_json(request.postings),
        attempts_json(request.attempts),
        request_id,
    )
    book.set_open(request_id, request)


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
    left = closed_postings(request, ambiguous, end)
    overrun = end.cost_nusd + unresolved_nusd > request.hold_nusd
    for posting, closed in zip(request.postings, left, strict=True):
        book.release(posting, closed)
        overrun = overrun or closed.spent + closed.unresolved > posting.held
    usage = end.usage or NOTHING_USED
    book.ended.append(
        (
            *request.head[:2],
            finished_ms,
            *request.head[2:],
            end.model_served,
            end.state,
            end.status,
            request.stream,
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
            overrun,
            end.error_code,
            closed_json(left),
            attempts_json(attempts),
        )
    )
    book.set_open(end.request_id, None)
    if end.state != "voided":
        book.add_to_totals(request.total_key(end.model_served or attempts[-1].model), end)


def _ended(running: Tried, end: AttemptEnd, at_ms: int) -> Tried:
    return Tried(*running[:4], at_ms, end.outcome, end.reason, end.status)
