"""What the writer of a ledger keeps in memory: counters, open requests, totals, and the arithmetic of ending one; and
how rows of the store hold what is in a record.

Pure. A `Book` remembers what the running transaction touched, so that it can be written once or put back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from oxyy_proxy.ledger.base import Job, Settlement
from oxyy_proxy.rules.budget import Standing, Window
from oxyy_proxy.rules.figures import Total, TotalKey
from oxyy_proxy.rules.route import matches
from oxyy_proxy.rules.types import Limit, Price, Usage

NOTHING_USED = Usage()
"""Of a request whose end says no usage."""


class Tried(NamedTuple):
    """An attempt as the ledger keeps it; `outcome` is None while it runs. Times in milliseconds."""

    model: str
    worst_nusd: int
    worst_tokens: int
    started_ms: int
    finished_ms: int | None = None
    outcome: str | None = None
    reason: str | None = None
    status: int | None = None


class Counter:
    """One limit in one window. `held` is everything that is held, `unresolved` the part of it that no open request
    holds. `id` is the store's, 0 for `concurrent`, which is kept in memory alone: a restart ends every request.
    `users`: open requests that hold on it."""

    __slots__ = ("cap", "held", "id", "meter", "models", "spent", "unresolved", "users", "window")

    def __init__(
        self,
        id: int,
        meter: str,
        models: tuple[str, ...],
        window: Window,
        cap: int,
        spent: int = 0,
        unresolved: int = 0,
    ) -> None:
        self.id = id
        self.meter = meter
        self.models = models
        self.window = window
        self.cap = cap
        self.spent = spent
        self.unresolved = unresolved
        self.held = unresolved
        self.users = 0

    def standing(self, limit: Limit) -> Standing:
        return Standing(limit, self.window, self.spent, self.held)

    def covers(self, model: str) -> bool:
        return not self.models or matches(self.models, model)

    def kept_for(self, tried: Tried) -> int:
        """What stays held for an attempt of unknown cost: usd and tokens; `requests` counts it as spent."""
        if self.meter not in ("usd", "tokens") or not self.covers(tried.model):
            return 0
        return tried.worst_nusd if self.meter == "usd" else tried.worst_tokens


class Posting(NamedTuple):
    """What an open request holds on one counter. `limit` is None after a restart, when only the counter is known."""

    counter: Counter
    limit: Limit | None
    held: int


class Closed(NamedTuple):
    """What an ended request leaves on one counter."""

    counter: Counter
    unresolved: int
    spent: int


class OpenRequest(NamedTuple):
    """An open row. `head` is its first columns: request_id, started_ms, team, key_id, cost_center, tag, endpoint,
    model_requested. The last of `attempts` runs, unless it made a job: then `job_id` is set, and that one runs."""

    head: tuple[str | int | None, ...]
    stream: bool
    hold_nusd: int
    postings: tuple[Posting, ...]
    attempts: tuple[Tried, ...]
    job_id: str | None = None

    def row(self) -> tuple[object, ...]:
        """The columns of `open_requests`."""
        return (*self.head, self.stream, self.hold_nusd, held_json(self.postings), attempts_json(self.attempts))

    def total_key(self, model: str) -> TotalKey:
        _, _, team, _, cost_center, _, endpoint, _ = self.head
        return TotalKey(str(team), str(cost_center), model, str(endpoint))


def closed_postings(request: OpenRequest, ambiguous: Sequence[Tried], end: Settlement) -> list[Closed]:
    """What a request that ends leaves: what stays held for its ambiguous attempts, and what it spent."""
    left = []
    for counter, _, _ in request.postings:
        kept = sum(counter.kept_for(tried) for tried in ambiguous) if ambiguous else 0
        left.append(Closed(counter, kept, _spent(counter, request, end)))
    return left


def _spent(counter: Counter, request: OpenRequest, end: Settlement) -> int:
    if counter.meter == "requests":
        return int(end.sent and any(counter.covers(tried.model) for tried in request.attempts))
    if end.model_served is None or not counter.covers(end.model_served):
        return 0
    if counter.meter == "usd":
        return end.cost_nusd
    if counter.meter == "tokens" and end.usage is not None:
        return end.usage.tokens
    return 0


def held_json(postings: Iterable[Posting]) -> str:
    """`[[counter id, held], …]`, without counters that are kept in memory alone."""
    return orjson.dumps([(p.counter.id, p.held) for p in postings if p.counter.id]).decode()


def closed_json(postings: Iterable[Closed]) -> str:
    """`[[counter id, unresolved, spent], …]`, without counters that are kept in memory alone."""
    return orjson.dumps([(p.counter.id, p.unresolved, p.spent) for p in postings if p.counter.id]).decode()


def attempts_json(attempts: Iterable[Tried]) -> str:
    return orjson.dumps([tuple(tried) for tried in attempts]).decode()


def job_row(job: Job) -> tuple[str, str, str, int, str]:
    """The columns of `jobs`. `json` and not orjson: what a client asked for may hold half a surrogate pair."""
    terms = {
        "model": job.model,
        "policy_version": job.policy_version,
        "prices": {unit: [price.default, dict(price.variants)] for unit, price in job.prices.items()},
        "asked": job.asked._asdict(),
    }
    return job.job_id, job.request_id, job.team, round(job.submitted_at * 1000), json.dumps(terms)


def job_of_row(job_id: str, request_id: str, team: str, submitted_ms: int, terms: str) -> Job:
    """The job that `job_row` wrote."""
    said = json.loads(terms)
    prices = {unit: Price(default, variants) for unit, (default, variants) in said["prices"].items()}
    asked = Usage(**said["asked"])
    return Job(job_id, request_id, team, submitted_ms / 1000, said["model"], said["policy_version"], prices, asked)


class Book:
    """The state of a ledger's writer between transactions. Readers outside look; all changes go through the methods,
    which remember what was there before and what must be written."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, int], Counter] = {}
        self.open: dict[str, OpenRequest] = {}
        self.parked: set[str] = set()
        """The open requests that wait for their job, and not for an answer."""
        self.totals: dict[TotalKey, Total] = {}
        self.opened: list[tuple[object, ...]] = []
        self.reopened: dict[str, tuple[object, ...]] = {}
        """By request: of two changes in one transaction the second counts."""
        self.ended: list[tuple[object, ...]] = []
        self._before: dict[Counter, tuple[int, int, int, int, int]] = {}
        self._open_before: dict[str, OpenRequest | None] = {}
        self._totals_before: dict[TotalKey, Total | None] = {}
        self._added: list[tuple[str, int]] = []

    def changed_counters(self) -> list[tuple[int, int, int, int]]:
        """(spent, unresolved, cap, id) of the counters whose row is no longer right. What open requests hold is in
        their own rows."""
        return [
            (counter.spent, counter.unresolved, counter.cap, counter.id)
            for counter, (spent, unresolved, _, _, cap) in self._before.items()
            if counter.id and (counter.spent, counter.unresolved, counter.cap) != (spent, unresolved, cap)
        ]

    def changed_totals(self) -> list[tuple[object, ...]]:
        return [(*key, *self.totals[key]) for key in self._totals_before]

    def add_counter(self, key: tuple[str, int], counter: Counter) -> None:
        self.counters[key] = counter
        self._added.append(key)

    def _touch(self, counter: Counter) -> None:
        if counter not in self._before:
            self._before[counter] = (counter.spent, counter.unresolved, counter.held, counter.users, counter.cap)

    def hold(self, counter: Counter, amount: int, cap: int) -> None:
        """One more request holds `amount`; the cap under which it did so is remembered."""
        self._touch(counter)
        counter.held += amount
        counter.users += 1
        counter.cap = max(counter.cap, cap)

    def hold_more(self, counter: Counter, amount: int) -> None:
        self._touch(counter)
        counter.held += amount

    def release(self, posting: Posting, left: Closed) -> None:
        """A request ends: what it held is given back, save what it leaves."""
        counter = posting.counter
        self._touch(counter)
        counter.held += left.unresolved - posting.held
        counter.unresolved += left.unresolved
        counter.spent += left.spent
        counter.users -= 1

    def set_open(self, request_id: str, request: OpenRequest | None) -> None:
        self._open_before.setdefault(request_id, self.open.get(request_id))
        if request is None:
            self.open.pop(request_id, None)
            self.parked.discard(request_id)
        else:
            self.open[request_id] = request
            if request.job_id is not None:
                self.parked.add(request_id)

    def add_to_totals(self, key: TotalKey, end: Settlement) -> None:
        was = self.totals.get(key)
        self._totals_before.setdefault(key, was)
        cost, tokens_in, cached, tokens_out, estimated, unresolved, images, video_ms, audio_ms, chars = was or Total()
        usage = end.usage or NOTHING_USED
        self.totals[key] = Total(
            cost + end.cost_nusd,
            tokens_in + usage.input_tokens,
            cached + usage.cached_input_tokens,
            tokens_out + usage.output_tokens,
            estimated + (usage.source == "estimated"),
            unresolved + (end.state == "unresolved"),
            images + usage.images,
            video_ms + usage.video_ms,
            audio_ms + usage.audio_ms,
            chars + usage.characters,
        )

    def drop_past_counters(self, now: int) -> None:
        """Forget counters of ended windows that no open request holds on and that are not about to be written; the
        store has them."""
        self.counters = {
            key: counter
            for key, counter in self.counters.items()
            if counter.users or counter.window.end > now or not counter.id or counter in self._before
        }

    def commit(self) -> None:
        """What was touched is durable."""
        for touched in (self._before, self._open_before, self._totals_before):
            touched.clear()
        self._added.clear()
        self.written()

    def written(self) -> None:
        """The rows that were noted are in the store's transaction."""
        self.opened.clear()
        self.reopened.clear()
        self.ended.clear()

    def undo(self) -> None:
        """Put back what the transaction touched."""
        for counter, was in self._before.items():
            counter.spent, counter.unresolved, counter.held, counter.users, counter.cap = was
        for request_id, request in self._open_before.items():
            if request is None:
                self.open.pop(request_id, None)
            else:
                self.open[request_id] = request
        self.parked = {request_id for request_id, request in self.open.items() if request.job_id is not None}
        for key, total in self._totals_before.items():
            if total is None:
                self.totals.pop(key, None)
            else:
                self.totals[key] = total
        for added in self._added:
            self.counters.pop(added, None)
        self.commit()
