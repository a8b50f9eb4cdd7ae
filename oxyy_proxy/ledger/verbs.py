"""The verbs of a ledger on its book: what is held, what a request leaves, and the rows to write. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import add

from oxyy_proxy.ledger.base import AttemptEnd, Job, Opening, Settlement
from oxyy_proxy.ledger.book import (
    NOTHING_USED,
    RUNS,
    Book,
    Ended,
    Group,
    OpenRequest,
    Tried,
    attempts_json,
    closed_json,
    kept,
    record_json,
    spent,
    units,
)
from oxyy_proxy.rules import budget
from oxyy_proxy.rules.budget import Standing
from oxyy_proxy.rules.types import Limit, Target


def open_request(book: Book, opening: Opening, group: Group) -> tuple[int, ...]:
    """Hold on all counters of `group`, those of the opening's watch in its order, or on none. Raises QuotaExceeded or
    RateLimited."""
    head, watch, amounts, first = opening.head, opening.watch, opening.amounts, opening.first
    running = (first.model.name, first.worst_nusd, first.worst_tokens, head[1])
    request = OpenRequest(head, opening.hold_nusd, group, amounts, running, (), watch)
    left = book.begin(request)
    if left and min(left) < 0:
        book.take_back()
        refused = budget.refusal(_asked(watch.limits, group, amounts), opening.started_at)
        if refused is not None:
            raise refused
        left = [max(0, what) for what in book.begin(request)]  # nothing is asked of those that are overdrawn
    if not group.under_caps:
        for counter, cap in zip(group.counters, group.caps, strict=True):
            book.raise_cap(counter, cap)
        group.under_caps = True
    book.opened += (head[0], record_json(request, RUNS))
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
    assert request.running is not None  # nothing follows where nothing was sent
    at_ms = int(at * 1000)
    tried = Tried(*request.running, at_ms, *ended)
    held, hold_nusd = request.held, request.hold_nusd
    if ended.outcome == "ambiguous":
        more = kept(request, [tried])
        if request.watch is not None:
            refused = budget.refusal(_asked(request.watch.limits, request.group, more), at)
            if refused is not None:
                raise refused
        for counter, amount in zip(request.group.counters, more, strict=True):
            book.hold_more(counter, amount)
        held = tuple(map(add, held, more))
        hold_nusd += tried.worst_nusd
    running = (following.model.name, following.worst_nusd, following.worst_tokens, at_ms)
    changed = replace(request, hold_nusd=hold_nusd, held=held, running=running, before=(*request.before, tried))
    _reopen(book, changed, RUNS)


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
    changed = replace(request, group=Group(counters), held=tuple(held), watch=None, job_id=job.job_id)
    _reopen(book, changed, (round(job.submitted_at * 1000), *ended))
    return True


def _reopen(book: Book, request: OpenRequest, last: Ended) -> None:
    """An open request has changed."""
    book.reopened[request.head[0]] = record_json(request, last)
    book.change(request)


def settle(book: Book, end: Settlement) -> None:
    """End a request, once: what is not open is left as it is. Of one that made a job, `end.last` says how the job
    ended, in the place of its submission."""
    request = book.open.get(end.request_id)
    if request is None:
        return  # settled already: twice changes nothing
    state, served, usage, cost_nusd = end.state, end.model_served, end.usage, end.cost_nusd
    last = (int(end.finished_at * 1000), *end.last)
    unresolved_nusd, unresolved = _left_unresolved(request, last)
    charged, hold_nusd = spent(request, end), request.hold_nusd
    overrun = book.end(request, unresolved, charged) or cost_nusd + unresolved_nusd > hold_nusd
    used = units(usage or NOTHING_USED)
    source = usage.source if usage else None
    postings, attempts = closed_json(request.group, unresolved, charged), attempts_json(request, last)
    if end.status == 200 and state == "settled" and not (overrun or unresolved_nusd or end.error_code or any(used[3:])):
        book.answered += request.head
        book.answered += (*used[:3], last[0], served, hold_nusd, cost_nusd, source, postings, attempts)
    else:
        book.ended += request.head
        book.ended += used
        book.ended += (
            last[0], served, state, end.status, hold_nusd, cost_nusd, unresolved_nusd, source, 1 if overrun else 0,
            end.error_code, postings, attempts,
        )  # fmt: skip
    if state != "voided":
        _, _, team, _, cost_center, _, endpoint, _, _ = request.head
        counted = (1 if source == "estimated" else 0, 1 if state == "unresolved" else 0)
        more = (cost_nusd, *used[:3], *counted, *used[3:])
        book.add_to_totals((team, cost_center, served or request.tried()[-1], endpoint), more)


def _left_unresolved(request: OpenRequest, last: Ended) -> tuple[int, tuple[int, ...]]:
    """What the ambiguous attempts of a request that ends may cost: in all, and what stays held on each counter."""
    if last[1] != "ambiguous" and not request.before:
        return 0, request.group.nothing
    attempts = request.before if request.running is None else (*request.before, Tried(*request.running, *last))
    ambiguous = [tried for tried in attempts if tried.outcome == "ambiguous"]
    return sum([tried.worst_nusd for tried in ambiguous]), kept(request, ambiguous)
