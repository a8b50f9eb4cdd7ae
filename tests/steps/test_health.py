"""Breakers at work: who is called, who is not, who may try again, and that nobody is forgotten half-way."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy.errors import (
    UpstreamAuth,
    UpstreamBadResponse,
    UpstreamErrorAnswer,
    UpstreamFailure,
    UpstreamReset,
    UpstreamStatus,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from oxyy_proxy.rules.breaker import Event
from oxyy_proxy.rules.types import BreakerPolicy, Policy, Retry, Target
from oxyy_proxy.steps.health import Health, verdict
from tests.rig import GATEWAY, Rig, team_file
from tests.rules.policies import model, policy
from tests.steps.wires import QUESTION, ask, ask_chat, assert_books_are_right, dial, own_rig, request, until

DEAD = {"fault": "status", "status": 503}
VIDEO = {"model": "veo-3", "prompt": "a cat"}
SPEECH = {"model": "tts-1-hd", "voice": "alloy", "input": "Hello!"}


class Clock:
    """Seconds, set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Counting(Health):
    """Counts who was admitted and has not ended."""

    def __init__(self, changed: Callable[[str, str], None], clock: Callable[[], float]) -> None:
        super().__init__(changed, clock)
        self.out: Counter[str] = Counter()

    def admit(self, model: str, policy: Policy) -> bool:
        admitted = super().admit(model, policy)
        self.out[model] += admitted
        return admitted

    def ended(self, model: str, event: Event, policy: Policy, *began: float) -> None:
        self.out[model] -= event != "cut"  # said beside how the call went
        super().ended(model, event, policy, *began)

    def open(self, model: str, policy: Policy) -> None:
        """Let it fail until it is open."""
        while self.admit(model, policy):
            self.ended(model, "failure", policy)


def watched(rig: Rig) -> tuple[Counting, Clock]:
    """The rig's breakers, by a clock that is set by hand."""
    clock = Clock()
    health = rig.proxy.services.health = Counting(rig.proxy.metrics.breaker, clock)
    return health, clock


def probing(health: Health, model: str) -> bool:
    return health._state(model).probing is not None


async def states(rig: Rig) -> dict[str, float]:
    """`oxyy_breaker_state` by model, as /metrics has it."""
    async with rig.client.get(f"{rig.admin_url}/metrics") as answer:
        text = await answer.text()
    return {name: float(value) for name, value in re.findall(r'oxyy_breaker_state\{model="(.*?)"\} (\S+)', text)}


def asked(rig: Rig) -> list[str]:
    return [json.loads(body)["model"] for _, body in rig.simulator.received]


# --- the table's keeper -------------------------------------------------------------------------------------------

A, B, C = (Target(model(name), 1, 1) for name in "abc")
POLICY = policy(breaker=BreakerPolicy(failures=2, window_s=30, open_for_s=15), retry=Retry(budget_percent=20))


