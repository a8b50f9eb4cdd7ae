"""The verbs on a book, without a store; what they come to on a real one is in test_conformance.py."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from oxyy_proxy.errors import QuotaExceeded
from oxyy_proxy.ledger import verbs
from oxyy_proxy.ledger.base import Opening
from oxyy_proxy.ledger.book import Book, Counter, Group
from oxyy_proxy.rules.figures import Total
from oxyy_proxy.rules.types import Usage
from tests.ledger.making import (
    AMBIGUOUS,
    ANSWERED,
    COMPLETED,
    FAILED,
    NOW,
    answered,
    completed,
    concurrent,
    job,
    limit,
    opening,
    reserved,
    rows,
    target,
    users,
)


def counters_for(opened: Opening) -> Group:
    return Group(
        [
            Counter(n, limit.meter, limit.models, window, limit.cap)
            for n, (limit, window, _) in enumerate(reserved(opened), start=1)
        ]
    )


def test_a_hold_is_on_every_counter_and_in_one_row() -> None:
    book, opened = Book(), opening([limit(cap=100), limit("requests", "day", 5)], [target(nusd=60)])
    group = counters_for(opened)
    counters = group.counters
    assert verbs.open_request(book, opened, group) == (40, 4)
    assert [counter.held for counter in counters] == [60, 1]
    name, record = book.opened
    head, hold_nusd, postings, _ = json.loads(str(record))
    assert (name, head[0], hold_nusd, postings) == (opened.request_id, opened.request_id, 60, [[1, 60], [2, 1]])


def test_a_hold_that_does_not_fit_one_counter_is_on_none() -> None:
    book, opened = Book(), opening([limit("requests", "day", 5), limit(cap=59)], [target(nusd=60)])
    group = counters_for(opened)
    counters = group.counters
    with pytest.raises(QuotaExceeded):
        verbs.open_request(book, opened, group)
    assert [counter.held for counter in counters] == [0, 0]
    assert (book.opened, book.open) == ([], {})


def test_an_ambiguous_attempt_is_added_to_the_hold_and_a_definite_one_is_not() -> None:
    for ended, held in ((FAILED, 60), (AMBIGUOUS, 120)):
        book, opened = Book(), opening([limit(cap=1000)], [target(nusd=60), target(nusd=50, model="gpt-5-mini")])
        group = counters_for(opened)
        counters = group.counters
        verbs.open_request(book, opened, group)
        verbs.next_attempt(book, opened.request_id, ended, target(nusd=50, model="gpt-5-mini"), NOW + 1)
        assert counters[0].held == held
        assert book.open[opened.request_id].hold_nusd == held


def test_a_top_up_that_a_cap_forbids_changes_nothing() -> None:
    book, opened = Book(), opening([limit(cap=100)], [target(nusd=60), target(nusd=50, model="gpt-5-mini")])
    group = counters_for(opened)
    counters = group.counters
    verbs.open_request(book, opened, group)
    before = book.open[opened.request_id]
    with pytest.raises(QuotaExceeded):
        verbs.next_attempt(book, opened.request_id, AMBIGUOUS, target(nusd=50, model="gpt-5-mini"), NOW + 1)
    assert (counters[0].held, book.open[opened.request_id]) == (60, before)


def test_settling_turns_the_hold_into_the_cost_once() -> None:
    book, opened = Book(), opening([limit(cap=100)], [target(nusd=60)])
    group = counters_for(opened)
    counters = group.counters
    verbs.open_request(book, opened, group)
    for _ in range(2):
        verbs.settle(book, answered(opened, cost_nusd=7))
    assert (counters[0].held, counters[0].spent, len(rows(book.answered, 19))) == (0, 7, 1)
    assert [Total(*total).cost_nusd for total in book.totals.values()] == [7]


def test_a_limit_on_some_models_counts_a_request_only_if_one_of_them_was_tried() -> None:
    watched = limit("requests", "day", 5, models=["gpt-5-mini"])
    chain = [target(nusd=60), target(nusd=50, model="gpt-5-mini")]
    book, opened = Book(), opening([watched], chain)
    group = counters_for(opened)
    counters = group.counters
    verbs.open_request(book, opened, group)
    assert counters[0].held == 1
    verbs.settle(book, answered(opened))
    assert (counters[0].held, counters[0].spent) == (0, 0)

    book, opened = Book(), opening([watched], chain)
    group = counters_for(opened)
    counters = group.counters
    verbs.open_request(book, opened, group)
    verbs.next_attempt(book, opened.request_id, FAILED, chain[1], NOW + 1)
    verbs.settle(book, answered(opened, model="gpt-5-mini"))
    assert (counters[0].held, counters[0].spent) == (0, 1)


def test_the_attempts_of_a_request_are_kept_with_their_ends() -> None:
    book, opened = Book(), opening([limit(cap=1000)], [target(nusd=60), target(nusd=50, model="gpt-5-mini")])
    verbs.open_request(book, opened, counters_for(opened))
    verbs.next_attempt(book, opened.request_id, FAILED, target(nusd=50, model="gpt-5-mini"), NOW + 1)
    verbs.settle(book, answered(opened, model="gpt-5-mini"))
    attempts = json.loads(str(book.answered[-1]))
    assert [(a[0], a[5], a[6]) for a in attempts] == [
        ("gpt-5", FAILED.outcome, FAILED.reason),
        ("gpt-5-mini", ANSWERED.outcome, ANSWERED.reason),
    ]


def test_an_undone_transaction_leaves_the_book_as_it_was() -> None:
    book, opened = Book(), opening([limit(cap=100)], [target(nusd=60)])
    group = counters_for(opened)
    counters = group.counters
    verbs.open_request(book, opened, group)
    book.undo()
    assert (counters[0].held, users(book, counters[0])) == (0, 0)
    assert (book.opened, book.open) == ([], {})


WATCHED = (limit(cap=100), concurrent(5), limit("requests", "day", 5))


def test_a_submission_frees_the_place_and_keeps_the_rest_of_the_hold() -> None:
    book, opened = Book(), opening(WATCHED, [target(nusd=60)])
    group = counters_for(opened)
    counters = group.counters
    verbs.open_request(book, opened, group)
    assert [(c.held, users(book, c)) for c in counters] == [(60, 1), (1, 1), (1, 1)]
    assert verbs.submitted(book, job(opened, "job_1", at=NOW + 2), ANSWERED)
    assert [(c.held, users(book, c), c.spent) for c in counters] == [(60, 1, 0), (0, 0, 0), (1, 1, 0)]
    ((request_id, record),) = book.reopened.items()
    _, hold_nusd, postings, ((*_, finished_ms, outcome, reason, status),) = json.loads(record)
    assert (hold_nusd, postings, request_id) == (60, [[1, 60], [3, 1]], opened.request_id)
    assert (finished_ms, outcome, reason, status) == (int((NOW + 2) * 1000), *ANSWERED)
    assert book.parked == {opened.request_id}


@pytest.mark.parametrize("taken", ["not open", "settled", "the same job", "another job"])
def test_a_submission_that_is_refused_changes_nothing(taken: str) -> None:
    book, opened = Book(), opening(WATCHED, [target(nusd=60)])
    group = counters_for(opened)
    counters = group.counters
    if taken != "not open":
        verbs.open_request(book, opened, group)
    if taken == "settled":
        verbs.settle(book, answered(opened))
    if taken.endswith("job"):
        assert verbs.submitted(book, job(opened, "job_1"), ANSWERED)
    before = (
        [(c.held, users(book, c), c.spent) for c in counters],
        dict(book.open),
        dict(book.reopened),
        set(book.parked),
    )
    assert not verbs.submitted(book, job(opened, "job_1" if taken == "the same job" else "job_2"), ANSWERED)
    assert before == (
        [(c.held, users(book, c), c.spent) for c in counters], book.open, book.reopened, book.parked,
    )  # fmt: skip


def test_the_end_of_a_job_takes_the_place_of_its_submission() -> None:
    book, opened = Book(), opening(WATCHED, [target(nusd=60)])
    group = counters_for(opened)
    counters = group.counters
    verbs.open_request(book, opened, group)
    verbs.submitted(book, job(opened), ANSWERED)
    verbs.settle(book, completed(opened, 7))
    (attempt,) = json.loads(str(book.ended[-1]))
    assert tuple(attempt[5:]) == COMPLETED
    assert [(c.held, users(book, c), c.spent) for c in counters] == [(0, 0, 7), (0, 0, 0), (0, 0, 1)]
    assert book.parked == set()


def test_an_undone_submission_leaves_the_book_as_it_was() -> None:
    book, opened = Book(), opening(WATCHED, [target(nusd=60)])
    group = counters_for(opened)
    counters = group.counters
    verbs.open_request(book, opened, group)
    book.commit()
    before = ([(c.held, users(book, c)) for c in counters], dict(book.open))
    for _ in range(2):
        assert verbs.submitted(book, job(opened), ANSWERED)
        book.undo()
        assert ([(c.held, users(book, c)) for c in counters], book.open) == before
        assert (book.parked, book.reopened) == (set(), {})


@pytest.mark.parametrize(
    "change",
    [
        {"status": 499},
        {"state": "unresolved"},
        {"error_code": "upstream_reset"},
        {"cost_nusd": 61},
        {"last": AMBIGUOUS},
        {"usage": Usage(images=1)},
        {"usage": Usage(video_ms=1)},
        {"usage": Usage(audio_ms=1)},
        {"usage": Usage(characters=1)},
    ],
)
def test_only_what_the_short_row_says_all_of_has_one(change: dict[str, Any]) -> None:
    book, opened = Book(), opening([], [target(nusd=60)])
    verbs.open_request(book, opened, Group([]))
    verbs.settle(book, replace(answered(opened), **change))
    assert (len(rows(book.answered, 19)), len(rows(book.ended, 28))) == (0, 1)


def test_units_of_an_end_are_in_its_row() -> None:
    book, opened = Book(), opening([])
    verbs.open_request(book, opened, Group([]))
    verbs.settle(book, completed(opened, 7, Usage(images=1, video_ms=8_250, audio_ms=57, characters=9)))
    assert book.ended[12:16] == [1, 8_250, 57, 9]


def test_a_cap_that_was_raised_in_an_undone_transaction_is_raised_again() -> None:
    book, wider = Book(), limit(cap=500)
    opened = opening([wider], [target(nusd=60)])
    counter = Counter(1, wider.meter, wider.models, opened.watch.windows[0], cap=100)
    for _ in range(2):
        group = book.groups.setdefault(opened.watch, Group([counter], [500]))
        verbs.open_request(book, opened, group)
        assert (counter.cap, book.changed_counters()) == (500, [0, 0, 500, 1])
        book.undo()
        assert (counter.cap, counter.held, book.groups) == (100, 0, {})
