"""What the writer keeps in memory, and that a transaction which failed leaves no trace in it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxyy_proxy.ledger.base import Job
from oxyy_proxy.ledger.book import (
    RUNS,
    Book,
    Counter,
    Group,
    OpenRequest,
    Sent,
    Tried,
    attempts_json,
    closed_json,
    job_of_row,
    job_row,
    kept,
    record_json,
    spent,
)
from oxyy_proxy.rules.budget import ALWAYS, Window
from oxyy_proxy.rules.figures import Total, TotalKey
from oxyy_proxy.rules.types import Price, Usage
from tests.ledger.making import answered, concurrent, limit, opening, rows, unresolved, voided

MINUTE = Window(600, 660)
KEY = TotalKey("search", "CC-search", "gpt-5", "chat")
OPENED = opening([])


def counter(meter: str = "usd", id: int = 1, models: tuple[str, ...] = (), window: Window = MINUTE) -> Counter:
    return Counter(id, meter, models, window, cap=1000, spent=50, unresolved=20)


SENT: Sent = ("gpt-5", 100, 10, 600_000)


def tried(model: str = "gpt-5", nusd: int = 100, tokens: int = 10) -> Tried:
    return Tried(model, nusd, tokens, 600_000, 600_100, "ambiguous", "reset", None)


def request(*on: tuple[Counter, int], name: str = OPENED.request_id) -> OpenRequest:
    head = (name, 600_000, "search", "search-prod", "CC-search", None, "chat", "gpt-5", 0)
    group, held = Group([counter for counter, _ in on]), tuple([amount for _, amount in on])
    return OpenRequest(head, 100, group, held, SENT)


def figures(of: Counter) -> tuple[int, int, int, int]:
    return of.spent, of.unresolved, of.held, of.cap


class TestArithmetic:
    def test_what_is_unresolved_is_held(self) -> None:
        found = counter().standing(limit())
        assert (found.spent, found.held, found.window) == (50, 20, MINUTE)

    @pytest.mark.parametrize(("meter", "kept"), [("usd", 100), ("tokens", 10), ("requests", 0), ("concurrent", 0)])
    def test_an_ambiguous_attempt_keeps_money_and_tokens(self, meter: str, kept: int) -> None:
        assert counter(meter).kept_for(tried()) == kept
        assert counter(meter, models=("claude-*",)).kept_for(tried()) == 0
        assert counter(meter, models=("claude-*", "gpt-*")).kept_for(tried()) == kept

    @pytest.mark.parametrize(
        ("meter", "ended", "left"),
        [
            ("usd", answered(OPENED, 40), (0, 40)),
            ("tokens", answered(OPENED, 40, Usage(3, 0, 0, 4)), (0, 7)),
            ("tokens", replace(answered(OPENED), usage=None), (0, 0)),
            ("requests", answered(OPENED), (0, 1)),
            ("requests", voided(OPENED), (0, 1)),
            ("requests", voided(OPENED, sent=False), (0, 0)),
            ("concurrent", answered(OPENED), (0, 0)),
            ("usd", voided(OPENED), (0, 0)),
            ("usd", replace(answered(OPENED), model_served="claude"), (0, 0)),
        ],
    )
    def test_what_an_end_leaves_on_each_meter(self, meter: str, ended: Any, left: tuple[int, int]) -> None:
        of_some, of_all = request((counter(meter, models=("gpt-*",)), 100)), request((counter(meter), 100))
        assert (kept(of_some, []), spent(of_some, ended)) == ((left[0],), (left[1],))
        if ended.model_served != "claude":
            assert (kept(of_all, []), spent(of_all, ended)) == ((left[0],), (left[1],))

    def test_ambiguous_attempts_are_kept_together(self) -> None:
        on, of_claude = counter(), counter(models=("claude",))
        ended = request((on, 300), (of_claude, 100))
        ambiguous = [tried(nusd=100), tried("claude", nusd=70)]
        assert (kept(ended, ambiguous), spent(ended, unresolved(OPENED))) == ((170, 70), (0, 0))


class TestTransactions:
    def changed(self, book: Book, on: Counter) -> Counter:
        """Changes everything that a book has. Returns a counter that is new."""
        added = counter(id=2)
        book.add_counter(("added", 600), added)
        book.raise_cap(added, 900)
        book.begin(request((added, 5), (on, 100), name="ending"))
        book.raise_cap(on, 2000)
        book.hold_more(on, 30)
        book.change(request((added, 5), (on, 130), name="ending"))
        book.end(book.open["ending"], (0, 30), (0, 40))
        book.begin(request((on, 7), (added, 5), name="new"))
        book.raise_cap(on, 10)
        book.change(replace(request(name="running"), hold_nusd=1))
        book.end(book.open["running"], (), ())
        book.end(book.open["filming"], (), ())
        book.begin(request(name="new job"))
        book.change(replace(request(name="new job"), job_id="job_2"))
        book.add_to_totals(KEY, Total(40, 3, 1, 4, 1, 0, 2, 8_000, 30, 6))
        book.add_to_totals(KEY._replace(model="new"), Total(unresolved=1))
        book.add_to_totals(KEY._replace(model="new"), Total(unresolved=2))
        return added

    def book(self) -> tuple[Book, Counter]:
        book, on = Book(), counter()
        book.add_counter(("usd", 600), on)
        book.begin(request(name="running"))
        book.begin(replace(request(name="filming"), job_id="job_1"))
        book.add_to_totals(KEY, Total(2, 1, 0, 1))
        book.commit()
        return book, on

    def test_what_is_undone_never_happened(self) -> None:
        book, on = self.book()
        before = (figures(on), dict(book.open), set(book.parked), dict(book.totals), list(book.counters))
        for _ in range(2):
            added = self.changed(book, on)
            assert figures(added) == (50, 20, 25, 1000)
            book.undo()
            assert (figures(on), book.open, book.parked, book.totals, list(book.counters)) == before
            assert book.parked == {"filming"}
            assert (book.changed_counters(), book.changed_totals()) == ([], [])

    def test_what_is_committed_stays_and_is_written_once(self) -> None:
        book, on = self.book()
        self.changed(book, on)
        assert figures(on) == (90, 50, 57, 2000)
        assert sorted(rows(book.changed_counters(), 4)) == [(50, 20, 1000, 2), (90, 50, 2000, 1)]
        assert sorted(rows(book.changed_totals(), 14)) == [
            (*KEY, 42, 4, 1, 5, 1, 0, 2, 8_000, 30, 6),
            (*KEY._replace(model="new"), 0, 0, 0, 0, 0, 3, 0, 0, 0, 0),
        ]
        book.commit()
        assert (book.changed_counters(), book.changed_totals()) == ([], [])
        book.undo()
        assert figures(on) == (90, 50, 57, 2000)
        assert sorted(book.open) == ["new", "new job"]
        assert book.parked == {"new job"}
        assert book.totals[KEY] == Total(42, 4, 1, 5, 1, 0, 2, 8_000, 30, 6)

    def test_holding_alone_does_not_change_a_counters_row(self) -> None:
        book, on = self.book()
        book.begin(request((on, 100), name="new"))
        book.raise_cap(on, 1000)
        assert book.changed_counters() == []
        book.raise_cap(on, 1001)
        assert book.changed_counters() == [50, 20, 1001, 1]

    def test_what_is_kept_in_memory_alone_is_not_written(self) -> None:
        book = Book()
        running = Counter(0, "concurrent", (), ALWAYS, 9)
        book.add_counter(("concurrent", 0), running)
        book.begin(request((running, 1)))
        book.raise_cap(running, 99)
        assert book.changed_counters() == []
        assert running.standing(concurrent(9)).held == 1


def test_only_counters_that_nobody_needs_are_forgotten() -> None:
    book = Book()
    counters = {
        ("idle", 600): counter(),
        ("held", 600): counter(id=2),
        ("changed", 600): counter(id=3),
        ("current", 660): counter(id=4, window=Window(660, 720)),
        ("concurrent", 0): counter("concurrent", id=0, window=ALWAYS),
    }
    for key, each in counters.items():
        book.add_counter(key, each)
    book.begin(request((counters["held", 600], 1), name="open"))
    book.commit()
    ended = request((counters["changed", 600], 1), name="ended")
    book.begin(ended)
    book.end(ended, (0,), (1,))
    book.drop_past_counters(now=659)
    assert len(book.counters) == 5
    book.drop_past_counters(now=660)
    assert sorted(book.counters) == [("changed", 600), ("concurrent", 0), ("current", 660), ("held", 600)]
    book.commit()
    book.drop_past_counters(now=660)
    assert ("changed", 600) not in book.counters


def test_rows_name_the_counters_of_the_store_alone() -> None:
    on, running = counter(), counter("concurrent", id=0)
    held = request((on, 5), (running, 1), name="req_1")
    head = '["req_1",600000,"search","search-prod","CC-search",null,"chat","gpt-5",0]'
    assert record_json(held, RUNS) == f"[{head},100,[[1,5]],{attempts_json(held, RUNS)}]"
    assert closed_json(held.group, (5, 0), (7, 0)) == "[[1,5,7]]"
    assert closed_json(held.group, held.group.nothing, (7, 0)) == closed_json(held.group, (0, 0), (7, 0)) == "[[1,0,7]]"


def test_attempts_are_written_in_their_order_and_the_last_as_it_stands() -> None:
    alone = request()
    assert attempts_json(alone, RUNS) == '[["gpt-5",100,10,600000,null,null,null,null]]'
    assert attempts_json(replace(alone, running=None), RUNS) == "[]"
    assert attempts_json(replace(alone, before=(tried("mini", 7, 1),)), (600_200, "answered", "ok", 200)) == (
        '[["mini",7,1,600000,600100,"ambiguous","reset",null],["gpt-5",100,10,600000,600200,"answered","ok",200]]'
    )


def test_a_hold_says_what_it_leaves_under_each_cap() -> None:
    group = Group([counter(), counter("requests")], caps=[200, 70])
    book, holding = Book(), replace(request(), group=group, held=(100, 1))
    assert book.begin(holding) == [200 - 70 - 100, 70 - 70 - 1]
    book.take_back()
    assert ([figures(each) for each in group.counters], book.open) == ([(50, 20, 20, 1000)] * 2, {})


amounts = st.integers(0, 2**80)
texts = st.text(st.characters())  # half surrogate pairs too
prices = st.builds(Price, amounts, st.dictionaries(texts, amounts))
usages = st.builds(
    Usage,
    **{name: amounts if kind == "int" else texts for name, kind in Usage.__annotations__.items() if name != "source"},
    source=st.sampled_from(["upstream", "computed", "estimated"]),
)
jobs = st.builds(
    Job,
    job_id=texts,
    request_id=texts,
    team=texts,
    submitted_at=st.integers(0, 2**42).map(lambda ms: ms / 1000),
    model=texts,
    policy_version=texts,
    prices=st.dictionaries(texts, prices),
    asked=usages,
)


@given(jobs)
def test_a_job_is_read_back_as_it_was_written(made: Job) -> None:
    row = job_row(made)
    assert job_of_row(*row) == made
    assert row[4].isascii()
    assert job_row(job_of_row(*row)) == row


def test_the_terms_of_a_job_are_what_the_schema_says() -> None:
    prices = {"video_second": Price(4, {"1080p": 5}), "request": Price(1)}
    made = Job("job_1", "req_1", "search", 1.001, "veo-3", "v1", prices, Usage(video_ms=8_000, size="1080p"))
    *columns, terms = job_row(made)
    assert columns == ["job_1", "req_1", "search", 1001]
    said = json.loads(str(terms))
    assert said.pop("asked") == {**asdict(Usage()), "video_ms": 8_000, "size": "1080p"}
    assert said == {
        "model": "veo-3",
        "policy_version": "v1",
        "prices": {"video_second": [4, {"1080p": 5}], "request": [1, {}]},
    }


def test_a_job_of_an_older_version_may_say_less_of_what_was_asked() -> None:
    terms = '{"model": "veo-3", "policy_version": "v1", "prices": {}, "asked": {"video_ms": 1}}'
    assert job_of_row("job_1", "req_1", "search", 0, terms).asked == Usage(video_ms=1)


def test_of_two_changes_of_a_row_in_one_transaction_the_second_is_written() -> None:
    book = Book()
    for record in ("[1]", "[2]"):
        book.reopened["req_1"] = record
    assert book.reopened == {"req_1": "[2]"}
    book.written()
    assert book.reopened == {}
