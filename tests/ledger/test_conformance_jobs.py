"""What every store must do with video jobs: their requests stay open, across restarts, until the job ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from oxyy_proxy.errors import LedgerUnavailable, QuotaExceeded, RateLimited
from oxyy_proxy.ledger.base import Ledger, Opening
from oxyy_proxy.rules.types import Limit, Price, Usage
from tests.ledger.making import (
    AMBIGUOUS,
    ANSWERED,
    FAILED,
    NOW,
    completed,
    concurrent,
    job,
    job_failed,
    limit,
    opening,
    target,
    timed_out,
)
from tests.ledger.stores import SqliteStore

Store = SqliteStore
Restart = Callable[[Store], Any]
DAY = 86_400
LIMITS = (
    limit(cap=1000),
    limit("usd", "minute", 1000),
    limit("tokens", "day", 1000),
    limit("requests", "minute", 9),
    concurrent(9),
)
RUNNING = [(0, 100), (0, 100), (0, 10), (0, 1), (0, 0)]
"""How LIMITS stand while the job of one request runs."""


async def stands(ledger: Ledger, limits: Sequence[Limit] = LIMITS, now: float = NOW) -> list[tuple[int, int]]:
    """(spent, held) of each."""
    return [(found.spent, found.held) for found in await ledger.standings(limits, now)]


async def begin(ledger: Ledger, limits: Sequence[Limit] = LIMITS, job_id: str | None = None, **asked: Any) -> Opening:
    """A request whose job runs."""
    opened = opening(limits, endpoint="videos", **asked)
    await ledger.open(opened)
    assert await ledger.submitted(job(opened, job_id), ANSWERED) is True
    return opened


async def everything(store: Store) -> tuple[object, ...]:
    """All that a ledger says."""
    snapshot = await store.ledger.snapshot(LIMITS, NOW)
    return snapshot, store.usage(), store.usage("SELECT * FROM attempts"), await store.ledger.running_jobs()


async def closed_and_opened(store: Store) -> Ledger:
    return await store.reopen()


async def killed(store: Store) -> Ledger:
    return store.crash()


RESTARTS = pytest.mark.parametrize("restart", [closed_and_opened, killed])
ENDS = pytest.mark.parametrize(
    ("end", "last", "state", "left"),
    [
        (completed, "job_completed", ("settled", 40, 0), [(40, 0), (40, 0), (0, 0), (1, 0), (0, 0)]),
        (job_failed, "job_failed", ("voided", 0, 0), [(0, 0), (0, 0), (0, 0), (1, 0), (0, 0)]),
        (timed_out, "job_timeout", ("unresolved", 0, 100), [(0, 100), (0, 100), (0, 10), (1, 0), (0, 0)]),
    ],
)


class TestSubmitting:
    async def test_the_request_stays_open_with_its_hold_and_gives_its_place_back(self, store: Store) -> None:
        await begin(store.ledger)
        assert await stands(store.ledger) == RUNNING
        (row,) = store.usage()
        assert (row["state"], row["finished_at"], row["hold_nusd"], row["attempts"]) == ("open", None, 100, 1)
        (attempt,) = store.usage("SELECT * FROM attempts")
        assert (attempt["outcome"], attempt["reason"], attempt["status"]) == ANSWERED
        assert attempt["finished_ms"] == NOW * 1000
        assert (await store.verify()).broken == ()

    async def test_a_running_job_takes_no_place_among_the_running_requests(self, store: Store) -> None:
        limits = [concurrent(1)]
        for _ in range(3):
            opened = opening(limits)
            await store.ledger.open(opened)
            with pytest.raises(RateLimited):
                await store.ledger.open(opening(limits))
            await store.ledger.submitted(job(opened), ANSWERED)
        assert await stands(store.ledger, limits) == [(0, 0)]

    async def test_what_a_job_holds_is_not_there_for_others(self, store: Store) -> None:
        budget = limit(cap=150)
        opened = await begin(store.ledger, [budget])
        with pytest.raises(QuotaExceeded):
            await store.ledger.open(opening([budget], [target(51)]))
        await store.ledger.settle(completed(opened, 99))
        await store.ledger.open(opening([budget], [target(51)]))

    async def test_a_job_is_known_with_its_terms(self, store: Store) -> None:
        opened = opening()
        await store.ledger.open(opened)
        made = job(opened, "job/ä \U0001f3ac", at=NOW + 0.057)._replace(
            prices={"video_second": Price(10**18, {"720p": 1, "hd:1080p": 0}), "request": Price(7)},
            asked=Usage(video_ms=8_000, size="half a pair: \ud83d"),
        )
        assert await store.ledger.job(made.job_id) is None
        await store.ledger.submitted(made, ANSWERED)
        assert await store.ledger.job(made.job_id) == made
        assert await store.ledger.job("job/ä") is None
        assert await store.ledger.running_jobs() == (made,)
        ledger = await store.reopen()
        assert (await ledger.job(made.job_id), await ledger.running_jobs()) == (made, (made,))

    async def test_running_jobs_are_named_oldest_first_and_no_others(self, store: Store) -> None:
        ages = {"job_b": NOW + 2, "job_a": NOW + 3, "job_c": NOW + 1, "job_d": NOW + 3}
        opened = {job_id: opening() for job_id in ages}
        for job_id, at in ages.items():
            await store.ledger.open(opened[job_id])
            await store.ledger.submitted(job(opened[job_id], job_id, at=at), ANSWERED)
        await store.ledger.open(opening())
        await store.ledger.settle(completed(opened["job_b"]))
        assert [each.job_id for each in await store.ledger.running_jobs()] == ["job_c", "job_a", "job_d"]

    async def test_telling_it_again_changes_nothing(self, store: Store) -> None:
        opened = await begin(store.ledger, job_id="job_1")
        before = await everything(store)
        for again in (job(opened, "job_1"), job(opened, "job_1", at=NOW + 5)._replace(model="other")):
            assert await store.ledger.submitted(again, AMBIGUOUS) is True
        assert await everything(store) == before
        await store.ledger.settle(completed(opened))
        before = await everything(store)
        assert await store.ledger.submitted(job(opened, "job_1"), ANSWERED) is True
        assert await everything(store) == before

    @pytest.mark.parametrize("ended", [False, True])
    async def test_a_job_of_another_request_is_refused_and_leaves_the_books_alone(
        self, store: Store, ended: bool
    ) -> None:
        first = await begin(store.ledger, job_id="job_1")
        if ended:
            await store.ledger.settle(completed(first))
        second = opening(LIMITS, team="support")
        await store.ledger.open(second)
        before = await everything(store)
        assert await store.ledger.submitted(job(second, "job_1"), ANSWERED) is False
        assert await everything(store) == before
        found = await store.ledger.job("job_1")
        assert found is not None
        assert (found.request_id, found.team) == (first.request_id, "search")
        await store.ledger.settle(job_failed(second))  # it can still end
        assert (await store.verify()).broken == ()

    async def test_a_request_has_one_job(self, store: Store) -> None:
        opened = await begin(store.ledger, job_id="job_1")
        before = await everything(store)
        assert await store.ledger.submitted(job(opened, "job_2"), ANSWERED) is False
        assert await everything(store) == before
        assert await store.ledger.job("job_2") is None

    async def test_a_request_that_is_not_open_gets_no_job(self, store: Store) -> None:
        unknown, ended = opening(LIMITS), opening(LIMITS)
        await store.ledger.open(ended)
        await store.ledger.settle(job_failed(ended))
        before = await everything(store)
        for each in (unknown, ended):
            assert await store.ledger.submitted(job(each, "job_1"), ANSWERED) is False
        assert await everything(store) == before
        assert await store.ledger.job("job_1") is None

    async def test_of_two_requests_that_claim_one_job_at_the_same_time_one_gets_it(self, store: Store) -> None:
        opened = [opening(LIMITS) for _ in range(5)]
        for each in opened:
            await store.ledger.open(each)
        told = await asyncio.gather(*(store.ledger.submitted(job(each, "job_1"), ANSWERED) for each in opened))
        assert told == [True, False, False, False, False]
        assert [(await stands(store.ledger))[n] for n in (0, 4)] == [(0, 500), (0, 4)]
        assert (await store.verify()).broken == ()

    async def test_a_job_after_an_ambiguous_attempt_keeps_what_was_added(self, store: Store) -> None:
        opened = opening(LIMITS)
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(80, 8, "veo-3"), NOW)
        await store.ledger.submitted(job(opened), ANSWERED)
        assert await stands(store.ledger) == [(0, 200), (0, 200), (0, 20), (0, 1), (0, 0)]
        await store.ledger.settle(replace(completed(opened), model_served="veo-3"))
        assert await stands(store.ledger) == [(40, 100), (40, 100), (0, 10), (1, 0), (0, 0)]
        assert [r["unresolved_nusd"] for r in store.usage()] == [100]
        assert (await store.verify()).broken == ()


class TestEnding:
    @ENDS
    async def test_the_end_of_the_job_is_that_of_its_request(
        self, store: Store, end: Any, last: str, state: tuple[str, int, int], left: list[tuple[int, int]]
    ) -> None:
        opened = await begin(store.ledger)
        await store.ledger.settle(end(opened))
        assert await stands(store.ledger) == left
        (row,) = store.usage()
        assert (row["state"], row["cost_nusd"], row["unresolved_nusd"]) == state
        assert (row["status"], row["finished_at"], row["overrun"]) == (200, "2026-11-18T12:01:30.000Z", 0)
        assert row["usage_source"] == ("computed" if end is completed else None)
        (attempt,) = store.usage("SELECT * FROM attempts")
        assert (attempt["reason"], attempt["status"], attempt["finished_ms"]) == (last, 200, (NOW + 90) * 1000)
        assert await store.ledger.running_jobs() == ()
        assert (await store.verify()).broken == ()

    @ENDS
    @RESTARTS
    async def test_a_job_is_taken_up_again_and_ends_as_if_nothing_had_been(
        self, store: Store, restart: Restart, end: Any, last: str, state: object, left: list[tuple[int, int]]
    ) -> None:
        opened = await begin(store.ledger)
        rows = store.usage()
        for _ in range(2):
            ledger = await restart(store)
            assert ledger.recovered == (0, 0, 1)
            assert await stands(ledger) == RUNNING
            assert store.usage() == rows
        await ledger.settle(end(opened))
        assert await stands(ledger) == left
        assert [(r["state"], r["cost_nusd"], r["unresolved_nusd"]) for r in store.usage()] == [state]
        assert [a["reason"] for a in store.usage("SELECT * FROM attempts")] == [last]
        ledger = await restart(store)
        assert (ledger.recovered, await stands(ledger)) == ((0, 0, 0), left)
        assert (await store.verify()).broken == ()

    @pytest.mark.parametrize("restarted", [False, True])
    async def test_200_at_once_end_a_job_once(self, store: Store, restarted: bool) -> None:
        opened = await begin(store.ledger)
        ledger = await store.reopen() if restarted else store.ledger
        ends = [completed(opened, 40), completed(opened, 41), job_failed(opened), timed_out(opened)] * 50
        random.Random(7).shuffle(ends)
        await asyncio.gather(*(ledger.settle(end) for end in ends))
        first = ends[0]
        (row,) = store.usage()
        assert (row["state"], row["cost_nusd"]) == (first.state, first.cost_nusd)
        spent_and_held = (first.cost_nusd, 100 if first.state == "unresolved" else 0)
        assert (await stands(ledger))[0] == spent_and_held
        totals = (await ledger.snapshot((), NOW)).totals.values()
        assert sum(total.cost_nusd for total in totals) == first.cost_nusd
        assert (await store.verify()).broken == ()

    @pytest.mark.parametrize("restarted", [False, True])
    async def test_a_job_that_ends_in_another_month_is_charged_to_the_one_it_began_in(
        self, store: Store, restarted: bool
    ) -> None:
        opened = await begin(store.ledger, LIMITS[:2])
        ledger = await store.reopen() if restarted else store.ledger
        later = NOW + 40 * DAY
        assert await stands(ledger, LIMITS[:2], later) == [(0, 0)] * 2
        await ledger.settle(completed(opened, at=later))
        assert await stands(ledger, LIMITS[:2], later) == [(0, 0)] * 2
        assert await stands(ledger, LIMITS[:2], NOW) == [(40, 0)] * 2

    async def test_more_than_was_held_is_posted_in_full_and_flagged(self, store: Store) -> None:
        opened = await begin(store.ledger)
        ledger = await store.reopen()
        await ledger.settle(completed(opened, 140))
        assert (await stands(ledger))[0] == (140, 0)
        assert [r["overrun"] for r in store.usage()] == [1]
        assert (await store.verify()).broken == ()


class TestRestarting:
    @RESTARTS
    async def test_what_had_no_job_yet_is_unresolved_and_what_had_one_runs(
        self, store: Store, restart: Restart
    ) -> None:
        video, chat, other = await begin(store.ledger, job_id="job_1"), opening(LIMITS), opening(LIMITS)
        await store.ledger.open(chat)
        await store.ledger.open(other)
        ledger = await restart(store)
        assert ledger.recovered == (2, 0, 1)
        assert [r["state"] for r in store.usage()] == ["open", "unresolved", "unresolved"]
        assert await stands(ledger) == [(0, 300), (0, 300), (0, 30), (2, 1), (0, 0)]
        assert [each.request_id for each in await ledger.running_jobs()] == [video.request_id]
        verdict = await store.verify()
        assert (verdict.broken, verdict.open, verdict.unresolved) == ((), 1, 2)

    @RESTARTS
    async def test_a_cap_holds_against_jobs_of_an_earlier_process(self, store: Store, restart: Restart) -> None:
        """Their hold must be on the counter that new requests find."""
        for per in ("month", "day", "hour", "minute"):
            budget = limit("usd", per, 300, team=per)
            jobs = [await begin(store.ledger, [budget], team=per) for _ in range(2)]
            ledger = await restart(store)
            fits = opening([budget], team=per)
            assert await ledger.open(fits) == (0,)
            assert await stands(ledger, [budget]) == [(0, 300)]
            with pytest.raises(QuotaExceeded):
                await ledger.open(opening([budget], [target(1)], team=per))
            await ledger.settle(completed(jobs[0], 40))
            await ledger.settle(completed(fits, 50))
            assert await stands(ledger, [budget]) == [(90, 100)]
            await ledger.settle(job_failed(jobs[1]))
            assert await stands(ledger, [budget]) == [(90, 0)]
            assert (await store.verify()).broken == ()

    async def test_a_job_of_a_restart_can_be_told_again(self, store: Store) -> None:
        opened = await begin(store.ledger, job_id="job_1")
        ledger = await store.reopen()
        before = await everything(store)
        assert await ledger.submitted(job(opened, "job_1"), ANSWERED) is True
        assert await ledger.submitted(job(opened, "job_2"), ANSWERED) is False
        assert await everything(store) == before

    async def test_a_failed_attempt_before_the_job_is_kept(self, store: Store) -> None:
        opened = opening(LIMITS)
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, FAILED, target(80, 8, "veo-3"), NOW)
        await store.ledger.submitted(job(opened), ANSWERED)
        ledger = await store.reopen()
        await ledger.settle(replace(completed(opened), model_served="veo-3"))
        assert [(a["model"], a["outcome"], a["reason"]) for a in store.usage("SELECT * FROM attempts")] == [
            ("gpt-5", "failed", "status"),
            ("veo-3", "answered", "job_completed"),
        ]


async def test_a_closed_ledger_takes_and_names_no_jobs(store: Store) -> None:
    opened = opening()
    await store.ledger.open(opened)
    await store.ledger.close()
    for verb in (
        store.ledger.submitted(job(opened, "job_1"), ANSWERED),
        store.ledger.job("job_1"),
        store.ledger.running_jobs(),
    ):
        with pytest.raises(LedgerUnavailable):
            await asyncio.wait_for(verb, 10)


async def test_a_cancelled_caller_does_not_undo_a_submission(store: Store) -> None:
    opened = opening(LIMITS)
    await store.ledger.open(opened)
    waiting = store.ledger.submitted(job(opened, "job_1"), ANSWERED)
    waiting.cancel()
    assert [each.job_id for each in await store.ledger.running_jobs()] == ["job_1"]
    assert await stands(store.ledger) == RUNNING


UNITS = ("images", "video_seconds", "audio_seconds", "characters")


@pytest.mark.parametrize(
    ("usage", "row"),
    [
        (Usage(images=3, quality="hd", size="1024x1024", source="computed"), (3, 0.0, 0.0, 0)),
        (Usage(video_ms=8_001), (0, 8.001, 0.0, 0)),
        (Usage(audio_ms=57), (0, 0.0, 0.057, 0)),
        (Usage(characters=4096), (0, 0.0, 0.0, 4096)),
        (Usage(10, 0, 0, 20, images=1, video_ms=1, audio_ms=999, characters=2), (1, 0.001, 0.999, 2)),
        (Usage(10, 0, 0, 20), (0, 0.0, 0.0, 0)),
    ],
)
async def test_units_are_in_the_row_and_in_the_totals(store: Store, usage: Usage, row: tuple[float, ...]) -> None:
    for _ in range(3):
        opened = opening(LIMITS)
        await store.ledger.open(opened)
        await store.ledger.settle(completed(opened, 1, usage))
    await store.ledger.open(silent := opening(LIMITS))
    await store.ledger.settle(timed_out(silent))
    for restarted in (False, True):
        ledger = await store.reopen() if restarted else store.ledger
        said = [tuple(each[unit] for unit in UNITS) for each in store.usage()]
        assert said == [row, row, row, (0, 0.0, 0.0, 0)]
        (total,) = (await ledger.snapshot((), NOW)).totals.values()
        assert (total.images, total.video_ms, total.audio_ms, total.characters) == (
            3 * usage.images, 3 * usage.video_ms, 3 * usage.audio_ms, 3 * usage.characters,
        )  # fmt: skip
        assert (await store.verify()).broken == ()
