"""What counts for and against a model, how often another call follows a failed one, and after which pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from tests.rig import GATEWAY, MODELS, Rig
from tests.steps.test_health import DEAD, asked, states, watched
from tests.steps.wires import QUESTION, ask, ask_chat, assert_books_are_right, raw_upstream, says, until

THREE = MODELS.replace("fallbacks: [gpt-5-mini]", "fallbacks: [gpt-5-mini, claude-opus-4.6]")


# --- what counts --------------------------------------------------------------------------------------------------

FAILURES: dict[str, dict[str, Any]] = {
    "502 of a gateway": {"fault": "status", "status": 502},
    "504 of a gateway": {"fault": "status", "status": 504},
    "a status that does not move on": {"fault": "status", "status": 529},
    "a request that timed out": {"fault": "status", "status": 408},
    "reset": {"fault": "reset_before_headers"},
    "an error event": {"fault": "error_event"},
    "silence": {"fault": "hang_before_headers"},
    "a slow first byte": {"fault": "hang_before_headers", "for_s": 0.08},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAILURES.values(), ids=FAILURES)
async def test_what_counts_as_a_failure(make_rig: Callable[..., Any], fault: dict[str, Any], stream: bool) -> None:
    gateway = "version: 1\nretry: {first_byte: 150ms, answer: 150ms}\nbreaker: {failures: 2, slow: 40ms}\n"
    rig: Rig = await make_rig(gateway=gateway)
    for _ in range(2):
        await ask_chat(rig, model="gpt-5-mini", stream=stream, simulate=fault)
    assert (await states(rig))["gpt-5-mini"] == 2


@pytest.mark.parametrize("fault", ["reset_mid_body", "error_mid_stream", "truncated", "hang_mid_body"])
async def test_streams_that_are_cut_count_once_each(make_rig: Callable[..., Any], fault: str) -> None:
    rig: Rig = await make_rig(gateway="version: 1\nretry: {idle: 100ms}\nbreaker: {failures: 3}\n")
    health, _ = watched(rig)
    for n in range(3):
        assert health._state("gpt-5").kind == ("failing" if n else "closed")
        answer = await ask_chat(rig, stream=True, simulate={"fault": fault, "words": 6})
        assert b"[DONE]" not in answer.body
        assert health._state("gpt-5").calls == (n + 1 if n < 2 else 0)
    assert health._state("gpt-5").kind == "open"
    assert not any(health.out.values())


async def test_other_figures_are_in_force_after_a_reload(rig: Rig) -> None:
    health, clock = watched(rig)
    health.open("gpt-5", rig.proxy.policies.policy)
    clock.now = 3.0
    assert (await ask_chat(rig)).headers["x-oxyy-model"] == "gpt-5-mini"
    rig.gateway = "version: 1\nbreaker: {failures: 1, open_for: 2s}\n"
    rig.write_policies()
    await rig.proxy.policies.reload()
    assert (await ask_chat(rig)).headers["x-oxyy-model"] == "gpt-5"
    rig.simulator.faults.add({**DEAD, "times": 1})
    await ask_chat(rig)
    assert (await states(rig))["gpt-5"] == 2


async def test_the_metric_is_there_for_the_models_of_the_policy_and_no_others(rig: Rig) -> None:
    known = rig.proxy.policies.policy
    assert await states(rig) == dict.fromkeys(known.models, 0)
    rig.proxy.services.health.ended("claude-opus-4.6", "failure", known)
    rig.models = MODELS.replace("  claude-opus-4.6:", "  another:")
    rig.write_policies()
    await rig.proxy.policies.reload()
    assert "another" in await states(rig)
    assert "claude-opus-4.6" not in await states(rig)


async def test_a_time_out_from_before_does_not_decide_for_the_probe(make_rig: Callable[..., Any]) -> None:
    gateway = "version: 1\nretry: {answer: 400ms}\nbreaker: {failures: 1, open_for: 250ms}\n"
    rig: Rig = await make_rig(gateway=gateway)
    health = rig.proxy.services.health
    hung = asyncio.create_task(ask_chat(rig, model="gpt-5-mini", simulate={"fault": "hang_before_headers"}))
    await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 1)
    await ask_chat(rig, model="gpt-5-mini", simulate={**DEAD})
    assert health._state("gpt-5-mini").kind == "open"
    await until(lambda: health._clock() >= health._state("gpt-5-mini").since + 0.25)
    probe = asyncio.create_task(ask_chat(rig, model="gpt-5-mini", simulate={"delay_ms": 330}))
    await until(lambda: health._state("gpt-5-mini").kind == "half_open")
    assert (await hung).status == 504
    assert health._state("gpt-5-mini").kind == "half_open"
    assert (await probe).status == 200
    assert health._state("gpt-5-mini").kind == "closed"


# --- how often ----------------------------------------------------------------------------------------------------

NEVER_OPEN = "breaker: {failures: 100000}\n"


async def calls(rig: Rig, requests: int, at_once: int = 10, **members: Any) -> tuple[int, int]:
    """(answered 200, calls to the upstream) of so many requests."""
    before, good = len(rig.simulator.received), 0
    for _ in range(0, requests, at_once):
        answers = await asyncio.gather(*(ask_chat(rig, **members) for _ in range(at_once)))
        good += sum(answer.status == 200 for answer in answers)
    return good, len(rig.simulator.received) - before


@pytest.mark.parametrize(("percent", "more"), [(20, 20 + 3), (0, 3), (100, 100)])
@pytest.mark.parametrize("model", ["gpt-5", "claude-opus-4.6"], ids=["fallbacks", "the same model"])
async def test_a_total_outage_costs_the_upstream_a_share_more(
    make_rig: Callable[..., Any], percent: int, more: int, model: str
) -> None:
    rig: Rig = await make_rig(gateway=f"version: 1\nretry: {{budget_percent: {percent}}}\n{NEVER_OPEN}")
    watched(rig)  # by its clock no time passes
    rig.proxy.services.jitter = lambda: 0.0
    rig.simulator.faults.add(DEAD)
    good, called = await calls(rig, 100, model=model)
    assert (good, called) == (0, 100 + more)
    await assert_books_are_right(rig)


async def test_with_its_breakers_an_outage_costs_less_than_the_requests(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=THREE)
    watched(rig)
    rig.simulator.faults.add(DEAD)
    good, called = await calls(rig, 300)
    assert good == 0
    assert called < 100
    assert set((await states(rig)).values()) >= {2.0}


async def test_a_failing_model_does_not_use_up_the_retries_of_another(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway=GATEWAY + NEVER_OPEN)
    watched(rig)
    rig.proxy.services.jitter = lambda: 0.0
    await calls(rig, 50, model="claude-opus-4.6")
    rig.simulator.faults.add(DEAD)
    assert (await calls(rig, 50))[1] == 50 + 3 + 10
    assert (await calls(rig, 9, 1, model="claude-opus-4.6"))[1] == 18  # 25 may be made good in all


async def test_a_request_that_passed_an_open_breaker_has_the_retries_of_the_model_it_asked_for(
    make_rig: Callable[..., Any],
) -> None:
    rig: Rig = await make_rig(models=THREE, gateway=GATEWAY + "breaker: {open_for: 60s}\n")
    health, _ = watched(rig)
    rig.proxy.services.jitter = lambda: 0.0
    health.open("gpt-5", rig.proxy.policies.policy)
    await calls(rig, 100)
    rig.simulator.faults.add({**DEAD, "model": "gpt-5-mini", "times": 4})
    assert await calls(rig, 4, 1) == (4, 8)


@pytest.mark.parametrize("header", ["x-stainless-retry-count", "X-Stainless-Retry-Count"])
@pytest.mark.parametrize(
    ("count", "model", "chain"),
    [
        ("0", "gpt-5-mini", ["gpt-5-mini", "gpt-5-mini"]),
        ("1", "gpt-5-mini", ["gpt-5-mini"]),
        ("2", "gpt-5-mini", ["gpt-5-mini"]),
        ("nan", "gpt-5-mini", ["gpt-5-mini", "gpt-5-mini"]),
        ("1", "gpt-5", ["gpt-5", "gpt-5-mini"]),
    ],
)
async def test_a_client_that_retries_itself_gets_no_second_call_of_the_same_model(
    rig: Rig, header: str, count: str, model: str, chain: list[str]
) -> None:
    rig.simulator.faults.add(DEAD)
    answer = await ask(rig, {**QUESTION, "model": model}, headers={header: count})
    assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
    assert asked(rig) == chain


# --- after which pause --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("jitter", "least"), [(0.0, 0.0), (0.5, 0.05), (0.999, 0.0999)])
async def test_the_pause_is_anywhere_up_to_its_bound(rig: Rig, jitter: float, least: float) -> None:
    rig.proxy.services.jitter = lambda: jitter
    rig.simulator.faults.add({**DEAD, "model": "gpt-5", "times": 1})
    started = monotonic()
    assert (await ask_chat(rig)).status == 200
    assert least <= monotonic() - started < least + 0.3


async def test_the_same_model_is_asked_again_when_it_said_so(rig: Rig) -> None:
    rig.simulator.faults.add({**DEAD, "times": 1, "headers": {"Retry-After": "0.4"}})
    started = monotonic()
    assert (await ask_chat(rig, model="gpt-5-mini")).status == 200
    assert 0.4 <= monotonic() - started < 1


async def test_another_model_is_not_waited_for(rig: Rig) -> None:
    rig.simulator.faults.add({**DEAD, "model": "gpt-5", "headers": {"Retry-After": "30"}})
    started = monotonic()
    assert (await ask_chat(rig)).status == 200
    assert monotonic() - started < 1


@pytest.mark.parametrize("said", ["3", "600", "1e300"])
async def test_a_pause_that_does_not_fit_the_deadline_is_the_clients_to_make(
    make_rig: Callable[..., Any], said: str
) -> None:
    rig: Rig = await make_rig(gateway="version: 1\nretry: {deadline: 2s}\n")
    rig.simulator.faults.add({**DEAD, "headers": {"Retry-After": said}})
    started = monotonic()
    answer = await ask_chat(rig, model="gpt-5-mini")
    assert monotonic() - started < 1
    assert (answer.status, answer.headers["retry-after"], len(rig.simulator.received)) == (503, said, 1)
    (row,) = rig.rows()
    assert (row["state"], row["attempts"]) == ("voided", 1)


# --- what it costs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 502, 504])
async def test_a_gateway_that_gave_up_is_ambiguous_also_where_the_policy_moves_on(
    make_rig: Callable[..., Any], status: int
) -> None:
    busy = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
    async with raw_upstream(says(busy)) as upstream:
        gateway = "version: 1\nretry: {on: [408, 500, 502, 503, 504], attempts: 1}\n"
        rig: Rig = await make_rig(gateway=gateway, upstream_url=upstream.url)
        assert (await ask_chat(rig)).status == status
        (row,) = rig.rows()
        assert (row["state"], row["unresolved_nusd"]) == ("unresolved", row["hold_nusd"])
