"""Random histories of a ledger against a model of it that is too simple to be wrong: every figure is summed anew from
the requests, and the ledger must say the same after every step, crashes and restarts included."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from oxyy_proxy.errors import QuotaExceeded, RateLimited
from oxyy_proxy.ledger.base import Opening
from oxyy_proxy.rules.budget import Window, window
from oxyy_proxy.rules.types import Limit, Target, Usage
from tests.ledger import making
from tests.ledger.making import NOW, concurrent, limit
from tests.ledger.stores import STORES, SqliteStore

T = TypeVar("T")

UNITS = ("images", "video_ms", "audio_ms", "characters")
TEAMS = {"search": ("search-prod", "search-dev"), "support": ("support-prod",)}
MODELS = ("gpt-5", "claude-4", "veo-3")

AT_FIRST = (
    limit(team=None, cap=3000),
    limit(cap=1500),
    limit("usd", "day", 400, models=["claude-*", "veo-*"]),
    limit("tokens", "minute", 60),
    limit("requests", "minute", 6),
    concurrent(4),
    limit("usd", "month", 500, key="search-dev"),
    limit("usd", "day", 900, team="support"),
    limit("tokens", "month", 300, team="support", models=["gpt-*"]),
    concurrent(2, team="support"),
)
ADDED = (limit("tokens", "day", 500, team=None), limit("usd", "minute", 300), limit("requests", "day", 40))

amounts = st.integers(0, 150)
targets = st.builds(making.target, amounts, st.integers(0, 15), st.sampled_from(MODELS))


@dataclass
class Row:
    """A request as the model knows it."""

    opened: Opening
    tried: list[Target]
    limits: tuple[Limit, ...]
    ambiguous: list[Target] = field(default_factory=list)
    state: str = "open"
    served: str = ""
    cost: int = 0
    tokens: int = 0
    sent: bool = True
    job_id: str | None = None
    units: Usage = field(default_factory=Usage)

    def amounts_on(self, limit: Limit, at: Window) -> tuple[int, int]:
        """(spent, held) of this request on a limit in a window."""
        reserved = [r.amount for r in making.reserved(self.opened) if (r.limit.id, r.window) == (limit.id, at)]
        if not reserved:
            return 0, 0
        kept = sum(worst(limit, target) for target in self.ambiguous)
        if self.state == "open":
            return 0, 0 if self.job_id and limit.meter == "concurrent" else reserved[0] + kept
        if limit.meter == "requests":
            return int(self.sent), 0
        return self.charged(limit), kept

    def charged(self, limit: Limit) -> int:
        if self.state != "settled" or not in_scope(limit, self.served):
            return 0
        return {"usd": self.cost, "tokens": self.tokens}.get(limit.meter, 0)


def in_scope(limit: Limit, model: str) -> bool:
    return not limit.models or any(model.startswith(glob.rstrip("*")) for glob in limit.models)


def worst(limit: Limit, target: Target) -> int:
    if not in_scope(limit, target.model.name):
        return 0
    return {"usd": target.worst_nusd, "tokens": target.worst_tokens}.get(limit.meter, 0)


class Histories(RuleBasedStateMachine):
    """Rules are verbs. `make` is the store under test."""

    make: type[SqliteStore]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.rows: dict[str, Row] = {}
        self.limits = {each.id: each for each in AT_FIRST}
        self.openings: dict[tuple[str, int], int] = {}
        self.now = NOW

    @initialize()
    def start(self) -> None:
        self.store = self.make(Path(self.folder.name))
        self.run(self._call(self.store.open))

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()

    # --- verbs -------------------------------------------------------------------------------------------------

    @rule(who=st.sampled_from([(team, key) for team, keys in TEAMS.items() for key in keys]),
          chain=st.lists(targets, min_size=1, max_size=3, unique_by=lambda target: target.model.name),
          film=st.booleans())  # fmt: skip
    def open(self, who: tuple[str, str], chain: list[Target], film: bool) -> None:
        team, key = who
        watching = tuple(x for x in self.limits.values() if x.team in (None, team) and x.key in (None, key))
        opened = making.opening(watching, chain, now=self.now, team=team, key=key)
        for r in making.reserved(opened):
            self.touch(r.limit)
        fits = all(r.amount <= max(0, r.limit.cap - sum(self.expected(r.limit))) for r in making.reserved(opened))
        try:
            left = self.run(self.store.ledger.open(opened))
        except (QuotaExceeded, RateLimited):
            assert not fits
        else:
            assert fits
            self.rows[opened.request_id] = Row(opened, [chain[0]], watching)
            limits = opened.watch.limits
            assert list(left) == [max(0, limit.cap - sum(self.expected(limit))) for limit in limits]
            standings = self.run(self.store.ledger.standings(limits, self.now))
            assert [(s.spent, s.held) for s in standings] == [self.expected(limit) for limit in limits]
            if film:
                self.submit_job(self.rows[opened.request_id], f"job_{len(self.rows)}")

    @precondition(lambda self: self.served_rows)
    @rule(data=st.data(), following=targets, ambiguous=st.booleans())
    def next_attempt(self, data: st.DataObject, following: Target, ambiguous: bool) -> None:
        row = data.draw(st.sampled_from(self.served_rows))
        ended = making.AMBIGUOUS if ambiguous else making.FAILED
        running = row.tried[-1]
        fits = not ambiguous or all(
            worst(r.limit, running) <= max(0, r.limit.cap - sum(self.expected(r.limit, r.window)))
            for r in making.reserved(row.opened)
            if worst(r.limit, running)
        )
        try:
            self.run(self.store.ledger.next_attempt(row.opened.request_id, ended, following, self.now))
        except (QuotaExceeded, RateLimited):
            assert not fits
        else:
            assert fits
            row.tried.append(following)
            if ambiguous:
                row.ambiguous.append(running)

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), job_id=st.sampled_from([f"job_{n}" for n in range(1, 7)]))
    def submit(self, data: st.DataObject, job_id: str) -> None:
        """For the first time, again, with an id that another request has, or too late."""
        self.submit_job(data.draw(st.sampled_from([*self.served_rows, *self.rows.values()])), job_id)

    def submit_job(self, row: Row, job_id: str) -> None:
        owners = [other for other in self.rows.values() if other.job_id == job_id]
        told = self.run(self.store.ledger.submitted(making.job(row.opened, job_id, at=self.now), making.ANSWERED))
        if owners:
            assert told == (owners == [row])
        else:
            assert told == (row.state == "open" and row.job_id is None)
            if told:
                row.job_id = job_id

    @precondition(lambda self: self.open_rows)
    @rule(data=st.data(), cost=st.integers(0, 400), tokens=st.integers(0, 40),
          units=st.tuples(*[st.integers(0, 10_000)] * 4))  # fmt: skip
    def answer(self, data: st.DataObject, cost: int, tokens: int, units: tuple[int, int, int, int]) -> None:
        row = self.pick(data)
        row.state, row.served, row.cost, row.tokens = "settled", row.tried[-1].model.name, cost, tokens
        usage = Usage(input_tokens=tokens // 2, output_tokens=tokens - tokens // 2)
        usage = row.units = replace(usage, **dict(zip(UNITS, units, strict=True)))
        self.settle(making.answered(row.opened, cost, usage, model=row.served, at=self.now))

    @precondition(lambda self: self.open_rows)
    @rule(data=st.data(), last_is_ambiguous=st.booleans(), sent=st.booleans())
    def fail(self, data: st.DataObject, last_is_ambiguous: bool, sent: bool) -> None:
        row = self.pick(data)
        if last_is_ambiguous:
            row.ambiguous.append(row.tried[-1])
        row.state = "unresolved" if row.ambiguous else "voided"
        row.sent = sent or bool(row.ambiguous) or len(row.tried) > 1 or row.job_id is not None
        if row.state == "voided":
            self.settle(making.voided(row.opened, sent=row.sent, at=self.now))
        else:
            last = making.AMBIGUOUS if last_is_ambiguous else making.FAILED
            self.settle(making.unresolved(row.opened, last, at=self.now))

    @precondition(lambda self: any(row.state != "open" for row in self.rows.values()))
    @rule(data=st.data(), ended=st.sampled_from([making.answered, making.voided, making.unresolved]))
    def settle_again(self, data: st.DataObject, ended: Any) -> None:
        row = data.draw(st.sampled_from([row for row in self.rows.values() if row.state != "open"]))
        self.settle(ended(row.opened))

    # --- the world ---------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 30, 60, 86_400, 31 * 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(data=st.data(), cap=st.integers(0, 2000))
    def change_a_cap(self, data: st.DataObject, cap: int) -> None:
        changed = data.draw(st.sampled_from(sorted(self.limits)))
        self.limits[changed] = replace(self.limits[changed], cap=cap)

    @rule(added=st.sampled_from(ADDED))
    def add_a_limit(self, added: Limit) -> None:
        self.limits.setdefault(added.id, added)

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        ended = self.served_rows
        running = len(self.open_rows) - len(ended)
        if clean:
            self.run(self.store.reopen())
        else:
            self.run(self._call(self.store.crash))
        for row in ended:
            row.ambiguous.append(row.tried[-1])
            row.state = "unresolved"
        assert self.store.ledger.recovered == (len(ended), 0, running)

    # --- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def the_ledger_agrees_with_the_model(self) -> None:
        limits = list(self.limits.values())
        for each in limits:
            if each.per not in ("minute", "hour"):  # a look at a short window is not a use of it
                self.touch(each)
        snapshot = self.run(self.store.ledger.snapshot(limits, self.now))
        assert {s.limit.id: (s.spent, s.held) for s in snapshot.standings} == {
            each.id: self.expected(each) for each in limits
        }
        totals = snapshot.totals.values()
        assert sum(total.unresolved for total in totals) == sum(r.state == "unresolved" for r in self.rows.values())
        assert sum(total.cost_nusd for total in totals) == sum(row.cost for row in self.rows.values())
        for unit in UNITS:
            said, expected = (sum(getattr(x, unit) for x in of) for of in (totals, self.usages))
            assert said == expected, unit

    @invariant()
    def every_job_is_its_requests(self) -> None:
        running = self.run(self.store.ledger.running_jobs())
        assert {(job.job_id, job.request_id) for job in running} == {
            (row.job_id, row.opened.request_id) for row in self.open_rows if row.job_id
        }
        for row in self.rows.values():
            if row.job_id:
                job = self.run(self.store.ledger.job(row.job_id))
                assert job is not None
                assert (job.request_id, job.team) == (row.opened.request_id, row.opened.head[2])

    @invariant()
    def every_promise_is_kept(self) -> None:
        verdict = self.run(self.store.verify())
        assert verdict.broken == ()
        assert (verdict.requests, verdict.open) == (len(self.rows), len(self.open_rows))

    @invariant()
    def every_row_says_what_happened(self) -> None:
        rows = {r["request_id"]: (r["state"], r["cost_nusd"], r["unresolved_nusd"], r["attempts"])
                for r in self.store.usage()}  # fmt: skip
        assert rows == {
            name: (
                row.state,
                row.cost,
                0 if row.state == "open" else sum(target.worst_nusd for target in row.ambiguous),
                len(row.tried),
            )
            for name, row in self.rows.items()
        }

    # --- the model ---------------------------------------------------------------------------------------------

    @property
    def open_rows(self) -> list[Row]:
        return [row for row in self.rows.values() if row.state == "open"]

    @property
    def served_rows(self) -> list[Row]:
        """Whose attempt runs: they end with their process."""
        return [row for row in self.open_rows if row.job_id is None]

    @property
    def usages(self) -> list[Usage]:
        return [row.units for row in self.rows.values()]

    def pick(self, data: st.DataObject) -> Row:
        return data.draw(st.sampled_from(self.open_rows))

    def settle(self, end: Any) -> None:
        self.run(self.store.ledger.settle(end))

    def touch(self, used: Limit) -> None:
        """A limit that is first used in a window starts there with what ended requests of its scope spent."""
        at = window(used, self.now)
        if (used.id, at.start) not in self.openings:
            self.openings[used.id, at.start] = self.spent_before(used, at)

    def spent_before(self, used: Limit, at: Window) -> int:
        opened = 0
        for row in self.rows.values():
            asked = row.opened
            _, _, team, key, _, _, _, model_requested, _ = asked.head
            name = row.served or model_requested
            within = row.state != "open" and at.start <= asked.started_at < at.end and in_scope(used, name)
            if not within or used.team not in (None, team) or used.key not in (None, key):
                continue
            if used.meter == "usd":
                opened += row.cost + sum(target.worst_nusd for target in row.ambiguous)
            else:
                opened += {"tokens": row.tokens, "requests": 1}[used.meter]
        return opened

    def expected(self, used: Limit, at: Window | None = None) -> tuple[int, int]:
        at = at or window(used, self.now)
        posted = [row.amounts_on(used, at) for row in self.rows.values()]
        if used.meter == "concurrent":
            return 0, sum(
                held for row, (_, held) in zip(self.rows.values(), posted, strict=True) if row.state == "open"
            )
        opening = self.openings.get((used.id, at.start))
        if opening is None:
            opening = self.spent_before(used, at)
        return opening + sum(spent for spent, _ in posted), sum(held for _, held in posted)

    def run(self, verb: Awaitable[T]) -> T:
        async def waited() -> T:
            return await asyncio.wait_for(verb, 20)

        return self.loop.run_until_complete(waited())

    async def _call(self, make: Any) -> Any:
        return make()


@pytest.mark.parametrize("store", STORES)
def test_any_history_leaves_the_ledger_exact(store: str) -> None:
    machine = type("HistoriesOf" + store, (Histories,), {"make": STORES[store]}).TestCase
    machine.settings = settings(
        max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )
    machine("runTest").runTest()
