"""Video jobs as clients see them: whose they are, what they cost, and that nobody pays twice."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy.ledger.sqlite_reads import verify
from oxyy_proxy.simulator import Simulator
from tests.rig import KEY, MODELS, ORG_KEY, OTHER_KEY, PRICES, Rig, team_file
from tests.steps.wires import (
    Heard,
    ask,
    assert_books_are_right,
    ended_rows,
    http,
    limits,
    own_rig,
    raw_upstream,
    rows_until,
    says,
)

PATH = "/v1/videos/generations"
ORDER = {"model": "veo-3", "prompt": "A serene lake", "duration": 4, "resolution": "1080p"}
HELD_NUSD = 4 * 500_000_000
TEAMS = {"search": team_file(), "support": team_file("support", OTHER_KEY)}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A proxy before a simulator whose jobs end when they are told to."""
    simulator = Simulator(prices=PRICES, org_key=ORG_KEY, job_s=None)
    async with own_rig(tmp_path, simulator=simulator, teams=TEAMS) as rig:
        yield rig


async def submit(rig: Rig, **members: Any) -> str:
    answer = await ask(rig, {**ORDER, **members}, path=PATH)
    assert answer.status == 200
    return answer.json["id"]  # type: ignore[no-any-return]


async def look(rig: Rig, job_id: str, key: str | None = KEY) -> Heard:
    return await ask(rig, path=f"{PATH}/{job_id}", method="GET", key=key)


async def held(rig: Rig) -> tuple[str, str]:
    (limit,) = await limits(rig)
    return limit["held"], limit["spent"]


async def test_a_submission_holds_until_its_job_ends(rig: Rig) -> None:
    answer = await ask(rig, ORDER, path=PATH)
    assert answer.json["status"] == "queued"
    assert answer.headers["x-oxyy-model"] == "veo-3"
    assert "x-oxyy-cost-usd" not in answer.headers
    (row,) = rig.rows()
    assert (row["state"], row["hold_nusd"], row["cost_nusd"]) == ("open", HELD_NUSD, 0)
    assert await held(rig) == ("2.00", "0.00")


async def test_a_completed_job_is_charged_before_the_client_hears_of_it(rig: Rig) -> None:
    job_id = await submit(rig)
    rig.simulator.complete(job_id)
    answer = await look(rig, job_id)
    assert answer.json == rig.simulator.jobs[job_id].shown()
    (row,) = rig.rows()
    assert (row["state"], row["cost_nusd"], row["video_seconds"]) == ("settled", HELD_NUSD, 4.0)
    assert (row["usage_source"], row["model_served"]) == ("computed", "veo-3")
    assert row["cost_nusd"] == rig.simulator.total_nusd
    assert await held(rig) == ("0.00", "2.00")
    await assert_books_are_right(rig)


async def test_what_was_really_made_is_what_is_charged(rig: Rig) -> None:
    job_id = await submit(rig)
    rig.simulator.complete(job_id, duration=2.5, resolution="720p")
    await look(rig, job_id)
    (row,) = rig.rows()
    assert (row["cost_nusd"], row["video_seconds"], row["overrun"]) == (1_000_000_000, 2.5, 0)
    assert row["cost_nusd"] == rig.simulator.total_nusd


async def test_more_than_was_asked_for_is_charged_in_full_and_flagged(rig: Rig) -> None:
    job_id = await submit(rig)
    rig.simulator.complete(job_id, duration=8)
    await look(rig, job_id)
    (row,) = rig.rows()
    assert (row["cost_nusd"], row["overrun"]) == (8 * 500_000_000, 1)
    await assert_books_are_right(rig)


async def test_an_end_that_says_neither_length_nor_size_is_charged_as_asked_and_flagged(rig: Rig) -> None:
    job_id = await submit(rig, simulate={"omit": ["duration", "resolution"]})
    rig.simulator.complete(job_id)
    await look(rig, job_id)
    (row,) = rig.rows()
    assert (row["cost_nusd"], row["usage_source"]) == (HELD_NUSD, "estimated")


async def test_a_failed_job_is_given_back(rig: Rig) -> None:
    job_id = await submit(rig)
    rig.simulator.fail(job_id)
    answer = await look(rig, job_id)
    assert (answer.status, answer.json["status"]) == (200, "failed")
    (row,) = rig.rows()
    assert (row["state"], row["cost_nusd"], row["error_code"]) == ("voided", 0, "job_failed")
    assert await held(rig) == ("0.00", "0.00")
    assert rig.simulator.total_nusd == 0
    await assert_books_are_right(rig)


async def test_two_hundred_polls_at_once_settle_a_job_once(rig: Rig) -> None:
    job_id = await submit(rig)
    rig.simulator.complete(job_id)
    answers = await asyncio.gather(*[look(rig, job_id) for _ in range(200)])
    assert {(answer.status, answer.json["status"]) for answer in answers} == {(200, "completed")}
    (row,) = rig.rows()
    assert row["cost_nusd"] == rig.simulator.total_nusd == HELD_NUSD
    assert await held(rig) == ("0.00", "2.00")
    totals = rig.rows("SELECT cost_nusd, video_ms FROM totals WHERE endpoint = 'videos'")
    assert totals == [{"cost_nusd": HELD_NUSD, "video_ms": 4000}]
    await assert_books_are_right(rig)


