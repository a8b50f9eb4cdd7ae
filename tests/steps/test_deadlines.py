"""One deadline over all that is done for a request, and the client's own patience: measured with an upstream that says
nothing. Waits are ended up to a tenth of a second late, which is what `LATE_S` leaves room for, and for a busy host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import openai
import pytest

from tests.rig import KEY, Rig
from tests.steps.test_attempt import THREE
from tests.steps.test_health import DEAD, asked
from tests.steps.wires import (
    QUESTION,
    Heard,
    ask,
    ask_chat,
    assert_books_are_right,
    dial,
    ended_rows,
    request,
)

LATE_S = 0.3
HANGS = {"fault": "hang_before_headers"}
PYTHON = "x-stainless-read-timeout"
NODE = "X-Stainless-Timeout"


def gateway(**retry: str) -> str:
    return "version: 1\nretry: {" + ", ".join(f"{name}: {value}" for name, value in retry.items()) + "}\n"


async def timed(rig: Rig, body: object = QUESTION, **how: Any) -> tuple[Heard, float]:
    started = monotonic()
    answer = await ask(rig, body, **how)
    return answer, monotonic() - started


async def slowly(rig: Rig, body: bytes, over_s: float, pieces: int = 5) -> tuple[Heard, float]:
    """A chat request whose body takes so long to come, from its head on. What the proxy wants no more is not sent."""
    started = monotonic()
    async with dial(rig) as wire:
        await wire.send(request(b"", headers={"Content-Length": str(len(body))}))
        answering = asyncio.create_task(wire.answer())
        step = -(-len(body) // pieces)
        for at in range(0, len(body), step):
            await asyncio.wait({answering}, timeout=over_s / pieces)
            if answering.done():
                break
            await wire.send(body[at : at + step])
        return await answering, monotonic() - started


# --- the policy's -------------------------------------------------------------------------------------------------


async def test_each_attempt_gets_its_time_and_the_last_what_is_left(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(
        models=THREE, gateway=gateway(deadline="1300ms", first_byte="400ms", answer="400ms", budget_percent="100")
    )
    rig.proxy.services.jitter = lambda: 0.0
    rig.simulator.faults.add(HANGS)
    told = await asyncio.gather(*(timed(rig, {**QUESTION, "stream": stream}) for stream in (False, True)))
    for answer, took_s in told:
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert answer.headers["x-oxyy-attempts"] == "3"
        assert 1.14 < took_s < 1.3 + LATE_S
    assert sorted(asked(rig)) == ["claude-opus-4.6"] * 2 + ["gpt-5"] * 2 + ["gpt-5-mini"] * 2
    await assert_books_are_right(rig)


async def test_what_the_first_used_up_the_next_does_not_get(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=THREE, gateway=gateway(deadline="700ms", first_byte="350ms", answer="350ms"))
    rig.proxy.services.jitter = lambda: 0.0
    rig.simulator.faults.add(HANGS)
    answer, took_s = await timed(rig)
    assert (answer.status, len(asked(rig))) == (504, 2)
    assert 0.54 < took_s < 0.7 + LATE_S


async def test_no_attempt_follows_a_pause_that_does_not_fit(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(models=THREE, gateway=gateway(deadline="90ms"))
    rig.proxy.services.jitter = lambda: 0.99
    rig.simulator.faults.add(DEAD)
    answer, took_s = await timed(rig)
    assert (answer.status, len(asked(rig))) == (503, 1)
    assert took_s < 0.09


async def test_a_stream_that_has_begun_may_last_longer(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway=gateway(deadline="200ms", idle="150ms"))
    started = monotonic()
    answer = await ask_chat(rig, stream=True, simulate={"pace_ms": 25, "words": 20})
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert monotonic() - started > 0.4


async def test_between_two_bytes_of_a_stream_idle_counts(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway=gateway(idle="150ms"))
    started = monotonic()
    answer = await ask_chat(rig, stream=True, simulate={"fault": "hang_mid_body", "words": 6})
    assert b'"code":"upstream_timeout"' in answer.body
    assert 0.15 < monotonic() - started < 0.15 + LATE_S


# --- the client's upload ------------------------------------------------------------------------------------------

LARGE = request({**QUESTION, "user": "x" * 200_000}).partition(b"\r\n\r\n")[2]


async def test_a_slow_upload_counts(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway=gateway(deadline="800ms"))
    rig.simulator.faults.add(HANGS)
    answer, took_s = await slowly(rig, LARGE, 0.4)
    assert (answer.status, answer.error["code"], len(rig.simulator.received)) == (504, "upstream_timeout", 1)
    assert 0.64 < took_s < 0.8 + LATE_S


@pytest.mark.parametrize("warm", [False, True], ids=["no connection yet", "a connection that is idle"])
async def test_an_upload_that_took_all_the_time_is_not_sent_on(make_rig: Callable[..., Any], warm: bool) -> None:
    rig: Rig = await make_rig(gateway=gateway(deadline="250ms") + "breaker: {failures: 1}\n")
    if warm:
        await ask_chat(rig)
    sent = len(rig.simulator.received)
    answer, took_s = await slowly(rig, LARGE, 0.4)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert took_s < 0.4 + LATE_S
    assert len(rig.simulator.received) == sent
    assert [row["state"] for row in rig.rows()] == ["settled"] * sent
    assert rig.proxy.services.health._states == {}


async def test_an_upload_is_not_waited_for_beyond_the_deadline(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway=gateway(deadline="300ms"))
    answer, took_s = await slowly(rig, LARGE, 1.5, pieces=30)
    assert answer.status in (408, 504)
    assert took_s < 0.3 + LATE_S
    assert rig.rows() == []


# --- the client's patience ----------------------------------------------------------------------------------------


async def test_the_answer_is_there_before_the_client_gives_up(rig: Rig) -> None:
    rig.simulator.faults.add(HANGS)

    async def one(header: str, said: str, stream: bool) -> None:
        answer, took_s = await timed(rig, {**QUESTION, "stream": stream}, headers={header: said})
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert 0.5 * float(said) < took_s < float(said)

    hints = [(PYTHON, "1.0"), (PYTHON, "0.5"), (NODE, "1"), (NODE, "0.75")]
    await asyncio.gather(*(one(header, said, stream) for header, said in hints for stream in (False, True)))


async def test_the_python_sdk_gets_an_error_of_ours_and_not_its_own(rig: Rig) -> None:
    rig.simulator.faults.add(HANGS)
    question: Any = [{"role": "user", "content": "Hello!"}]
    async with openai.AsyncOpenAI(api_key=KEY, base_url=rig.url, timeout=1.0, max_retries=0) as client:
        calls = (client.chat.completions.create(model="gpt-5", messages=question, stream=s) for s in (False, True))
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, openai.InternalServerError)
            assert (error.status_code, error.code) == (504, "upstream_timeout")
    await ended_rows(rig, 2)


async def test_the_python_sdk_gets_the_fallbacks_answer_while_it_waits(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway=gateway(first_byte="300ms", answer="300ms"))
    rig.simulator.faults.add({**HANGS, "model": "gpt-5"})
    async with openai.AsyncOpenAI(api_key=KEY, base_url=rig.url, timeout=2.0, max_retries=0) as client:
        answer = await client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": "Hello!"}])
    assert answer.model == "gpt-5-mini"


async def test_garbage_and_more_patience_than_the_policy_has_change_nothing(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway=gateway(deadline="300ms"))
    rig.simulator.faults.add(HANGS)
    garbage = ["nan", "inf", "-1", "0", "1e400", "", "10, 20", "600", "soon"]
    told = await asyncio.gather(*(timed(rig, headers={one: said}) for one in (PYTHON, NODE) for said in garbage))
    for answer, took_s in told:
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        assert 0.14 < took_s < 0.3 + LATE_S


async def test_a_client_without_patience_does_not_open_the_breaker_for_others(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway="version: 1\nbreaker: {failures: 3}\n")
    hasty = [ask(rig, {**QUESTION, "simulate": {"delay_ms": 700}}, headers={PYTHON: "0.2"}) for _ in range(4)]
    assert {answer.status for answer in await asyncio.gather(*hasty)} == {504}
    assert rig.proxy.services.health._states == {}
    assert (await ask_chat(rig)).headers["x-oxyy-model"] == "gpt-5"


SILENT = {
    "the deadline is the shortest": ("retry: {deadline: 200ms}\nbreaker: {failures: 3}\n", {}),
    "it was slow already": ("breaker: {failures: 3, slow: 150ms}\n", {PYTHON: "0.6"}),
}


@pytest.mark.parametrize(("policy", "headers"), SILENT.values(), ids=SILENT)
async def test_a_silent_model_is_found_out_also_by_short_times(
    make_rig: Callable[..., Any], policy: str, headers: dict[str, str]
) -> None:
    rig: Rig = await make_rig(gateway="version: 1\n" + policy)
    rig.simulator.faults.add(HANGS)
    told = await asyncio.gather(*(ask(rig, QUESTION, headers=headers) for _ in range(3)))
    assert [answer.status for answer in told] == [504] * 3
    assert rig.proxy.services.health._state("gpt-5").kind == "open"


@pytest.mark.parametrize("header", [PYTHON, NODE])
async def test_a_poll_of_a_video_is_answered_in_time_too(make_rig: Callable[..., Any], header: str) -> None:
    rig: Rig = await make_rig(gateway="version: 1\ndrain: 100ms\n")
    job = await ask(rig, {"model": "veo-3", "prompt": "a cat"}, path="/v1/videos/generations")
    rig.simulator.faults.add({**HANGS, "polls": True})
    path = f"/v1/videos/generations/{job.json['id']}"
    answer, took_s = await asyncio.wait_for(timed(rig, None, method="GET", path=path, headers={header: "1"}), 2)
    assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
    assert took_s < 1


async def test_a_poll_of_a_video_has_the_policys_deadline(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway=gateway(deadline="300ms") + "drain: 100ms\n")
    job = await ask(rig, {"model": "veo-3", "prompt": "a cat"}, path="/v1/videos/generations")
    rig.simulator.faults.add({**HANGS, "polls": True})
    path = f"/v1/videos/generations/{job.json['id']}"
    answer, took_s = await asyncio.wait_for(timed(rig, None, method="GET", path=path), 2)
    assert answer.status == 504
    assert took_s < 0.3 + LATE_S
