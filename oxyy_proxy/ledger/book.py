"""What the writer of a ledger keeps in memory: counters, open requests, totals, and the arithmetic of ending one; and
how rows of the store hold what is in a record.

Pure. A `Book` remembers what the running transaction touched, so that it can be written once or put back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from operator import add, attrgetter
from typing import Any, NamedTuple

import orjson

from oxyy_proxy.ledger.base import Head, Job, Settlement
from oxyy_proxy.rules.budget import Standing, Watch, Window, picker
from oxyy_proxy.rules.route import matches
from oxyy_proxy.rules.types import Limit, Price, Usage

NOTHING_USED = Usage()
"""Of a request whose end says no usage."""

units = attrgetter(
    "input_tokens", "cached_input_tokens", "output_tokens", "images", "video_ms", "audio_ms", "characters"
)
"""What of a usage is a column of `requests`, and summed in `totals`."""

Sent = tuple[str, int, int, int]
"""An attempt when it begins: model, worst nano-USD, worst tokens, and when, in epoch milliseconds."""

Ended = tuple[int | None, str | None, str | None, int | None]
"""How it ended: when, in epoch milliseconds, outcome, reason, status."""

RUNS: Ended = (None, None, None, None)


class Tried(NamedTuple):
    """An attempt that has ended: what it was when it was sent, then its end."""

    model: str
    worst_nusd: int
    worst_tokens: int
    started_ms: int
    finished_ms: int | None
    outcome: str | None
    reason: str | None
    status: int | None


class Counter:
    """One limit in one window. `held` is everything that is held, `unresolved` the part of it that no open request
    holds. `id` is the store's, 0 for `concurrent`, which is kept in memory alone: a restart ends every request."""

    __slots__ = ("cap", "held", "id", "meter", "models", "spent", "unresolved", "window")

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

    def standing(self, limit: Limit) -> Standing:
        return Standing(limit, self.window, self.spent, self.held)

    def covers(self, model: str) -> bool:
        return not self.models or matches(self.models, model)

    def kept_for(self, tried: Tried) -> int:
        """What stays held for an attempt of unknown cost: usd and tokens; `requests` counts it as spent."""
        if self.meter not in ("usd", "tokens") or not self.covers(tried.model):
            return 0
        return tried.worst_nusd if self.meter == "usd" else tried.worst_tokens


_FIGURE = {"concurrent": 0, "usd": 1, "tokens": 2, "requests": 3}
"""Where in the figures of `_spent` that of a meter is."""


class Group:
    """Counters that a request holds on together, and the caps under which it does: their own, if none are named."""

    __slots__ = ("caps", "charged", "counters", "figures", "ids", "nothing", "of_all", "pick", "stored", "under_caps")

    def __init__(self, counters: Sequence[Counter], caps: Sequence[int] | None = None) -> None:
        self.counters = tuple(counters)
        self.caps = tuple(caps) if caps is not None else tuple([counter.cap for counter in counters])
        self.nothing = (0,) * len(self.counters)
        self.ids = tuple([counter.id for counter in counters if counter.id])
        """Of those that are in the store."""
        self.stored = picker([place for place, counter in enumerate(counters) if counter.id])
        """What is of those, of what is of each."""
        self.charged = f"[{','.join([f'[{id},0,%s]' for id in self.ids])}]"
        """The postings of a request that leaves nothing unresolved, without what it spent on each counter."""
        self.figures = tuple([_FIGURE[counter.meter] for counter in counters])
        self.pick = picker(self.figures)
        self.of_all = not any(counter.models for counter in counters)
        """Whether every model counts on each of them."""
        self.under_caps = False
        """Whether they know the caps."""


@dataclass(slots=True)
class OpenRequest:
    """An open row. `held` is what is held on each counter of `group`. `running`: the last attempt; None where none was
    sent. If that one made a job, `job_id` is set, and the job runs. `before`: the attempts that failed. `watch` is None
    after a restart, when only counters are known. What is in the book is replaced, not changed."""

    head: Head
    hold_nusd: int
    group: Group
    held: tuple[int, ...]
    running: Sent | None
    before: tuple[Tried, ...] = ()
    watch: Watch | None = None
    job_id: str | None = None

    def tried(self) -> list[str]:
        """The models of its attempts."""
        models = [tried.model for tried in self.before]
        return models if self.running is None else [*models, self.running[0]]


def kept(request: OpenRequest, ambiguous: Sequence[Tried]) -> tuple[int, ...]:
    """What stays held for those attempts on each counter of a request."""
    return tuple([sum([counter.kept_for(tried) for tried in ambiguous]) for counter in request.group.counters])