async def test_looking_never_makes_a_row_or_a_charge(rig: Rig) -> None:
    job_id = await submit(rig)
    for _ in range(3):
        assert (await look(rig, job_id)).json["status"] in ("queued", "processing")
    rig.simulator.complete(job_id)
    first, second = await look(rig, job_id), await look(rig, job_id)
    assert first.body == second.body
    assert len(rig.rows()) == 1
    assert await held(rig) == ("0.00", "2.00")


async def test_a_job_is_its_teams_alone(rig: Rig) -> None:
    job_id = await submit(rig)
    rig.simulator.complete(job_id)
    before = rig.simulator.jobs[job_id].polls
    others, unknown = await look(rig, job_id, OTHER_KEY), await look(rig, "job_vid_none", OTHER_KEY)
    assert (others.status, others.error["code"]) == (404, "job_not_found")
    assert others.body == unknown.body
    assert (await look(rig, job_id, None)).status == 401
    assert rig.simulator.jobs[job_id].polls == before
    assert rig.rows()[0]["state"] == "open"


@pytest.mark.parametrize(
    "job_id", ["../../models", "a/b", "%2e%2e%2fmodels", "x" * 300, "job?x=1", "job%0d%0aX: y", "", "é"]
)
async def test_an_id_that_is_none_goes_nowhere(rig: Rig, job_id: str) -> None:
    answer = await look(rig, job_id)
    assert answer.status in (400, 404)
    assert not rig.simulator.received


async def test_another_method_on_a_job_is_refused(rig: Rig) -> None:
    answer = await ask(rig, {}, path=f"{PATH}/job_vid_1")
    assert (answer.status, answer.error["code"], answer.headers["allow"]) == (405, "method_not_allowed", "GET")


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        (http(b'{"error": {"message": "no"}}', "404 Not Found"), 404, None),
        (http(b'{"error": {"message": "slow down"}}', "429 Too Many Requests"), 429, None),
        (http(b'{"error": {"message": "down"}}', "503 Service Unavailable"), 503, None),
        (http(b"{}", "401 Unauthorized"), 503, "upstream_auth"),
        (http(b"{}", "302 Found"), 502, "upstream_bad_response"),
        (http(b"[]"), 502, "upstream_bad_response"),
        (http(b"not JSON"), 502, "upstream_bad_response"),
        (http(b'{"id": "another", "status": "completed", "duration": 4}'), 502, "upstream_bad_response"),
        (b"", 502, "upstream_reset"),
    ],
)
async def test_a_look_that_fails_changes_nothing(tmp_path: Path, said: bytes, status: int, code: str | None) -> None:
    accepted = http(b'{"id": "job_1", "status": "queued"}')
    async with (
        raw_upstream(says(accepted), says(said)) as upstream,
        own_rig(tmp_path, upstream_url=upstream.url) as rig,
    ):
        await submit(rig)
        answer = await look(rig, "job_1")
        assert answer.status == status
        if code:
            assert answer.error["code"] == code
        else:
            assert answer.body == said.partition(b"\r\n\r\n")[2]
        assert [row["state"] for row in rig.rows()] == ["open"]
        assert await held(rig) == ("2.00", "0.00")


async def test_the_organisations_key_goes_up_with_a_look_and_the_teams_does_not(rig: Rig) -> None:
    job_id = await submit(rig)
    await look(rig, job_id)
    headers, body = rig.simulator.received[-1]
    assert headers["authorization"] == f"Bearer {ORG_KEY}"
    assert KEY not in str(headers)
    assert body == b""
    assert "content-length" not in headers


@pytest.mark.parametrize("answer", [b"{}", b'{"id": 5}', b'{"id": ""}', b'{"status": "queued"}', b"[]", b"nothing"])
async def test_a_submission_without_an_id_is_unresolved_and_never_sent_again(tmp_path: Path, answer: bytes) -> None:
    fallback = "  veo-2: {endpoints: [videos], price: {video_second: 1}}\n  unpriced:"
    models = MODELS.replace("  unpriced:", fallback).replace("  veo-3: {", "  veo-3: {fallbacks: [veo-2], ")
    async with raw_upstream(says(http(answer))) as upstream:
        async with own_rig(tmp_path, upstream_url=upstream.url, models=models) as rig:
            heard = await ask(rig, ORDER, path=PATH)
            assert (heard.status, heard.error["code"]) == (502, "upstream_bad_response")
            (row,) = await ended_rows(rig)
            # The dearer fallback was held for; what stays is what the one attempt may cost.
            assert (row["state"], row["unresolved_nusd"]) == ("unresolved", HELD_NUSD)
            await assert_books_are_right(rig)
        assert len(upstream.seen) == 1


