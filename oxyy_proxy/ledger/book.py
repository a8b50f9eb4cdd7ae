"""What the writer of a ledger keeps in memory: counters, open requests, totals, and the arithmetic of ending one.

Pure. A `Book` remembers what the running transaction touched, so that it can be written once or put back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from oxyy_proxy.ledger.base import Settlement
from oxyy_proxy.rules.budget import Standing, Window
from oxyy_proxy.rules.figures import Total, TotalKey
from oxyy_proxy.rules.route import matches
from oxyy_proxy.rules.types import Limit


class Tried(NamedTuple):
    """An attempt that was sent, and the worst it can have cost."""

    model: str
    worst_nusd: int
    worst_tokens: int


@dataclass(slots=True, eq=False)
class Counter:
    """One limit in one window. `id` is the store's, 0 for `concurrent`, which is kept in memory alone: a restart ends
    every request. `users`: open requests that hold on it."""

    id: int
    meter: str
    models: tuple[str, ...]
    window: Window
    cap: int
    spent: int = 0
    held: int = 0
    users: int = 0

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
    """What one request has on one counter. `limit` is None after a restart, when only the counter is known."""

    counter: Counter
    limit: Limit | None
    held: int
    spent: int = 0


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """An open row, as far as ending it needs. Replaced, never changed, so that a failed commit can be undone."""

    team: str
    cost_center: str
    endpoint: str
    hold_nusd: int
    attempt: int
    running: Tried
    postings: tuple[Posting, ...]
    ambiguous: tuple[Tried, ...] = field(default=())


class Book:
    """The state of a ledger's writer between transactions. Readers outside look; all changes go through `move`,
    `set_open`, `add_counter` and `add_to_totals`, which remember what was there before."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, int], Counter] = {}
        self.open: dict[str, OpenRequest] = {}
        self.totals: dict[TotalKey, Total] = {}
        self.unresolved = 0
        self._unresolved_before = 0
        self._moved: dict[Counter, Counter] = {}
        self._open_before: dict[str, OpenRequest | None] = {}
        self._totals_before: dict[TotalKey, Total | None] = {}
        self._added: list[tuple[str, int]] = []

    @property
    def moved_counters(self) -> Iterable[Counter]:
        """Counters that this transaction changed and the store keeps."""
        return [counter for counter in self._moved if counter.id]

    @property
    def moved_totals(self) -> Iterable[tuple[TotalKey, Total]]:
        return [(key, self.totals[key]) for key in self._totals_before]

    def add_counter(self, key: tuple[str, int], counter: Counter) -> None:
        self.counters[key] = counter
        self._added.append(key)

    def move(self, counter: Counter, *, held: int = 0, spent: int = 0, users: int = 0, cap: int = 0) -> None:
        if counter not in self._moved:
            self._moved[counter] = replace(counter)
        counter.held += held
        counter.spent += spent
        counter.users += users
        counter.cap = max(counter.cap, cap)

    def set_open(self, request_id: str, request: OpenRequest | None) -> None:
        self._open_before.setdefault(request_id, self.open.get(request_id))
        if request is None:
            self.open.pop(request_id, None)
        else:
            self.open[request_id] = request

    def add_to_totals(self, request: OpenRequest, end: Settlement) -> None:
        key = TotalKey(request.team, request.cost_center, end.model_served or "", request.endpoint)
        was = self.totals.get(key)
        self._totals_before.setdefault(key, was)
        total = self.totals[key] = replace(was) if was else Total()
        total.cost_nusd += end.cost_nusd
        if end.usage is not None:
            total.input_tokens += end.usage.input_tokens
            total.cached_input_tokens += end.usage.cached_input_tokens
            total.output_tokens += end.usage.output_tokens
            total.estimated += end.usage.source == "estimated"

    def drop_past_counters(self, now: int) -> None:
        """Forget counters of ended windows that no open request holds on; the store has them."""
        self.counters = {
            key: counter
            for key, counter in self.counters.items()
            if counter.users or counter.window.end > now or not counter.id
        }

    def commit(self) -> None:
        """What was touched is durable."""
        self._unresolved_before = self.unresolved
        self._moved.clear()
        self._open_before.clear()
        self._totals_before.clear()
        self._added.clear()

    def undo(self) -> None:
        """Put back what the transaction touched."""
        for counter, was in self._moved.items():
            counter.spent, counter.held, counter.users, counter.cap = was.spent, was.held, was.users, was.cap
        for request_id, request in self._open_before.items():
            if request is None:
                self.open.pop(request_id, None)
            else:
                self.open[request_id] = request
        for key, total in self._totals_before.items():
            if total is None:
                self.totals.pop(key, None)
            else:
                self.totals[key] = total
        for added in self._added:
            self.counters.pop(added, None)
        self.unresolved = self._unresolved_before
        self.commit()


def closed_postings(request: OpenRequest, ambiguous: Iterable[Tried], end: Settlement) -> tuple[Posting, ...]:
    """The postings of a request that ends: what stays held for its ambiguous attempts, and what it spent."""
    ambiguous = tuple(ambiguous)
    return tuple(
        posting._replace(
            held=sum(posting.counter.kept_for(tried) for tried in ambiguous), spent=_spent(posting.counter, end)
        )
        for posting in request.postings
    )


def _spent(counter: Counter, end: Settlement) -> int:
    if counter.meter == "requests":
        return int(end.sent)
    if end.model_served is None or not counter.covers(end.model_served):
        return 0
    if counter.meter == "usd":
        return end.cost_nusd
    if counter.meter == "tokens" and end.usage is not None:
        return end.usage.tokens
    return 0


def postings_json(postings: Iterable[Posting]) -> str:
    """`[[counter id, held, spent], …]`, without counters that are kept in memory alone."""
    return json.dumps([(p.counter.id, p.held, p.spent) for p in postings if p.counter.id], separators=(",", ":"))