def alone() -> tuple[Counting, Clock, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    clock = Clock()
    return Counting(lambda name, kind: told.append((name, kind)), clock), clock, told


def test_the_first_whose_breaker_admits_it_is_called() -> None:
    health, _, _ = alone()
    assert health.first([A, B, C], POLICY) == 0
    health.open("a", POLICY)
    assert health.first([A, B, C], POLICY) == 1
    health.open("b", POLICY)
    assert health.first([A, B, C], POLICY) == 2


def test_where_nobody_may_be_called_it_says_when_the_first_may() -> None:
    health, clock, _ = alone()
    for at, name in ((0.0, "a"), (4.2, "b"), (6.0, "c")):
        clock.now = at
        health.open(name, POLICY)
    clock.now = 7.0
    for targets, wait in (([A, B, C], "8"), ([B, C], "13"), ([C], "14")):
        with pytest.raises(UpstreamUnavailable) as caught:
            health.first(targets, POLICY)
        assert caught.value.headers == {"Retry-After": wait, "x-should-retry": "false"}
    clock.now = 15.0
    assert health.first([C, A], POLICY) == 1
    with pytest.raises(UpstreamUnavailable) as caught:
        health.first([C, A], POLICY)
    assert caught.value.headers["Retry-After"] == "1"


def test_a_change_is_told_once_and_a_model_that_is_well_is_not_kept() -> None:
    health, clock, told = alone()
    for _ in range(3):
        assert health.admit("a", POLICY)
        health.ended("a", "success", POLICY)
    assert (told, health._states) == ([], {})
    health.open("a", POLICY)
    clock.now = 15.0
    assert [health.admit("a", POLICY) for _ in range(100)] == [True, *[False] * 99]
    health.ended("a", "success", POLICY)
    assert told == [("a", "failing"), ("a", "open"), ("a", "half_open"), ("a", "closed")]
    assert health._states == {}


def test_retries_are_counted_for_the_model_asked_first_and_for_all() -> None:
    health, clock, _ = alone()
    for _ in range(100):
        health.first([A], POLICY)
    for _ in range(10):
        health.first([B], POLICY)
    assert [health.may_retry("b", POLICY) for _ in range(6)] == [True] * 5 + [False]
    assert sum(health.may_retry("a", POLICY) for _ in range(100)) == 25 - 5  # of all: 3 + 22
    assert not health.may_retry("c", POLICY)
    clock.now = 20.0
    assert [health.may_retry("c", POLICY) for _ in range(4)] == [True] * 3 + [False]


def test_being_sent_past_an_open_breaker_is_no_retry() -> None:
    health, _, _ = alone()
    health.open("a", POLICY)
    for _ in range(10):
        assert health.first([A, B], POLICY) == 1
    assert sum(health.may_retry("a", POLICY) for _ in range(10)) == 5


@pytest.mark.parametrize(
    ("failure", "event"),
    [
        (UpstreamStatus(500, "", b"", {}), "failure"),
        (UpstreamStatus(503, "", b"", {}), "failure"),
        (UpstreamStatus(408, "", b"", {}), "failure"),
        (UpstreamStatus(429, "", b"", {}), "nothing"),
        (UpstreamStatus(404, "", b"", {}), "nothing"),
        (UpstreamAuth(""), "nothing"),
        (UpstreamUnreachable(""), "failure"),
        (UpstreamErrorAnswer(""), "failure"),
        (UpstreamReset(""), "failure"),
        (UpstreamBadResponse(""), "failure"),
        (UpstreamTimeout(""), "failure"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, UpstreamFailure) else value,
)
def test_what_a_failure_says_of_the_model(failure: UpstreamFailure, event: str) -> None:
    assert verdict(failure) == event


# --- requests -----------------------------------------------------------------------------------------------------


async def test_a_model_that_keeps_failing_is_passed_by_and_tried_again_later(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    health, clock = watched(rig)
    rig.proxy.services.jitter = lambda: 0.0
    for _ in range(20):  # so many that each failure may be made good
        await ask_chat(rig)
    rig.simulator.faults.add({**DEAD, "model": "gpt-5"})
    for _ in range(5):
        assert (await ask_chat(rig)).headers["x-oxyy-attempts"] == "2"
    assert (await states(rig))["gpt-5"] == 2
    before = len(rig.simulator.received)
    for stream in (False, True):
        answer = await ask_chat(rig, stream=stream)
        assert (answer.status, answer.headers["x-oxyy-model"], answer.headers["x-oxyy-attempts"]) == (
            200, "gpt-5-mini", "1",
        )  # fmt: skip
    assert asked(rig)[before:] == ["gpt-5-mini"] * 2
    async with rig.client.get(f"{rig.admin_url}/metrics") as metrics:
        line = 'oxyy_failovers_total{from_model="gpt-5",reason="breaker",to_model="gpt-5-mini"} 2.0'
        assert line in await metrics.text()

    clock.now = 15.0
    assert (await ask_chat(rig)).headers["x-oxyy-attempts"] == "2"  # the probe, which fails
    assert (await states(rig))["gpt-5"] == 2
    rig.simulator.faults.clear()
    clock.now = 29.0
    assert (await ask_chat(rig)).headers["x-oxyy-model"] == "gpt-5-mini"
    clock.now = 30.0
    assert (await ask_chat(rig)).headers["x-oxyy-model"] == "gpt-5"
    assert (await states(rig))["gpt-5"] == 0
    assert +health.out == {}
    await assert_books_are_right(rig)


async def test_one_of_a_hundred_requests_at_once_is_the_probe(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    health, clock = watched(rig)
    health.open("gpt-5", rig.proxy.policies.policy)
    clock.now = 15.0
    rig.simulator.faults.add({"fault": "hang_before_headers", "model": "gpt-5", "for_s": 0.6})
    running = [asyncio.create_task(ask_chat(rig)) for _ in range(100)]
    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    await rig.simulator.wait_for(lambda: len(rig.simulator.received) == 100)
    assert (await states(rig))["gpt-5"] == 1
    served = Counter([answer.headers["x-oxyy-model"] for answer in await asyncio.gather(*running)])
    assert served == {"gpt-5": 1, "gpt-5-mini": 99}
    assert (await states(rig))["gpt-5"] == 0
    assert +health.out == {}


ROUTES: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "chat": ("/v1/chat/completions", QUESTION, ["gpt-5", "gpt-5-mini"]),
    "stream": ("/v1/chat/completions", {**QUESTION, "stream": True}, ["gpt-5", "gpt-5-mini"]),
    "videos": ("/v1/videos/generations", VIDEO, ["veo-3"]),
    "speech": ("/v1/audio/speech", SPEECH, ["tts-1-hd"]),
}


@pytest.mark.parametrize(("path", "body", "chain"), ROUTES.values(), ids=ROUTES)
async def test_where_every_breaker_is_open_the_answer_is_there_at_once(
    make_rig: Callable[..., Any], path: str, body: dict[str, Any], chain: list[str]
) -> None:
    rig: Rig = await make_rig()
    health, clock = watched(rig)
    for name in chain:
        health.open(name, rig.proxy.policies.policy)
    clock.now = 4.5
    answer = await ask(rig, body, path=path)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (503, "upstream_unavailable", "server_error")
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("11", "false")
    assert (rig.rows(), len(rig.simulator.received)) == ([], 0)
    async with rig.client.get(f"{rig.admin_url}/metrics") as metrics:
        assert 'oxyy_refusals_total{code="upstream_unavailable",team="search"} 1.0' in await metrics.text()
    clock.now = 15.0
    assert (await ask(rig, body, path=path)).status == 200
    assert health._states.keys() == set(chain[1:])
    assert +health.out == {}


@pytest.mark.parametrize(("path", "body", "chain"), ROUTES.values(), ids=ROUTES)
async def test_every_way_opens_it(
    make_rig: Callable[..., Any], path: str, body: dict[str, Any], chain: list[str]
) -> None:
    rig: Rig = await make_rig(gateway=GATEWAY + "breaker: {failures: 2}\nretry: {attempts: 1}\n")
    rig.simulator.faults.add({**DEAD, "model": chain[0]})
    for _ in range(2):
        assert (await ask(rig, body, path=path)).status == 503
    assert (await states(rig))[chain[0]] == 2


SAYS_NOTHING = {
    "400": ({"status": 400}, "[500, 503]"),
    "404": ({"status": 404}, "[500, 503]"),
    "422": ({"status": 422}, "[500, 503]"),
    "429": ({"status": 429}, "[500, 503]"),
    "429 that moves on": ({"status": 429}, "[500, 503, 429]"),
    "401": ({"status": 401}, "[500, 503]"),
    "403": ({"status": 403}, "[500, 503]"),
}


@pytest.mark.parametrize(("fault", "on"), SAYS_NOTHING.values(), ids=SAYS_NOTHING)
async def test_an_answer_that_is_no_failure_of_the_model_neither_opens_nor_blocks_it(
    make_rig: Callable[..., Any], fault: dict[str, Any], on: str
) -> None:
    gateway = f"version: 1\nretry: {{on: {on}}}\nbreaker: {{failures: 1}}\n"
    rig: Rig = await make_rig(gateway=gateway)
    health, clock = watched(rig)
    rig.simulator.faults.add({"fault": "status", "model": "gpt-5-mini", **fault})
    await ask_chat(rig, model="gpt-5-mini")
    assert health._states == {}
    health.open("gpt-5-mini", rig.proxy.policies.policy)
    clock.now = 15.0
    await ask_chat(rig, model="gpt-5-mini")  # the probe
    assert not probing(health, "gpt-5-mini")
    rig.simulator.faults.clear()
    assert (await ask_chat(rig, model="gpt-5-mini")).status == 200
    assert (health._states, +health.out) == ({}, {})


# --- a probe that comes to nothing --------------------------------------------------------------------------------


async def test_a_probe_that_a_limit_refuses_leaves_the_next_one_free(make_rig: Callable[..., Any]) -> None:
    teams = {"search": team_file(limits="{meter: usd, per: month, cap: 0.000001}")}
    rig: Rig = await make_rig(teams=teams)
    health, clock = watched(rig)
    health.open("gpt-5", rig.proxy.policies.policy)
    clock.now = 15.0
    assert (await ask_chat(rig)).error["code"] == "insufficient_quota"
    assert (probing(health, "gpt-5"), +health.out) == (False, {})


async def test_a_probe_for_which_there_were_too_many_retries_leaves_the_next_one_free(rig: Rig) -> None:
    health, clock = watched(rig)
    known = rig.proxy.policies.policy
    health.open("gpt-5-mini", known)
    clock.now = 15.0
    while health.may_retry("gpt-5", known):
        pass
    rig.simulator.faults.add({**DEAD, "model": "gpt-5"})
    assert ((await ask_chat(rig)).status, asked(rig)) == (503, ["gpt-5"])
    assert (probing(health, "gpt-5-mini"), +health.out) == (False, {})


async def test_a_probe_that_the_ledger_refuses_leaves_the_next_one_free(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    health, clock = watched(rig)
    health.open("gpt-5", rig.proxy.policies.policy)
    clock.now = 15.0
    with closing(sqlite3.connect(rig.ledger_path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert (await ask_chat(rig)).error["code"] == "ledger_unavailable"
        other.execute("ROLLBACK")
    assert (probing(health, "gpt-5"), +health.out) == (False, {})


async def test_a_probe_whose_client_leaves_ends(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway="version: 1\nretry: {answer: 100ms, first_byte: 100ms}\n")
    health, clock = watched(rig)
    for stream in (False, True):
        health.open("gpt-5", rig.proxy.policies.policy)
        clock.now += 15.0
        async with dial(rig) as wire:
            await wire.send(request({**QUESTION, "stream": stream, "simulate": {"fault": "hang_before_headers"}}))
            await until(lambda: probing(health, "gpt-5"))
            wire.reset()
        await until(lambda: not probing(health, "gpt-5"))
    await until(lambda: not any(health.out.values()))


FAILS = {"fault": "status", "status": 503, "model": "gpt-5"}
PROBES: dict[str, tuple[str, dict[str, Any]]] = {
    "whole": ("gpt-5", {}),
    "stream": ("gpt-5", {"stream": True, "simulate": {"words": 3}}),
    "fallback": ("gpt-5-mini", {"simulate": FAILS}),
    "cut": ("gpt-5", {"stream": True, "simulate": {"fault": "reset_mid_body", "words": 4}}),
}


@pytest.mark.parametrize(("halfopen", "members"), PROBES.values(), ids=PROBES)
async def test_a_probe_cancelled_at_any_await_leaves_the_next_one_free(
    tmp_path: Path, halfopen: str, members: dict[str, Any]
) -> None:
    async with own_rig(tmp_path, gateway=GATEWAY + "breaker: {failures: 1}\n") as rig:
        services = rig.proxy.services
        services.jitter = lambda: 0.0
        tried = 0
        for steps in range(40):
            health, clock = watched(rig)
            health.open(halfopen, rig.proxy.policies.policy)
            clock.now = 15.0
            async with dial(rig) as wire:
                await wire.send(request({**QUESTION, **members}))
                await until(partial(probing, health, halfopen), every_s=0)
                (task,) = services.running
                for _ in range(steps):
                    await asyncio.sleep(0)
                tried += probing(health, halfopen)
                task.cancel()
                await asyncio.wait([task], timeout=10)
            assert not probing(health, halfopen), steps
            assert not any(health.out.values()), (steps, health.out)
        assert tried > 5  # so many were cancelled while they were the probe
