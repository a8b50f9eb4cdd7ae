"""Chains of models: who is asked after whom, within which bounds, and what each attempt may cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from tests.rig import Rig, team_file
from tests.steps.wires import ask_chat, assert_books_are_right, limits, raw_upstream, says

CHAIN = """
version: 1
models:
  gpt-5: {endpoints: [chat], price: {input: 1.25, cached_input: 0.125, output: 10.00}, fallbacks: [%s]}
  gpt-5-mini: {endpoints: [chat], price: {input: 0.25, cached_input: 0.025, output: 2.00}}
  claude-opus-4.6: {endpoints: [chat], price: {input: 15, cached_input: 1.5, output: 75}}
  text-embedding-3-small: {endpoints: [embeddings], price: {input: 0.02}}
"""
THREE = CHAIN % "gpt-5-mini, claude-opus-4.6"
TWO = CHAIN % "gpt-5-mini"


def _models_asked(rig: Rig) -> list[str]:
    return [json.loads(body)["model"] for _, body in rig.simulator.received]


def _attempts(rig: Rig) -> list[tuple[str, str, str]]:
    """(model, outcome, reason) of each attempt, in order."""
    rows = rig.rows("SELECT model, outcome, reason FROM attempts ORDER BY request_id, n")
    return [(row["model"], row["outcome"], row["reason"]) for row in rows]


DEFINITE = {
    "500": ({"fault": "status", "status": 500}, "status"),
    "503": ({"fault": "status", "status": 503}, "status"),
    "an error as first event": ({"fault": "error_event"}, "error_event"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "reason"), DEFINITE.values(), ids=DEFINITE)
async def test_a_definite_failure_moves_on_and_costs_nothing(
    make_rig: Callable[..., Any], fault: dict[str, Any], reason: str, stream: bool
) -> None:
    rig: Rig = await make_rig(models=TWO)
    rig.simulator.faults.add({**fault, "model": "gpt-5"})
    answer = await ask_chat(rig, stream=stream)
    assert (answer.status, answer.headers["x-oxyy-model"], answer.headers["x-oxyy-attempts"]) == (
        200, "gpt-5-mini", "2",
    )  # fmt: skip
    assert b"error" not in answer.body
    assert _models_asked(rig) == ["gpt-5", "gpt-5-mini"]
    assert _attempts(rig) == [("gpt-5", "failed", reason), ("gpt-5-mini", "answered", "ok")]
    (row,) = rig.rows()
    assert (row["model_requested"], row["model_served"], row["state"]) == ("gpt-5", "gpt-5-mini", "settled")
    assert (row["cost_nusd"], row["unresolved_nusd"]) == (rig.simulator.total_nusd, 0)
    await assert_books_are_right(rig)


AMBIGUOUS = {
    "reset before headers": ({"fault": "reset_before_headers"}, "reset"),
    "reset after headers": ({"fault": "reset_after_headers"}, "reset"),
    "an empty 200": ({"fault": "empty"}, "bad_response"),
    "silence": ({"fault": "hang_before_headers"}, "timeout"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fault", "reason"), AMBIGUOUS.values(), ids=AMBIGUOUS)
async def test_an_ambiguous_failure_moves_on_and_keeps_its_hold(
    make_rig: Callable[..., Any], fault: dict[str, Any], reason: str, stream: bool
) -> None:
    rig: Rig = await make_rig(models=TWO, gateway="version: 1\nretry: {first_byte: 200ms, answer: 200ms}\n")
    rig.simulator.faults.add({**fault, "model": "gpt-5"})
    answer = await ask_chat(rig, stream=stream)
    assert (answer.status, answer.headers["x-oxyy-model"]) == (200, "gpt-5-mini")
    assert _attempts(rig) == [("gpt-5", "ambiguous", reason), ("gpt-5-mini", "answered", "ok")]
    (row,) = rig.rows()
    (worst,) = rig.rows("SELECT worst_nusd FROM attempts WHERE model = 'gpt-5'")
    assert (row["state"], row["usage_source"]) == ("settled", "upstream")
    assert row["cost_nusd"] == rig.simulator.bill[1].cost_nusd
    assert row["unresolved_nusd"] == worst["worst_nusd"] >= rig.simulator.bill[0].cost_nusd > 0
    (limit,) = await limits(rig)
    assert round(float(limit["held"]) * 1e9) == row["unresolved_nusd"]
    assert round(float(limit["spent"]) * 1e9) == row["cost_nusd"]
    await assert_books_are_right(rig)


@pytest.mark.parametrize("fault", ["malformed_json", "truncated", "reset_mid_body"])
async def test_a_whole_answer_that_is_broken_moves_on(make_rig: Callable[..., Any], fault: str) -> None:
    rig: Rig = await make_rig(models=TWO)
    rig.simulator.faults.add({"fault": fault, "model": "gpt-5"})
    answer = await ask_chat(rig)
    assert (answer.status, answer.json["model"]) == (200, "gpt-5-mini")
    assert rig.rows()[0]["unresolved_nusd"] > 0


async def test_a_refused_connection_moves_on(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=TWO)
    await rig.simulator.refuse()
    answer = await ask_chat(rig)
    assert answer.error["code"] == "upstream_unreachable"
    assert [(model, outcome) for model, outcome, _ in _attempts(rig)] == [
        ("gpt-5", "failed"),
        ("gpt-5-mini", "failed"),
    ]


async def test_the_same_model_is_asked_again_only_where_the_chain_is_empty(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=TWO)
    rig.simulator.faults.add({"fault": "status", "status": 503})
    assert (await ask_chat(rig)).status == 503
    assert _models_asked(rig) == ["gpt-5", "gpt-5-mini"]
    assert (await ask_chat(rig, model="gpt-5-mini")).status == 503
    assert _models_asked(rig)[2:] == ["gpt-5-mini", "gpt-5-mini"]


async def test_the_same_model_is_not_asked_again_after_an_ambiguous_failure(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=TWO)
    rig.simulator.faults.add({"fault": "reset_before_headers", "times": 1})
    assert (await ask_chat(rig, model="gpt-5-mini")).error["code"] == "upstream_reset"
    assert _models_asked(rig) == ["gpt-5-mini"]


async def test_when_every_target_fails_the_last_ones_answer_goes_out(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=THREE)
    rig.simulator.faults.add({"fault": "status", "status": 500, "times": 2})
    rig.simulator.faults.add({"fault": "status", "status": 503, "headers": {"Retry-After": "3"}})
    answer = await ask_chat(rig)
    assert (answer.status, answer.headers["x-should-retry"], answer.headers["x-oxyy-attempts"]) == (503, "false", "3")
    assert answer.headers["retry-after"] == "3"
    assert "503" in answer.error["message"] or answer.error["type"] == "server_error"
    (row,) = rig.rows()
    assert (row["state"], row["status"], row["attempts"], row["cost_nusd"]) == ("voided", 503, 3, 0)


@pytest.mark.parametrize(("attempts", "asked"), [(1, 1), (2, 2), (3, 3), (5, 3)])
async def test_attempts_are_capped(make_rig: Callable[..., Any], attempts: int, asked: int) -> None:
    rig: Rig = await make_rig(models=THREE, gateway=f"version: 1\nretry: {{attempts: {attempts}}}\n")
    rig.simulator.faults.add({"fault": "status", "status": 503})
    answer = await ask_chat(rig)
    assert len(rig.simulator.received) == asked
    assert answer.headers["x-oxyy-attempts"] == str(asked)


@pytest.mark.parametrize(
    ("on", "fault", "asked"),
    [
        ("[500, 503]", {"status": 429, "headers": {"Retry-After": "7"}}, 1),
        ("[500, 503, 429]", {"status": 429}, 2),
        ("[503]", {"status": 500}, 1),
        ("[500, 503]", {"status": 401}, 1),
        ("[500, 503]", {"status": 400}, 1),
    ],
)
async def test_only_the_statuses_of_the_policy_move_on(
    make_rig: Callable[..., Any], on: str, fault: dict[str, Any], asked: int
) -> None:
    rig: Rig = await make_rig(models=TWO, gateway=f"version: 1\nretry: {{on: {on}}}\n")
    rig.simulator.faults.add({"fault": "status", "model": "gpt-5", **fault})
    answer = await ask_chat(rig)
    assert len(rig.simulator.received) == asked
    if asked == 2:
        assert answer.status == 200
    elif fault["status"] != 401:
        assert answer.status == fault["status"]
        assert answer.headers.get("retry-after") == fault.get("headers", {}).get("Retry-After")


@pytest.mark.parametrize(
    ("team", "asked"),
    [
        (team_file(allow='gpt-5, "claude-*"'), ["gpt-5", "claude-opus-4.6"]),
        (team_file().replace('["*"]', '["*"], deny: ["claude-*"]'), ["gpt-5", "gpt-5-mini"]),
        (team_file() + "fallbacks: {gpt-5: []}\n", ["gpt-5", "gpt-5"]),
        (team_file() + "fallbacks: {gpt-5: [claude-opus-4.6]}\n", ["gpt-5", "claude-opus-4.6"]),
        (team_file() + "fallbacks: {gpt-5: [text-embedding-3-small, gpt-5-mini]}\n", ["gpt-5", "gpt-5-mini"]),
    ],
    ids=["not allowed", "denied", "turned off", "the team's own", "another endpoint"],
)
async def test_a_fallback_never_escapes_the_teams_policy(
    make_rig: Callable[..., Any], team: str, asked: list[str]
) -> None:
    rig: Rig = await make_rig(models=THREE, teams={"search": team})
    rig.simulator.faults.add({"fault": "status", "status": 503})
    assert (await ask_chat(rig)).status == 503
    assert _models_asked(rig) == asked


async def test_one_deadline_bounds_the_whole_chain(make_rig: Callable[..., Any]) -> None:
    gateway = "version: 1\nretry: {deadline: 500ms, first_byte: 300ms, answer: 300ms}\n"
    rig: Rig = await make_rig(models=THREE, gateway=gateway)
    rig.simulator.faults.add({"fault": "hang_before_headers"})
    for stream in (False, True):
        started = monotonic()
        answer = await ask_chat(rig, stream=stream)
        assert 0.3 < monotonic() - started < 0.9
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    for row in rig.rows():
        assert (row["state"], row["attempts"] <= 2) == ("unresolved", True)
    await assert_books_are_right(rig)


async def test_a_models_own_answer_time_wins_over_the_organisations(make_rig: Callable[..., Any]) -> None:
    models = TWO.replace("fallbacks: [gpt-5-mini]", "fallbacks: [gpt-5-mini], answer: 100ms, first_byte: 100ms")
    rig: Rig = await make_rig(models=models)
    rig.simulator.faults.add({"fault": "hang_before_headers", "model": "gpt-5"})
    for stream in (False, True):
        assert (await ask_chat(rig, stream=stream)).headers["x-oxyy-model"] == "gpt-5-mini"


async def test_a_cap_that_cannot_take_the_top_up_ends_the_chain(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=TWO)
    await ask_chat(rig, max_tokens=100)
    hold = rig.rows()[0]["hold_nusd"]
    cap = f"{hold * 1.5 / 1e9:.9f}"  # one hold fits, two do not
    teams = {"search": team_file(limits=f"{{meter: usd, per: month, cap: {cap}}}")}
    rig = await make_rig(models=TWO, teams=teams)
    rig.simulator.faults.add({"fault": "reset_before_headers", "model": "gpt-5"})
    answer = await ask_chat(rig, max_tokens=100)
    assert (answer.status, answer.error["code"]) == (502, "upstream_reset")  # not a 429: money was not the failure
    assert _models_asked(rig) == ["gpt-5"]
    (row,) = rig.rows()
    assert (row["state"], row["attempts"], row["unresolved_nusd"]) == ("unresolved", 1, hold)
    await assert_books_are_right(rig)


@pytest.mark.parametrize(("last", "told"), [(503, 503), (400, 400), (401, 503)])
async def test_what_was_ambiguous_stays_so_when_the_next_attempt_is_refused(
    make_rig: Callable[..., Any], last: int, told: int
) -> None:
    rig: Rig = await make_rig(models=TWO)
    rig.simulator.faults.add({"fault": "reset_before_headers", "model": "gpt-5"})
    rig.simulator.faults.add({"fault": "status", "status": last, "model": "gpt-5-mini"})
    assert (await ask_chat(rig)).status == told
    (row,) = rig.rows()
    (worst,) = rig.rows("SELECT worst_nusd FROM attempts WHERE model = 'gpt-5'")
    assert (row["state"], row["status"], row["unresolved_nusd"]) == ("unresolved", told, worst["worst_nusd"])
    (limit,) = await limits(rig)
    assert round(float(limit["held"]) * 1e9) == row["unresolved_nusd"] >= rig.simulator.total_nusd > 0
    await assert_books_are_right(rig)


async def test_the_hold_is_topped_up_before_the_next_attempt_is_sent(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=TWO)
    rig.simulator.faults.add({"fault": "reset_before_headers", "model": "gpt-5"})
    running = asyncio.create_task(ask_chat(rig, simulate={"delay_ms": 200}))
    await rig.simulator.wait_for(lambda: len(rig.simulator.received) == 2)
    (row,) = rig.rows()
    worst = {one["model"]: one["worst_nusd"] for one in rig.rows("SELECT * FROM attempts")}
    assert (row["state"], row["attempts"]) == ("open", 2)
    (limit,) = await limits(rig)
    assert round(float(limit["held"]) * 1e9) == row["hold_nusd"] == 2 * worst["gpt-5"]
    assert (await running).status == 200


async def test_the_fallback_gets_the_clients_bytes_with_its_own_name(make_rig: Callable[..., Any]) -> None:
    async with raw_upstream(
        says(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"),
        says(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"choices": []}'),
    ) as upstream:
        rig: Rig = await make_rig(models=TWO, upstream_url=upstream.url)
        assert (await ask_chat(rig, user="ü", seed=1)).status == 200
        first, second = upstream.seen
        assert second[1] == first[1].replace(b'"gpt-5"', b'"gpt-5-mini"')
        ids = [head.lower().partition(b"x-request-id: ")[2].partition(b"\r\n")[0] for head, _ in upstream.seen]
        assert ids[0] == ids[1] == rig.rows()[0]["request_id"].encode()