def spent(request: OpenRequest, end: Settlement) -> tuple[int, ...]:
    """What a request that ends spent on each of its counters."""
    group, served = request.group, end.model_served
    sent = 1 if end.sent and request.running is not None else 0
    cost, tokens = (0, 0) if served is None else (end.cost_nusd, end.usage.tokens if end.usage else 0)
    figures = (0, cost, tokens, sent)
    if group.of_all:
        return group.pick(figures)
    return tuple(
        [
            figures[n] if _counts(counter, request, served) else 0
            for n, counter in zip(group.figures, group.counters, strict=True)
        ]
    )


def _counts(counter: Counter, request: OpenRequest, served: str | None) -> bool:
    """Whether the models of a request count: each that was tried counts as a request."""
    if counter.meter == "requests":
        return any(map(counter.covers, request.tried()))
    return served is not None and counter.covers(served)


def record_json(request: OpenRequest, last: Ended) -> str:
    """`[head, hold, [[counter id, held], …], attempts]`, without counters that are kept in memory alone."""
    group = request.group
    postings = list(zip(group.ids, group.stored(request.held)))  # noqa: B905 - see `Book`
    return orjson.dumps((request.head, request.hold_nusd, postings, _attempts(request, last))).decode()


def closed_json(group: Group, unresolved: Sequence[int], spent: Sequence[int]) -> str:
    """`[[counter id, unresolved, spent], …]`, without counters that are kept in memory alone."""
    if unresolved is group.nothing:  # as nearly always
        return group.charged % group.stored(spent)
    return orjson.dumps(list(zip(group.ids, group.stored(unresolved), group.stored(spent), strict=True))).decode()


def attempts_json(request: OpenRequest, last: Ended) -> str:
    """`[[model, worst nano-USD, …, status], …]`. `last`: how the last one ended."""
    return orjson.dumps(_attempts(request, last)).decode()


def _attempts(request: OpenRequest, last: Ended) -> list[tuple[object, ...]]:
    attempts: list[tuple[object, ...]] = [] if request.running is None else [request.running + last]
    return [*map(tuple, request.before), *attempts] if request.before else attempts