async def test_an_id_that_another_job_has_is_not_handed_out(tmp_path: Path) -> None:
    taken = says(http(b'{"id": "job_1", "status": "queued"}'))
    async with raw_upstream(taken) as upstream, own_rig(tmp_path, upstream_url=upstream.url, teams=TEAMS) as rig:
        await submit(rig)
        second = await ask(rig, ORDER, path=PATH, key=OTHER_KEY)
        assert (second.status, second.error["code"]) == (502, "upstream_bad_response")
        rows = {row["team"]: row for row in rig.rows()}
        assert rows["search"]["state"] == "open"
        assert (rows["support"]["state"], rows["support"]["unresolved_nusd"]) == ("unresolved", HELD_NUSD)
        assert (await look(rig, "job_1", OTHER_KEY)).status == 404


@pytest.mark.parametrize(("status", "state", "cost"), [("completed", "settled", HELD_NUSD), ("failed", "voided", 0)])
async def test_a_submission_that_is_its_own_end_is_settled_at_once(
    tmp_path: Path, status: str, state: str, cost: int
) -> None:
    body = json.dumps({"id": "job_1", "status": status, "duration": 4, "resolution": "1080p"}).encode()
    async with raw_upstream(says(http(body))) as upstream, own_rig(tmp_path, upstream_url=upstream.url) as rig:
        answer = await ask(rig, ORDER, path=PATH)
        assert answer.body == body
        (row,) = rig.rows()
        assert (row["state"], row["cost_nusd"]) == (state, cost)


async def test_an_id_is_not_handed_out_before_it_is_on_record(rig: Rig) -> None:
    waiting = asyncio.create_task(ask(rig, {**ORDER, "simulate": {"delay_ms": 150}}, path=PATH))
    await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 1)
    with closing(sqlite3.connect(rig.ledger_path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        answer = await waiting
        assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")
        other.execute("ROLLBACK")
    # It is put on record as soon as that can be done, and settled when it ends.
    await rows_until(rig, lambda _: bool(rig.rows("SELECT * FROM jobs")))
    ((job_id, _),) = rig.simulator.jobs.items()
    rig.simulator.complete(job_id)
    assert (await look(rig, job_id)).json["status"] == "completed"
    (row,) = rig.rows()
    assert (row["state"], row["cost_nusd"]) == ("settled", HELD_NUSD)
    await assert_books_are_right(rig)


async def test_a_job_outlives_the_process_that_took_it(rig: Rig) -> None:
    job_id = await submit(rig)
    await rig.proxy.stop()
    assert [row["state"] for row in rig.rows()] == ["open"]
    await rig.start_proxy()
    assert await held(rig) == ("2.00", "0.00")
    assert rig.proxy.ledger.recovered.running == 1
    rig.simulator.complete(job_id)
    assert (await look(rig, job_id)).json["status"] == "completed"
    assert [row["state"] for row in rig.rows()] == ["settled"]
    assert await held(rig) == ("0.00", "2.00")
    await assert_books_are_right(rig)


async def test_a_job_is_charged_at_the_price_of_its_submission(rig: Rig) -> None:
    job_id = await submit(rig)
    await rig.proxy.stop()
    rig.models = MODELS.replace("1080p: 0.50", "1080p: 5")
    rig.write_policies()
    await rig.start_proxy()
    rig.simulator.complete(job_id)
    await look(rig, job_id)
    assert [row["cost_nusd"] for row in rig.rows()] == [HELD_NUSD]


async def test_a_place_among_the_concurrent_ones_is_free_once_the_job_is_taken(make_rig: Callable[..., Any]) -> None:
    simulator = Simulator(prices=PRICES, org_key=ORG_KEY, job_s=None)
    rig = await make_rig(simulator=simulator, teams={"search": team_file(limits="{meter: concurrent, cap: 1}")})
    await submit(rig)
    await submit(rig)
    assert len(simulator.jobs) == 2


async def test_a_budget_counts_jobs_that_run(make_rig: Callable[..., Any]) -> None:
    simulator = Simulator(prices=PRICES, org_key=ORG_KEY, job_s=None)
    limit = '{meter: usd, per: day, cap: 5, models: ["veo-*"]}'
    rig = await make_rig(simulator=simulator, teams={"search": team_file(limits=limit)})
    answers = await asyncio.gather(*[ask(rig, ORDER, path=PATH) for _ in range(20)])
    assert sorted(answer.status for answer in answers) == [200] * 2 + [429] * 18
    assert len(simulator.jobs) == 2


async def test_stopping_does_not_wait_for_jobs(rig: Rig) -> None:
    await submit(rig)
    async with asyncio.timeout(5):
        await rig.proxy.stop()
    verdict = await verify(f"sqlite:///{rig.ledger_path}")
    assert (verdict.broken, verdict.open) == ((), 1)
    await rig.start_proxy()
