"""Limits, openings and ends, as ledger tests write them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

from oxyy_proxy.ledger.base import AttemptEnd, Job, Opening, Settlement
from oxyy_proxy.ledger.book import Book, Counter
from oxyy_proxy.rules.budget import Window, reservations
from oxyy_proxy.rules.requestid import request_id
from oxyy_proxy.rules.types import Limit, Meter, Model, Per, Plan, Price, Target, Usage

NOW = 1_795_003_200.0
"""2026-11-18T12:00:00Z."""

ANSWERED = AttemptEnd("answered", "ok", 200)
FAILED = AttemptEnd("failed", "status", 503)
AMBIGUOUS = AttemptEnd("ambiguous", "reset")
NOT_SENT = AttemptEnd("failed", "not_sent")
COMPLETED = AttemptEnd("answered", "job_completed", 200)
JOB_FAILED = AttemptEnd("failed", "job_failed", 200)
TIMED_OUT = AttemptEnd("ambiguous", "job_timeout", 200)

_numbers = itertools.count(1)


def limit(
    meter: Meter = "usd",
    per: Per | None = "month",
    cap: int = 1000,
    *,
    team: str | None = "search",
    key: str | None = None,
    models: Sequence[str] = (),
    zone: tzinfo = UTC,
) -> Limit:
    """As policy files make it: the id is everything but the cap and the zone."""
    name = f"{team or 'organisation'} {meter}/{per} {','.join(models)} {key or ''}".strip()
    return Limit(name, meter, per, cap, zone, team, key, tuple(models))


def concurrent(cap: int, team: str | None = "search") -> Limit:
    return limit("concurrent", None, cap, team=team)


def target(nusd: int = 100, tokens: int = 10, model: str = "gpt-5") -> Target:
    return Target(Model(model, frozenset({"chat"}), {}), nusd, tokens)


def opening(
    limits: Sequence[Limit] = (),
    targets: Sequence[Target] = (),
    *,
    now: float = NOW,
    team: str = "search",
    key: str = "search-prod",
    tag: str | None = None,
    cost_center: str | None = None,
    endpoint: str = "chat",
) -> Opening:
    """A request to `targets` in order, watched by `limits`; its id is new, and of its time."""
    targets = tuple(targets) or (target(),)
    watch, amounts = reservations(Plan(targets[0].model.name, targets, tuple(limits)), now)
    name, model = request_id(now, f"{next(_numbers):016x}"), targets[0].model.name
    return Opening(
        head=(name, int(now * 1000), team, key, cost_center or f"CC-{team}", tag, endpoint, model, 0),
        started_at=now,
        watch=watch,
        amounts=amounts,
        hold_nusd=max(t.worst_nusd for t in targets),
        first=targets[0],
    )


class Reserved(NamedTuple):
    limit: Limit
    window: Window
    amount: int


def reserved(opened: Opening) -> list[Reserved]:
    """What a request holds on each limit that watches it."""
    return [Reserved(*one) for one in zip(opened.watch.limits, opened.watch.windows, opened.amounts, strict=True)]


def rows(values: Sequence[object], columns: int) -> list[tuple[Any, ...]]:
    """Of what a book notes to be written: the values of one row after those of the other."""
    assert len(values) % columns == 0
    return [tuple(values[start : start + columns]) for start in range(0, len(values), columns)]


def users(book: Book, counter: Counter) -> int:
    """How many open requests hold on a counter."""
    return sum(counter in request.group.counters for request in book.open.values())


def answered(
    opened: Opening, cost_nusd: int = 40, usage: Usage | None = None, *, model: str | None = None, at: float = NOW + 1
) -> Settlement:
    """The request was answered, by `model` or else by its first target."""
    return Settlement(
        opened.request_id,
        at,
        "settled",
        200,
        ANSWERED,
        model_served=model or opened.first.model.name,
        usage=usage or Usage(3, 1, 0, 4, 0),
        cost_nusd=cost_nusd,
    )


def voided(opened: Opening, *, sent: bool = True, at: float = NOW + 1) -> Settlement:
    """Every attempt failed for certain, or none was sent."""
    last = FAILED if sent else NOT_SENT
    return Settlement(opened.request_id, at, "voided", 503, last, error_code="upstream_503", sent=sent)


def unresolved(opened: Opening, last: AttemptEnd = AMBIGUOUS, *, at: float = NOW + 1) -> Settlement:
    return Settlement(opened.request_id, at, "unresolved", 502, last, error_code="upstream_reset")


def job(opened: Opening, job_id: str | None = None, *, at: float | None = None) -> Job:
    """The job that the first attempt of a request made; its id is new unless it is named."""
    return Job(
        job_id or f"job_{next(_numbers)}",
        opened.request_id,
        opened.head[2],
        opened.started_at if at is None else at,
        opened.first.model.name,
        "policy-1",
        {"video_second": Price(400_000_000_000_000, {"1080p": 500_000_000_000_000})},
        Usage(video_ms=8_000, size="1080p", source="computed"),
    )


def completed(opened: Opening, cost_nusd: int = 40, usage: Usage | None = None, *, at: float = NOW + 90) -> Settlement:
    """Its job is done."""
    usage = usage or Usage(video_ms=8_000, size="1080p", source="computed")
    return replace(answered(opened, cost_nusd, usage, at=at), last=COMPLETED)


def job_failed(opened: Opening, *, at: float = NOW + 90) -> Settlement:
    return Settlement(opened.request_id, at, "voided", 200, JOB_FAILED, error_code="job_failed")


def timed_out(opened: Opening, *, at: float = NOW + 90) -> Settlement:
    """Nobody knows how its job ended."""
    return Settlement(opened.request_id, at, "unresolved", 200, TIMED_OUT, error_code="job_timeout")
