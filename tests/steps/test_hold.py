"""Both ends of a request's spend, whatever happens between them."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy.steps import hold
from tests.rig import Rig, team_file
from tests.steps.wires import (
    QUESTION,
    ask,
    ask_chat,
    assert_books_are_right,
    dial,
    ended_rows,
    http,
    limits,
    own_rig,
    raw_upstream,
    request,
    rows_until,
    says,
    until,
)

CAPS = "{meter: usd, per: month, cap: 1000}, {meter: requests, per: month, cap: 100000}, {meter: concurrent, cap: 2}"

REQUESTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "stream": {"stream": True, "simulate": {"words": 5}},
    "patient stream": {"stream": True, "simulate": {"words": 5}},
    "fallback": {"simulate": {"fault": "status", "status": 503, "model": "gpt-5"}},
    "ambiguous": {"stream": True, "simulate": {"fault": "reset_before_headers", "model": "gpt-5", "words": 3}},
    "passed through": {"simulate": {"fault": "status", "status": 400}},
    "cut": {"stream": True, "simulate": {"fault": "reset_mid_body", "words": 5}},
}


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_request_cancelled_at_any_await_leaves_nothing_open(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str, draining: bool
) -> None:
    if kind == "patient stream":
        monkeypatch.setattr(hold, "BUSY_REQUESTS", 0)
        monkeypatch.setattr(hold, "UNHURRIED_S", -1.0)
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    async with own_rig(tmp_path, teams={"search": team_file(limits=CAPS)}) as rig:
        services = rig.proxy.services
        services.jitter = lambda: 0.0
        cancelled = steps = untouched = 0
        while untouched < 3 and steps < 600:
            async with dial(rig) as wire:
                await wire.send(request({**QUESTION, **REQUESTS[kind]}))
                await until(lambda: bool(services.running), every_s=0)
                (task,) = services.running
                for _ in range(steps):
                    await asyncio.sleep(0)
                services.draining = draining
                untouched = untouched + 1 if task.done() else 0
                cancelled += task.cancel()
                await asyncio.wait([task], timeout=10)
                assert task.done()
                services.draining = False
            steps += 1 + steps // 20
        assert cancelled > 10
        rows = await rows_until(rig, lambda rows: all(row["state"] != "open" for row in rows))
        assert {row["state"] for row in rows} & {"unresolved", "voided"}
        spent, _, running = await limits(rig)
        assert running["held"] == 0
        held = sum(row["unresolved_nusd"] for row in rows)
        assert round(float(spent["held"]) * 1e9) == held
        for row in rows:
            assert row["cost_nusd"] <= row["hold_nusd"]
        await assert_books_are_right(rig)
        assert (await ask_chat(rig)).status == 200
    gc.collect()
    assert not lost
    assert '"event":"defect"' not in capfd.readouterr().out


async def test_a_defect_after_the_hold_keeps_it_and_tells_the_client(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    async with own_rig(tmp_path) as rig:
        monkeypatch.setattr(type(rig.proxy.services.upstream), "post", broken)
        answer = await ask_chat(rig)
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert "defect" not in answer.error["message"]
        (row,) = await ended_rows(rig)
        assert (row["state"], row["status"], row["error_code"]) == ("unresolved", 500, "internal_error")
        assert row["unresolved_nusd"] == row["hold_nusd"]
        await assert_books_are_right(rig)
    written = capfd.readouterr().out
    assert "RuntimeError: a defect" in written
    assert written.count('"event":"request"') == 1


async def test_more_than_was_held_is_charged_in_full_and_flagged(make_rig: Callable[..., Any]) -> None:
    body = b'{"choices": [], "usage": {"prompt_tokens": 100000, "completion_tokens": 100000}}'
    async with raw_upstream(says(http(body))) as upstream:
        teams = {"search": team_file(limits="{meter: usd, per: month, cap: 0.5}")}
        rig: Rig = await make_rig(upstream_url=upstream.url, teams=teams)
        assert (await ask_chat(rig, max_tokens=10)).status == 200
        (row,) = rig.rows()
        assert (row["cost_nusd"], row["overrun"]) == (1_125_000_000, 1)
        (limit,) = await limits(rig)
        assert (limit["spent"], limit["held"], limit["remaining"]) == ("1.125", "0.00", "0.00")
        assert (await ask_chat(rig, max_tokens=10)).status == 429
        await assert_books_are_right(rig)


async def test_a_settlement_that_cannot_be_written_is_made_good_and_the_answer_goes_out(rig: Rig) -> None:
    waiting = asyncio.create_task(ask_chat(rig, simulate={"delay_ms": 150}))
    await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 1)
    with closing(sqlite3.connect(rig.ledger_path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert (await waiting).status == 200  # it was paid for
        assert rig.rows()[0]["state"] == "open"
        refused = await ask_chat(rig)
        assert (refused.status, refused.error["code"]) == (503, "ledger_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        assert len(rig.simulator.received) == 1
        other.execute("ROLLBACK")
    (row,) = await ended_rows(rig)
    assert (row["state"], row["cost_nusd"]) == ("settled", rig.simulator.total_nusd)
    assert (await ask_chat(rig)).status == 200
    await assert_books_are_right(rig)


@pytest.mark.parametrize(
    ("stream", "unhurried_s", "served", "patient"),
    [
        (True, -1.0, hold.BUSY_REQUESTS + 1, True),
        (True, -1.0, hold.BUSY_REQUESTS, False),
        (True, 60.0, hold.BUSY_REQUESTS + 1, False),
        (False, -1.0, hold.BUSY_REQUESTS + 1, False),
    ],
    ids=["a long stream among many", "few are served", "a short stream", "an answer that comes whole"],
)
async def test_who_is_patient_with_a_settlement(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, stream: bool, unhurried_s: float, served: int, patient: bool
) -> None:
    services, said = rig.proxy.services, []
    settle = services.ledger.settle

    def noted(settlement: Any, *, patient: bool = False) -> Any:
        said.append(patient)
        return settle(settlement, patient=patient)

    monkeypatch.setattr(hold, "UNHURRIED_S", unhurried_s)
    monkeypatch.setattr(services.ledger, "settle", noted)
    others: set[asyncio.Task[Any]] = {asyncio.ensure_future(asyncio.sleep(60)) for _ in range(served - 1)}
    services.running.update(others)
    try:
        assert (await ask_chat(rig, stream=stream)).status == 200
    finally:
        services.running.difference_update(others)
        for other in others:
            other.cancel()
    assert said == [patient]


async def test_a_late_settlement_posts_to_the_window_of_its_hold(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(teams={"search": team_file(limits="{meter: usd, per: day, cap: 5}")})
    before_midnight = 1_700_006_399.0
    rig.proxy.services.clock = lambda: before_midnight
    waiting = asyncio.create_task(ask(rig, {**QUESTION, "simulate": {"delay_ms": 150}}))
    await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 1)
    rig.proxy.services.clock = lambda: before_midnight + 2
    assert (await waiting).status == 200
    (limit,) = await limits(rig)
    assert (limit["spent"], limit["held"]) == ("0.00", "0.00")
    rig.proxy.services.clock = lambda: before_midnight
    (limit,) = await limits(rig)
    assert round(float(limit["spent"]) * 1e9) == rig.simulator.total_nusd
    assert limit["held"] == "0.00"
