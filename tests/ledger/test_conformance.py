"""What every store of the ledger must do. The stores are those of `tests.ledger.stores`."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest

from oxyy_proxy.errors import InternalError, LedgerUnavailable, QuotaExceeded, RateLimited
from oxyy_proxy.ledger.base import Ledger
from oxyy_proxy.rules.budget import Standing
from oxyy_proxy.rules.figures import Total, TotalKey
from oxyy_proxy.rules.types import Limit, Usage
from tests.ledger.making import (
    AMBIGUOUS,
    FAILED,
    NOW,
    answered,
    concurrent,
    limit,
    opening,
    target,
    unresolved,
    voided,
)
from tests.ledger.stores import SqliteStore

Store = SqliteStore
DAY = 86_400


async def standing(ledger: Ledger, watched: Limit, now: float = NOW) -> tuple[int, int]:
    """(spent, held)."""
    (found,) = await ledger.standings([watched], now)
    return found.spent, found.held


async def unresolved_requests(ledger: Ledger) -> int:
    return sum(total.unresolved for total in (await ledger.snapshot((), NOW)).totals.values())


async def stands(ledger: Ledger, limits: Sequence[Limit], now: float = NOW) -> list[tuple[int, int]]:
    return [(found.spent, found.held) for found in await ledger.standings(limits, now)]


class TestHolding:
    async def test_a_hold_equal_to_what_is_left_fits_and_one_more_does_not(self, store: Store) -> None:
        budget = limit(cap=1000)
        await store.ledger.open(opening([budget], [target(900)]))
        with pytest.raises(QuotaExceeded):
            await store.ledger.open(opening([budget], [target(101)]))
        assert await store.ledger.open(opening([budget], [target(100)])) == (0,)
        assert await stands(store.ledger, [budget]) == [(0, 1000)]
        with pytest.raises(QuotaExceeded):
            await store.ledger.open(opening([budget], [target(1)]))

    @pytest.mark.parametrize("full", range(4))
    async def test_all_limits_are_held_or_none(self, store: Store, full: int) -> None:
        limits = [limit(cap=200), limit("tokens", "minute", 20), limit("requests", "minute", 2), concurrent(2)]
        limits[full] = replace(limits[full], cap=limits[full].cap // 2)
        first = opening(limits)
        await store.ledger.open(first)
        before = await stands(store.ledger, limits)
        assert before == [(0, 100), (0, 10), (0, 1), (0, 1)]
        with pytest.raises((QuotaExceeded, RateLimited)):
            await store.ledger.open(opening(limits))
        assert await stands(store.ledger, limits) == before
        assert [row["request_id"] for row in store.usage()] == [first.request_id]

    async def test_what_is_held_is_the_worst_of_the_chain(self, store: Store) -> None:
        limits = [limit(cap=1000), limit("tokens", "day", 1000), limit("requests", "day", 9)]
        await store.ledger.open(opening(limits, [target(100, 90), target(300, 10, "claude")]))
        assert await stands(store.ledger, limits) == [(0, 300), (0, 90), (0, 1)]

    async def test_opening_says_what_each_limit_has_left_in_the_order_asked(self, store: Store) -> None:
        limits = [limit("requests", "minute", 5), limit(cap=1000)]
        assert await store.ledger.open(opening(limits)) == (4, 900)
        assert await stands(store.ledger, limits) == [(0, 1), (0, 100)]
        overdrawn = replace(limits[1], cap=50)
        assert await store.ledger.open(opening([limits[0], overdrawn], [target(0)])) == (3, 0)

    async def test_a_hold_is_durable_when_open_returns(self, store: Store) -> None:
        opened = opening([limit()])
        await store.ledger.open(opened)
        (row,) = store.usage()
        assert (row["request_id"], row["state"], row["hold_nusd"], row["attempts"]) == (
            opened.request_id,
            "open",
            100,
            1,
        )

    async def test_500_at_once_against_a_budget_of_100_holds_are_100(self, store: Store) -> None:
        budget = limit(cap=100 * 100)
        seen: list[Standing] = []

        async def ask(asked: int, made: list[object]) -> int:
            opened = [opening([budget], [target(100)]) for _ in range(asked)]
            verbs = []
            for each in opened:
                verbs += [store.ledger.open(each), store.ledger.standings([budget], NOW)]
            results = await asyncio.gather(*verbs, return_exceptions=True)
            seen.extend(found[0] for found in results[1::2])
            refused = [r for r in results[::2] if isinstance(r, QuotaExceeded)]
            made += [o for o, r in zip(opened, results[::2], strict=True) if not isinstance(r, BaseException)]
            assert len(refused) + len(made) == asked
            return len(made)

        made: list = []
        assert await ask(500, made) == 100
        for opened in made:
            await store.ledger.settle(answered(opened, 1))
        # 100 nano-USD are spent: 99 whole holds are left.
        more: list = []
        assert await ask(150, more) == 99
        for opened in more:
            await store.ledger.settle(answered(opened, 1))
        assert len(seen) == 650
        assert all(found.spent + found.held <= budget.cap for found in seen)
        assert max(found.spent + found.held for found in seen) == budget.cap
        assert await standing(store.ledger, budget) == (199, 0)
        assert (await store.verify()).broken == ()
        assert len(store.usage()) == 199

    async def test_a_request_without_limits_is_on_record(self, store: Store) -> None:
        opened = opening([])
        assert await store.ledger.open(opened) == ()
        await store.ledger.settle(answered(opened, 7))
        assert [(r["state"], r["cost_nusd"]) for r in store.usage()] == [("settled", 7)]

    async def test_the_same_request_cannot_be_opened_twice(self, store: Store) -> None:
        budget = limit()
        opened = opening([budget])
        await store.ledger.open(opened)
        with pytest.raises(InternalError):
            await store.ledger.open(opened)
        assert await standing(store.ledger, budget) == (0, 100)
        assert (await store.verify()).broken == ()

    async def test_a_full_quota_and_a_full_rate_are_told_apart(self, store: Store) -> None:
        for full, error in (
            (limit("tokens", "day", 0), QuotaExceeded),
            (limit("tokens", "minute", 0), RateLimited),
            (concurrent(0), RateLimited),
        ):
            with pytest.raises(error):
                await store.ledger.open(opening([full]))


class TestSettling:
    LIMITS = (limit(cap=1000), limit("tokens", "day", 1000), limit("requests", "day", 9), concurrent(9))

    async def test_the_difference_to_the_hold_is_given_back(self, store: Store) -> None:
        opened = opening(self.LIMITS)
        await store.ledger.open(opened)
        await store.ledger.settle(answered(opened, 40, Usage(3, 1, 0, 4)))
        assert await stands(store.ledger, self.LIMITS) == [(40, 0), (7, 0), (1, 0), (0, 0)]

    @pytest.mark.parametrize("first", [answered, voided, unresolved])
    @pytest.mark.parametrize("second", [answered, voided, unresolved])
    async def test_a_request_ends_once(self, store: Store, first, second) -> None:  # type: ignore[no-untyped-def]
        opened = opening(self.LIMITS)
        await store.ledger.open(opened)
        await store.ledger.settle(first(opened))
        before = (await store.ledger.snapshot(self.LIMITS, NOW), store.usage())
        await store.ledger.settle(second(opened))
        assert (await store.ledger.snapshot(self.LIMITS, NOW), store.usage()) == before
        assert (await store.verify()).broken == ()

    async def test_two_ends_at_the_same_time_are_one(self, store: Store) -> None:
        opened = opening(self.LIMITS)
        await store.ledger.open(opened)
        await asyncio.gather(*(store.ledger.settle(answered(opened, 40)) for _ in range(20)))
        assert await standing(store.ledger, self.LIMITS[0]) == (40, 0)

    async def test_ending_an_unknown_request_changes_nothing(self, store: Store) -> None:
        await store.ledger.settle(answered(opening(self.LIMITS)))
        assert await stands(store.ledger, self.LIMITS) == [(0, 0)] * 4
        assert store.usage() == []
        assert (await store.ledger.snapshot((), NOW)).totals == {}

    async def test_more_than_the_hold_is_posted_in_full_and_flagged(self, store: Store) -> None:
        opened = opening(self.LIMITS, [target(1000)])
        await store.ledger.open(opened)
        await store.ledger.settle(answered(opened, 1500))
        (found,) = await store.ledger.standings(self.LIMITS[:1], NOW)
        assert (found.spent, found.held, found.remaining) == (1500, 0, 0)
        assert [(r["cost_nusd"], r["overrun"]) for r in store.usage()] == [(1500, 1)]
        verdict = await store.verify()
        assert (verdict.broken, verdict.overruns) == ((), 1)

    @pytest.mark.parametrize(("cost", "tokens", "flag"), [(100, 10, 0), (101, 10, 1), (100, 11, 1)])
    async def test_an_overrun_is_what_passes_the_hold_in_money_or_tokens(
        self, store: Store, cost: int, tokens: int, flag: int
    ) -> None:
        opened = opening(self.LIMITS, [target(100, 10)])
        await store.ledger.open(opened)
        await store.ledger.settle(answered(opened, cost, Usage(output_tokens=tokens)))
        assert [r["overrun"] for r in store.usage()] == [flag]

    @pytest.mark.parametrize("limits", [[], [limit(cap=200)], [limit("tokens", "day", 20)]])
    @pytest.mark.parametrize(("cost", "tokens"), [(100, 10), (101, 10), (100, 11)])
    async def test_what_an_ambiguous_attempt_keeps_is_not_there_for_the_answer(
        self, store: Store, limits: list[Limit], cost: int, tokens: int
    ) -> None:
        opened = opening(limits)
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(model="mini"), NOW)
        await store.ledger.settle(answered(opened, cost, Usage(output_tokens=tokens), model="mini"))
        counted = cost > 100 or (tokens > 10 and any(each.meter == "tokens" for each in limits))
        assert [r["overrun"] for r in store.usage()] == [int(counted)]
        assert (await store.verify()).broken == ()

    async def test_an_answer_dearer_than_its_attempt_after_an_ambiguous_one_is_an_overrun(self, store: Store) -> None:
        budget = limit(cap=200)
        opened = opening([budget])
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(model="mini"), NOW)
        await store.ledger.settle(answered(opened, 150, model="mini"))
        assert await standing(store.ledger, budget) == (150, 100)
        assert [r["overrun"] for r in store.usage()] == [1]
        assert (await store.verify()).broken == ()

    async def test_a_voided_request_gives_back_money_and_tokens_but_was_a_request(self, store: Store) -> None:
        opened = opening(self.LIMITS)
        await store.ledger.open(opened)
        await store.ledger.settle(voided(opened))
        assert await stands(store.ledger, self.LIMITS) == [(0, 0), (0, 0), (1, 0), (0, 0)]

    async def test_a_request_that_was_never_sent_gives_back_everything(self, store: Store) -> None:
        opened = opening(self.LIMITS)
        await store.ledger.open(opened)
        await store.ledger.settle(voided(opened, sent=False))
        assert await stands(store.ledger, self.LIMITS) == [(0, 0)] * 4

    async def test_an_unresolved_request_keeps_money_and_tokens_and_ends_as_concurrent(self, store: Store) -> None:
        opened = opening(self.LIMITS)
        await store.ledger.open(opened)
        await store.ledger.settle(unresolved(opened))
        assert await stands(store.ledger, self.LIMITS) == [(0, 100), (0, 10), (1, 0), (0, 0)]
        assert [(r["state"], r["cost_nusd"], r["unresolved_nusd"]) for r in store.usage()] == [("unresolved", 0, 100)]
        assert await unresolved_requests(store.ledger) == 1

    async def test_an_unresolved_request_keeps_the_worst_of_what_was_sent_not_of_the_chain(self, store: Store) -> None:
        opened = opening(self.LIMITS, [target(100, 10), target(700, 70, "claude")])
        await store.ledger.open(opened)
        await store.ledger.settle(unresolved(opened))
        assert await stands(store.ledger, self.LIMITS) == [(0, 100), (0, 10), (1, 0), (0, 0)]

    @pytest.mark.parametrize("end", [answered, voided, unresolved])
    async def test_every_end_frees_a_place_among_the_running(self, store: Store, end) -> None:  # type: ignore[no-untyped-def]
        limits = [concurrent(1)]
        for _ in range(3):
            opened = opening(limits)
            await store.ledger.open(opened)
            with pytest.raises(RateLimited):
                await store.ledger.open(opening(limits))
            await store.ledger.settle(end(opened))

    async def test_a_late_end_posts_to_the_window_of_its_hold(self, store: Store) -> None:
        limits = [limit(cap=1000), limit("usd", "day", 1000), limit("tokens", "minute", 1000)]
        opened = opening(limits)
        await store.ledger.open(opened)
        later = NOW + 40 * DAY
        assert await stands(store.ledger, limits, later) == [(0, 0)] * 3
        await store.ledger.settle(answered(opened, 40, at=later))
        assert await stands(store.ledger, limits, later) == [(0, 0)] * 3
        assert await stands(store.ledger, limits, NOW) == [(40, 0), (40, 0), (7, 0)]

    @pytest.mark.parametrize(("tokens", "overrun"), [((30, 10, 0, 40), 1), ((3, 1, 0, 4), 0)])
    async def test_the_row_says_all_that_the_end_said(
        self, store: Store, tokens: tuple[int, int, int, int], overrun: int
    ) -> None:
        opened = opening(self.LIMITS, tag="nightly", cost_center="CC-1")
        await store.ledger.open(opened)
        usage = Usage(*tokens, 0, "estimated")
        await store.ledger.settle(answered(opened, 40, usage, model="gpt-5-2026", at=NOW + 2.5))
        (row,) = store.usage()
        assert row == {
            "request_id": opened.request_id,
            "started_at": "2026-11-18T12:00:00.000Z",
            "finished_at": "2026-11-18T12:00:02.500Z",
            "team": "search",
            "key_id": "search-prod",
            "cost_center": "CC-1",
            "tag": "nightly",
            "endpoint": "chat",
            "model_requested": "gpt-5",
            "model_served": "gpt-5-2026",
            "state": "settled",
            "status": 200,
            "attempts": 1,
            "stream": 0,
            "input_tokens": tokens[0],
            "cached_input_tokens": tokens[1],
            "output_tokens": tokens[3],
            "images": 0,
            "video_seconds": 0,
            "audio_seconds": 0,
            "characters": 0,
            "hold_nusd": 100,
            "cost_nusd": 40,
            "unresolved_nusd": 0,
            "usage_source": "estimated",
            "overrun": overrun,
            "error_code": None,
        }


class TestAttempts:
    LIMITS = (limit(cap=1000), limit("tokens", "day", 100), limit("requests", "day", 9), concurrent(9))

    async def test_a_definite_failure_does_not_raise_the_hold(self, store: Store) -> None:
        opened = opening(self.LIMITS, [target(), target(80, 8, "mini")])
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, FAILED, target(80, 8, "mini"), NOW)
        assert await stands(store.ledger, self.LIMITS) == [(0, 100), (0, 10), (0, 1), (0, 1)]
        await store.ledger.settle(answered(opened, 30, model="mini"))
        assert await stands(store.ledger, self.LIMITS) == [(30, 0), (7, 0), (1, 0), (0, 0)]
        (row,) = store.usage()
        assert (row["attempts"], row["unresolved_nusd"], row["hold_nusd"]) == (2, 0, 100)

    async def test_an_ambiguous_end_tops_the_hold_up_by_its_worst(self, store: Store) -> None:
        opened = opening(self.LIMITS, [target(60, 6), target(100, 10, "claude")])
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(100, 10, "claude"), NOW)
        assert await stands(store.ledger, self.LIMITS) == [(0, 160), (0, 16), (0, 1), (0, 1)]
        assert [r["hold_nusd"] for r in store.usage()] == [160]

    async def test_answered_after_an_ambiguous_attempt_is_settled_and_keeps_that_worst(self, store: Store) -> None:
        opened = opening(self.LIMITS, [target(60, 6), target(100, 10, "claude")])
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(100, 10, "claude"), NOW)
        await store.ledger.settle(answered(opened, 50, model="claude"))
        assert await stands(store.ledger, self.LIMITS) == [(50, 60), (7, 6), (1, 0), (0, 0)]
        (row,) = store.usage()
        assert (row["state"], row["cost_nusd"], row["unresolved_nusd"]) == ("settled", 50, 60)
        assert await unresolved_requests(store.ledger) == 0

    async def test_failed_after_an_ambiguous_attempt_keeps_the_ambiguous_one_alone(self, store: Store) -> None:
        opened = opening(self.LIMITS, [target(60, 6), target(100, 10, "claude")])
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(100, 10, "claude"), NOW)
        await store.ledger.settle(unresolved(opened, FAILED))
        assert await stands(store.ledger, self.LIMITS) == [(0, 60), (0, 6), (1, 0), (0, 0)]
        assert [r["unresolved_nusd"] for r in store.usage()] == [60]

    async def test_ambiguous_twice_keeps_both(self, store: Store) -> None:
        opened = opening(self.LIMITS, [target(60, 6), target(100, 10, "claude")])
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(100, 10, "claude"), NOW)
        await store.ledger.settle(unresolved(opened))
        assert await stands(store.ledger, self.LIMITS) == [(0, 160), (0, 16), (1, 0), (0, 0)]
        assert (await store.verify()).broken == ()

    @pytest.mark.parametrize("tight", [limit(cap=199), limit("tokens", "day", 19)])
    async def test_a_cap_forbids_a_further_attempt_and_the_request_can_still_end(
        self, store: Store, tight: Limit
    ) -> None:
        limits = (tight, limit("requests", "day", 9))
        opened = opening(limits)
        await store.ledger.open(opened)
        before = (await stands(store.ledger, limits), store.usage())
        with pytest.raises(QuotaExceeded):
            await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(1, 1, "mini"), NOW)
        assert (await stands(store.ledger, limits), store.usage()) == before
        await store.ledger.settle(unresolved(opened))
        worst = 100 if tight.meter == "usd" else 10
        assert await stands(store.ledger, limits) == [(0, worst), (1, 0)]
        assert (await store.verify()).broken == ()

    async def test_a_full_limit_does_not_forbid_an_attempt_after_a_definite_failure(self, store: Store) -> None:
        opened = opening([limit(cap=100)])
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, FAILED, target(), NOW)
        assert [r["attempts"] for r in store.usage()] == [2]

    async def test_a_top_up_that_fills_the_cap_exactly_fits(self, store: Store) -> None:
        budget = limit(cap=200)
        opened = opening([budget])
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(), NOW)
        assert await standing(store.ledger, budget) == (0, 200)

    async def test_a_limit_on_models_gets_only_what_its_models_cost(self, store: Store) -> None:
        gpt, claude, veo = (limit(models=[glob]) for glob in ("gpt-*", "claude-*", "veo-*"))
        chain = [target(60, 6, "gpt-5"), target(90, 9, "claude-4")]
        opened = opening([gpt, claude, veo], chain)
        await store.ledger.open(opened)
        assert await stands(store.ledger, [gpt, claude, veo]) == [(0, 60), (0, 90), (0, 0)]
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, chain[1], NOW)
        assert await stands(store.ledger, [gpt, claude]) == [(0, 120), (0, 90)]
        await store.ledger.settle(answered(opened, 70, model="claude-4"))
        assert await stands(store.ledger, [gpt, claude, veo]) == [(0, 60), (70, 0), (0, 0)]

    async def test_a_limit_on_other_models_does_not_forbid_a_further_attempt(self, store: Store) -> None:
        claude = limit(cap=90, models=["claude-*"])
        chain = [target(60, 6, "gpt-5"), target(90, 9, "claude-4")]
        opened = opening([claude], chain)
        await store.ledger.open(opened)
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, chain[1], NOW)
        assert await standing(store.ledger, claude) == (0, 90)

    async def test_an_attempt_of_an_unknown_request_is_an_error(self, store: Store) -> None:
        with pytest.raises(InternalError):
            await store.ledger.next_attempt("req_unknown", FAILED, target(), NOW)
        await store.ledger.open(opening([]))


class TestScopes:
    async def test_each_limit_counts_what_is_in_its_scope(self, store: Store) -> None:
        organisation, search = limit(team=None), limit()
        prod, dev = limit(key="search-prod"), limit(key="search-dev")
        support = limit(team="support")
        for opened in (
            opening([organisation, search, prod]),
            opening([organisation, search, dev], key="search-dev"),
            opening([organisation, support], team="support", key="support-prod"),
        ):
            await store.ledger.open(opened)
            await store.ledger.settle(answered(opened, 40))
        limits = [organisation, search, prod, dev, support]
        assert await stands(store.ledger, limits) == [(120, 0), (80, 0), (40, 0), (40, 0), (40, 0)]

    async def test_a_full_organisation_refuses_a_team_that_spent_nothing(self, store: Store) -> None:
        organisation = limit(team=None, cap=100)
        await store.ledger.open(opening([organisation, limit()]))
        with pytest.raises(QuotaExceeded, match="the organisation"):
            await store.ledger.open(opening([organisation, limit(team="support")], team="support"))

    async def test_a_full_key_does_not_refuse_another(self, store: Store) -> None:
        prod, dev = limit(key="search-prod", cap=100), limit(key="search-dev", cap=100)
        await store.ledger.open(opening([limit(), prod]))
        await store.ledger.open(opening([limit(), dev], key="search-dev"))
        with pytest.raises(QuotaExceeded, match="for key search-prod"):
            await store.ledger.open(opening([limit(), prod]))

    async def test_a_new_window_starts_empty(self, store: Store) -> None:
        rate = limit("requests", "minute", 1)
        await store.ledger.open(opening([rate], now=NOW))
        with pytest.raises(RateLimited):
            await store.ledger.open(opening([rate], now=NOW + 59.9))
        await store.ledger.open(opening([rate], now=NOW + 60))


class TestChangingLimits:
    async def test_changing_a_cap_keeps_what_is_spent(self, store: Store) -> None:
        opened = opening([limit(cap=1000)])
        await store.ledger.open(opened)
        await store.ledger.settle(answered(opened, 60))
        for cap in (100, 60, 50):
            assert await standing(store.ledger, limit(cap=cap)) == (60, 0)
        with pytest.raises(QuotaExceeded):
            await store.ledger.open(opening([limit(cap=159)], [target(100)]))
        await store.ledger.open(opening([limit(cap=160)], [target(100)]))
        with pytest.raises(QuotaExceeded):
            await store.ledger.open(opening([limit(cap=50)], [target(1)]))
        assert (await store.verify()).broken == ()

    async def test_a_request_in_flight_keeps_the_cap_it_was_opened_under(self, store: Store) -> None:
        opened = opening([limit(cap=200)])
        await store.ledger.open(opened)
        with pytest.raises(QuotaExceeded):
            await store.ledger.open(opening([limit(cap=150)]))
        await store.ledger.next_attempt(opened.request_id, AMBIGUOUS, target(), NOW)
        assert await standing(store.ledger, limit(cap=150)) == (0, 200)
        assert (await store.verify()).broken == ()

    async def test_a_limit_added_within_its_window_starts_where_the_rows_stand(self, store: Store) -> None:
        gpt, claude = [target(100, 10, "gpt-5")], [target(200, 20, "claude-4")]
        await self.spend(store, opening([], gpt, now=NOW - 30 * DAY), 1)  # last month
        await self.spend(store, opening([], gpt, now=NOW - DAY), 10)
        await self.spend(store, opening([], claude, now=NOW), 20)
        await self.spend(store, opening([], gpt, key="search-dev"), 30)
        await self.spend(store, opening([], gpt, team="support", key="support-prod"), 40)
        lost = opening([], gpt)
        await store.ledger.open(lost)
        await store.ledger.settle(unresolved(lost))
        expected = {
            limit(team=None): 200,
            limit(): 160,
            limit(per="day"): 150,
            limit(team="support"): 40,
            limit(key="search-prod"): 130,
            limit(key="search-dev"): 30,
            limit(models=["claude-*"]): 20,
            limit(models=["gpt-*"], team=None): 180,
            limit(models=["gpt-*"], key="search-dev"): 30,
            limit(models=["veo-*"]): 0,
            limit("tokens", team=None): 28,
            limit("tokens", key="search-dev"): 7,
            limit("requests", team=None): 5,
            limit("requests", "day"): 3,
            limit("requests", "minute", team="support"): 1,
            concurrent(9): 0,
        }
        assert {each: (await standing(store.ledger, each))[0] for each in expected} == expected
        # And from there it counts on, across a restart too.
        await self.spend(store, opening(list(expected), gpt), 5)
        ledger = await store.reopen()
        assert await standing(ledger, limit()) == (165, 0)
        assert await standing(ledger, limit("requests", team=None)) == (6, 0)
        assert (await store.verify()).broken == ()

    async def test_a_limit_added_late_does_not_count_what_came_after_its_window(self, store: Store) -> None:
        await self.spend(store, opening([], now=NOW), 10)
        await self.spend(store, opening([], now=NOW + 60), 20)
        assert await standing(store.ledger, limit(per="minute"), NOW) == (10, 0)

    async def test_a_limit_added_over_its_cap_refuses(self, store: Store) -> None:
        await self.spend(store, opening([]), 90)
        with pytest.raises(QuotaExceeded):
            await store.ledger.open(opening([limit(cap=50)], [target(1)]))
        assert await standing(store.ledger, limit(cap=50)) == (90, 0)
        assert (await store.verify()).broken == ()

    async def test_changing_the_zone_counts_what_falls_into_the_new_day(self, store: Store) -> None:
        midnight = NOW - 12 * 3600
        tokyo = ZoneInfo("Asia/Tokyo")
        in_utc, in_tokyo = limit(per="day"), limit(per="day", zone=tokyo)
        await self.spend(store, opening([in_utc], now=midnight - 1), 1)
        await self.spend(store, opening([in_utc], now=midnight - 9 * 3600 - 1), 10)  # in Tokyo the day before
        await self.spend(store, opening([in_utc], now=midnight + 1), 100)
        assert await standing(store.ledger, in_utc) == (100, 0)
        # At noon UTC it is 21:00 in Tokyo: its day began at 15:00 UTC the day before.
        assert await standing(store.ledger, in_tokyo) == (101, 0)
        await self.spend(store, opening([in_tokyo], now=NOW), 1000)
        assert await standing(store.ledger, in_tokyo) == (1101, 0)
        assert (await store.verify()).broken == ()

    @staticmethod
    async def spend(store: Store, opened, cost: int) -> None:  # type: ignore[no-untyped-def]
        await store.ledger.open(opened)
        await store.ledger.settle(answered(opened, cost))


class TestRestarting:
    LIMITS = (limit(cap=5000), limit("tokens", "day", 500), limit("requests", "day", 99), concurrent(9))

    async def some_of_everything(self, ledger: Ledger) -> list[tuple[int, int]]:
        """Ended requests of each kind and two open ones. Returns the standings after a crash."""
        chain = [target(60, 6), target(100, 10, "claude")]
        a, b, c, d, e, f = (opening(self.LIMITS, chain) for _ in range(6))
        for each in (a, b, c, d, e, f):
            await ledger.open(each)
        await ledger.settle(answered(a, 40))
        await ledger.settle(voided(b))
        await ledger.settle(unresolved(c))
        await ledger.next_attempt(d.request_id, AMBIGUOUS, chain[1], NOW)
        await ledger.settle(answered(d, 50, model="claude"))
        await ledger.next_attempt(f.request_id, AMBIGUOUS, chain[1], NOW)
        # e: one attempt in flight, 60; f: an ambiguous one and one in flight, 160. c and d keep 60 each.
        assert await stands(ledger, self.LIMITS) == [
            (90, 60 + 60 + 100 + 160),
            (14, 6 + 6 + 10 + 16),
            (4, 2),
            (0, 2),
        ]
        return [(90, 60 + 60 + 60 + 160), (14, 6 + 6 + 6 + 16), (6, 0), (0, 0)]

    @pytest.mark.parametrize("clean", [True, False])
    async def test_what_was_in_flight_is_unresolved_at_its_exact_worst(self, store: Store, clean: bool) -> None:
        expected = await self.some_of_everything(store.ledger)
        assert await unresolved_requests(store.ledger) == 1
        totals = (await store.ledger.snapshot((), NOW)).totals
        ledger = await store.reopen() if clean else store.crash()
        assert ledger.recovered == (2, 0, 0)
        assert await stands(ledger, self.LIMITS) == expected
        assert [(r["state"], r["cost_nusd"], r["unresolved_nusd"], r["attempts"]) for r in store.usage()] == [
            ("settled", 40, 0, 1),
            ("voided", 0, 0, 1),
            ("unresolved", 0, 60, 1),
            ("settled", 50, 60, 2),
            ("unresolved", 0, 60, 1),
            ("unresolved", 0, 160, 2),
        ]
        assert all(r["finished_at"] and r["status"] is not None for r in store.usage())
        assert await unresolved_requests(ledger) == 3
        after = (await ledger.snapshot((), NOW)).totals
        assert {key: total._replace(unresolved=0) for key, total in after.items()} == {
            key: total._replace(unresolved=0) for key, total in totals.items()
        }
        verdict = await store.verify()
        assert (verdict.broken, verdict.open, verdict.unresolved, verdict.requests) == ((), 0, 3, 6)

    async def test_recovering_twice_changes_nothing(self, store: Store) -> None:
        expected = await self.some_of_everything(store.ledger)
        store.crash()
        rows = store.usage()
        for _ in range(2):
            ledger = store.crash()
            assert ledger.recovered == (0, 0, 0)
            assert await stands(ledger, self.LIMITS) == expected
            assert store.usage() == rows

    @pytest.mark.parametrize(
        ("verbs", "row", "found"),
        [
            (1, ("unresolved", 0, 60), [(0, 60), (0, 0)]),
            (2, ("unresolved", 0, 160), [(0, 160), (0, 0)]),
            (3, ("unresolved", 0, 120), [(0, 120), (0, 0)]),
            (4, ("settled", 50, 60), [(50, 60), (0, 0)]),
        ],
    )
    async def test_a_crash_after_any_verb_leaves_whole_books(
        self, store: Store, verbs: int, row: tuple[str, int, int], found: list[tuple[int, int]]
    ) -> None:
        ledger, limits = store.ledger, [limit(cap=1000), concurrent(3)]
        first, second = target(60, 6), target(100, 10, "claude")
        opened = opening(limits, [first, second])
        for verb in (
            lambda: ledger.open(opened),
            lambda: ledger.next_attempt(opened.request_id, AMBIGUOUS, second, NOW),
            lambda: ledger.next_attempt(opened.request_id, FAILED, first, NOW),
            lambda: ledger.settle(answered(opened, 50)),
        )[:verbs]:
            await verb()
        ledger = store.crash()
        assert [(r["state"], r["cost_nusd"], r["unresolved_nusd"]) for r in store.usage()] == [row]
        assert await stands(ledger, limits) == found
        assert (await store.verify()).broken == ()

    async def test_what_a_restart_ended_cannot_be_ended_again(self, store: Store) -> None:
        opened = opening(self.LIMITS)
        await store.ledger.open(opened)
        ledger = store.crash()
        before = await stands(ledger, self.LIMITS)
        await ledger.settle(answered(opened, 40))
        assert await stands(ledger, self.LIMITS) == before == [(0, 100), (0, 10), (1, 0), (0, 0)]
        assert [r["state"] for r in store.usage()] == ["unresolved"]

    async def test_an_old_hold_is_recovered_in_its_own_window(self, store: Store) -> None:
        old = limit()
        await store.ledger.open(opening([old], now=NOW - 90 * DAY))
        ledger = store.crash()
        assert await standing(ledger, old, NOW - 90 * DAY) == (0, 100)
        assert await standing(ledger, old) == (0, 0)

    async def test_holds_made_after_a_restart_add_to_those_before(self, store: Store) -> None:
        budget = limit(cap=250)
        await store.ledger.open(opening([budget]))
        ledger = store.crash()
        opened = opening([budget])
        await ledger.open(opened)
        with pytest.raises(QuotaExceeded):
            await ledger.open(opening([budget]))
        await ledger.settle(answered(opened, 40))
        assert await standing(ledger, budget) == (40, 100)


class TestFigures:
    async def test_totals_are_sums_over_settled_rows_by_team_model_and_endpoint(self, store: Store) -> None:
        ends = [
            (opening([]), 40, Usage(3, 1, 0, 4)),
            (opening([], key="search-dev"), 2, Usage(30, 10, 0, 40, 0, "estimated")),
            (opening([], [target(model="mini")]), 5, Usage(1)),
            (opening([], team="support"), 6, Usage(1)),
            (opening([], endpoint="embeddings"), 7, Usage(1)),
        ]
        for opened, cost, usage in ends:
            await store.ledger.open(opened)
            await store.ledger.settle(answered(opened, cost, usage))
        for end in (voided, unresolved):
            opened = opening([])
            await store.ledger.open(opened)
            await store.ledger.settle(end(opened))
        for restarted in (False, True):
            ledger = await store.reopen() if restarted else store.ledger
            totals = (await ledger.snapshot((), NOW)).totals
            assert totals == {
                TotalKey("search", "CC-search", "gpt-5", "chat"): Total(42, 33, 11, 44, estimated=1, unresolved=1),
                TotalKey("search", "CC-search", "mini", "chat"): Total(5, 1),
                TotalKey("support", "CC-support", "gpt-5", "chat"): Total(6, 1),
                TotalKey("search", "CC-search", "gpt-5", "embeddings"): Total(7, 1),
            }
            assert sum(t.cost_nusd for t in totals.values()) == sum(row["cost_nusd"] for row in store.usage())

    async def test_a_snapshot_stays_as_it_was(self, store: Store) -> None:
        opened, later = opening([]), opening([])
        await store.ledger.open(opened)
        await store.ledger.open(later)
        await store.ledger.settle(answered(opened, 40))
        snapshot = await store.ledger.snapshot([limit()], NOW)
        await store.ledger.settle(answered(later, 2))
        assert [total.cost_nusd for total in snapshot.totals.values()] == [40]
        assert [found.limit for found in snapshot.standings] == [limit()]

    async def test_the_view_usage_is_the_contract_with_sql_users(self, store: Store) -> None:
        for _ in range(3):
            await store.ledger.open(opening([]))
        (row, *_) = store.usage()
        assert ", ".join(row) == (
            "request_id, started_at, finished_at, team, key_id, cost_center, tag, endpoint, model_requested, "
            "model_served, state, status, attempts, stream, input_tokens, cached_input_tokens, output_tokens, images, "
            "video_seconds, audio_seconds, characters, hold_nusd, cost_nusd, unresolved_nusd, usage_source, overrun, "
            "error_code"
        )
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["started_at"])
        assert row["finished_at"] is None


class TestCancelling:
    """The writer is held still by its own report of a commit, so that the moment of the cancellation is known."""

    LIMITS = (limit(cap=1000), concurrent(9))

    async def test_a_verb_whose_caller_is_cancelled_before_it_runs_happens_as_a_whole(self, store: Store) -> None:
        gate = threading.Event()
        ledger = await store.reopen(on_commit=lambda _: gate.wait(10))
        chain = [target(60, 6), target(100, 10, "claude")]
        opened = opening(self.LIMITS, chain)
        await ledger.standings((), NOW)  # from here on the writer stands still
        verbs = (
            lambda: ledger.open(opened),
            lambda: ledger.next_attempt(opened.request_id, AMBIGUOUS, chain[1], NOW),
            lambda: ledger.settle(answered(opened, 50, model="claude")),
        )
        tasks = []
        for verb in verbs:
            task = asyncio.create_task(_wait_for(verb()))
            await asyncio.sleep(0)  # it waits now
            task.cancel()
            tasks.append(task)
        waits_on = ledger.standings(self.LIMITS[:1], NOW)  # in the same batch
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 3
        assert [s.spent for s in await asyncio.wait_for(waits_on, 10)] == [50]
        assert await stands(ledger, self.LIMITS) == [(50, 60), (0, 0)]
        assert [(r["state"], r["attempts"]) for r in store.usage()] == [("settled", 2)]
        assert (await store.verify()).broken == ()

    async def test_a_caller_cancelled_between_the_commit_and_the_news_of_it_loses_nothing(self, store: Store) -> None:
        committed = threading.Event()
        ledger = await store.reopen(on_commit=lambda _: committed.set())
        opened = opening(self.LIMITS)
        for verb in (
            lambda: ledger.open(opened),
            lambda: ledger.next_attempt(opened.request_id, FAILED, target(), NOW),
            lambda: ledger.settle(answered(opened, 50)),
        ):
            committed.clear()
            task = asyncio.create_task(_wait_for(verb()))
            await asyncio.sleep(0)
            assert committed.wait(10)  # the loop stands still: the news is queued, not delivered
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await stands(ledger, self.LIMITS) == [(50, 0), (0, 0)]
        assert [(r["state"], r["attempts"]) for r in store.usage()] == [("settled", 2)]

    async def test_closing_finishes_what_is_queued(self, store: Store) -> None:
        opened = [opening([limit(cap=10_000)]) for _ in range(50)]
        waits = [asyncio.ensure_future(store.ledger.open(each)) for each in opened]
        ends = [asyncio.ensure_future(store.ledger.settle(answered(each, 1))) for each in opened]
        ledger = await store.reopen()
        await asyncio.gather(*waits, *ends)
        assert await standing(ledger, limit()) == (50, 0)
        assert ledger.recovered == (0, 0, 0)

    async def test_a_closed_ledger_refuses_and_keeps_nobody_waiting(self, store: Store) -> None:
        opened = opening([])
        await store.ledger.open(opened)
        await store.ledger.close()
        for verb in (
            store.ledger.open(opening([])),
            store.ledger.next_attempt(opened.request_id, FAILED, target(), NOW),
            store.ledger.settle(answered(opened)),
            store.ledger.standings((), NOW),
            store.ledger.snapshot((), NOW),
        ):
            with pytest.raises(LedgerUnavailable):
                await asyncio.wait_for(verb, 10)


async def _wait_for(verb):  # type: ignore[no-untyped-def]
    return await verb