def job_row(job: Job) -> tuple[str, str, str, int, str]:
    """The columns of `jobs`. `json` and not orjson: what a client asked for may hold half a surrogate pair."""
    terms = {
        "model": job.model,
        "policy_version": job.policy_version,
        "prices": {unit: [price.default, dict(price.variants)] for unit, price in job.prices.items()},
        "asked": asdict(job.asked),
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
    which remember how to put back what was there before, and what must be written.

    What every request passes does without `strict` where it pairs counters with amounts: to take the word in costs as
    much as the pairs."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, int], Counter] = {}
        self.groups: dict[Watch, Group] = {}
        """Found for a watch; may be forgotten at any time."""
        self.open: dict[str, OpenRequest] = {}
        self.parked: set[str] = set()
        """The open requests that wait for their job, and not for an answer."""
        self.totals: dict[tuple[str, ...], tuple[int, ...]] = {}
        """As the fields of a TotalKey and those of a Total."""
        self.latest_ms: dict[str, int] = {}
        """By team: when the last of its requests began, of those that this process has opened."""
        self.opened: list[object] = []
        """Rows to write, here and below: the columns of one after those of the other."""
        self.reopened: dict[str, str] = {}
        """Request -> record: of two changes in one transaction the second counts."""
        self.ended: list[object] = []
        self.answered: list[object] = []
        """Of what has ended: what a shorter row says all of (`schema.INSERT_ANSWERED`)."""
        self._to_undo: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._changed: set[Counter] = set()
        self._totals_before: dict[tuple[str, ...], tuple[int, ...] | None] = {}
        """What the totals were that have changed."""

    def changed_counters(self) -> list[object]:
        """Spent, unresolved, cap, id of the counters whose row may be no longer right. What open requests hold is in
        their own rows."""
        columns: list[object] = []
        for counter in self._changed:
            if counter.id:
                columns += (counter.spent, counter.unresolved, counter.cap, counter.id)
        return columns

    def changed_totals(self) -> list[object]:
        columns: list[object] = []
        for key in self._totals_before:
            columns += key
            columns += self.totals[key]
        return columns

    def add_counter(self, key: tuple[str, int], counter: Counter) -> None:
        self.counters[key] = counter
        self._to_undo.append((self._remove_counter, (key,)))

    def _remove_counter(self, key: tuple[str, int]) -> None:
        self.counters.pop(key, None)

    def begin(self, request: OpenRequest) -> list[int]:
        """One more request is open and holds. Returns what is left under each cap of its group: less than nothing where
        that is passed."""
        group, head, left = request.group, request.head, []
        for cap, counter, amount in zip(group.caps, group.counters, request.held):  # noqa: B905 - see `Book`
            counter.held = held = counter.held + amount
            left.append(cap - counter.spent - held)
        request_id, started_ms, team = head[0], head[1], head[2]
        self._to_undo.append((self._forget, (request, self.open.get(request_id))))
        self._put(request)
        if started_ms > self.latest_ms.get(team, 0):
            self.latest_ms[team] = started_ms
        return left

    def take_back(self) -> None:
        """The last change has not been made."""
        undo, arguments = self._to_undo.pop()
        undo(*arguments)

    def _forget(self, request: OpenRequest, was: OpenRequest | None) -> None:
        for counter, amount in zip(request.group.counters, request.held, strict=True):
            counter.held -= amount
        if was is None:
            del self.open[request.head[0]]
        else:  # a defect: it was open already
            self._put(was)

    def raise_cap(self, counter: Counter, cap: int) -> None:
        """A hold was made under this cap; the highest is remembered."""
        if cap > counter.cap:
            self._to_undo.append((setattr, (counter, "cap", counter.cap)))
            counter.cap = cap
            self._changed.add(counter)

    def hold_more(self, counter: Counter, amount: int) -> None:
        """Or less, where `amount` is negative."""
        self._to_undo.append((setattr, (counter, "held", counter.held)))
        counter.held += amount

    def change(self, request: OpenRequest) -> None:
        """What is known of an open request is now this. What it holds has been changed."""
        self._to_undo.append((self._put, (self.open[request.head[0]],)))
        self._put(request)

    def _put(self, request: OpenRequest) -> None:
        self.open[request.head[0]] = request
        if request.job_id is not None:
            self.parked.add(request.head[0])

    def end(self, request: OpenRequest, unresolved: Sequence[int], spent: Sequence[int]) -> bool:
        """A request ends: what it held on each counter is given back, save what it leaves. Returns whether it leaves
        more on any of them than it held there."""
        counters, more = request.group.counters, False
        for counter, held, kept, cost in zip(counters, request.held, unresolved, spent):  # noqa: B905 - see `Book`
            counter.held += kept - held
            counter.unresolved += kept
            counter.spent += cost
            if kept + cost > held:
                more = True
        self._changed.update(counters)
        del self.open[request.head[0]]
        if request.job_id is not None:
            self.parked.discard(request.head[0])
        self._to_undo.append((self._resume, (request, unresolved, spent)))
        return more

    def _resume(self, request: OpenRequest, unresolved: Sequence[int], spent: Sequence[int]) -> None:
        for counter, held, kept, cost in zip(request.group.counters, request.held, unresolved, spent, strict=True):
            counter.held -= kept - held
            counter.unresolved -= kept
            counter.spent -= cost
        self._put(request)

    def add_to_totals(self, key: tuple[str, ...], more: tuple[int, ...]) -> None:
        """`more`: as the fields of a Total."""
        was = self.totals.get(key)
        self._totals_before.setdefault(key, was)
        self.totals[key] = more if was is None else tuple(map(add, was, more))

    def drop_past_counters(self, now: int) -> None:
        """Forget counters of ended windows that no open request holds on and that are not about to be written; the
        store has them."""
        held_on = self._changed.union(*[request.group.counters for request in self.open.values()])
        self.counters = {
            key: counter
            for key, counter in self.counters.items()
            if counter.window.end > now or not counter.id or counter in held_on
        }
        self.groups.clear()

    def commit(self) -> None:
        """What was touched is durable."""
        self._to_undo.clear()
        self._changed.clear()
        self._totals_before.clear()

    def written(self) -> None:
        """The rows that were noted are in the store's transaction."""
        self.opened.clear()
        self.reopened.clear()
        self.ended.clear()
        self.answered.clear()

    def undo(self) -> None:
        """Put back what the transaction touched."""
        for undo, arguments in reversed(self._to_undo):
            undo(*arguments)
        for key, total in self._totals_before.items():
            if total is None:
                del self.totals[key]
            else:
                self.totals[key] = total
        self.parked = {request_id for request_id, request in self.open.items() if request.job_id is not None}
        self.groups.clear()
        self.written()
        self.commit()
