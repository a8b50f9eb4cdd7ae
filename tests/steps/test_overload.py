"""More requests than are served at a time: refused at once, each team with room, and every place given back."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from tests.rig import KEY, OTHER_KEY, Rig, team_file
from tests.steps.wires import (
    QUESTION,
    Heard,
    ask,
    ask_chat,
    assert_books_are_right,
    dial,
    ended_rows,
    request,
    rows_until,
    until,
)

TEAMS = {"search": team_file(), "support": team_file("support", OTHER_KEY)}
VIDEO = {"model": "veo-3", "prompt": "a cat"}
JOBS = "/v1/videos/generations"


@pytest.fixture
async def small(make_rig: Callable[..., Any]) -> Rig:
    """A proxy that serves eight at a time, six of them of one team."""
    return await make_rig(  # type: ignore[no-any-return]
        settings={"max_in_flight": 8},
        teams=TEAMS,
        gateway="version: 1\nretry: {answer: 2s, first_byte: 2s}\nbreaker: {failures: 1000}\ndrain: 100ms\n",
    )


@asynccontextmanager
async def served(rig: Rig, count: int, key: str = KEY) -> AsyncIterator[Callable[[], None]]:
    """So many requests that the upstream does not answer; what is given lets them go."""
    waiting = len(rig.proxy.services.running)
    body = {**QUESTION, "simulate": {"fault": "hang_before_headers"}}
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(rig)) for _ in range(count)]
        for wire in wires:
            await wire.send(request(body, key=key))
        await until(lambda: len(rig.proxy.services.running) == waiting + count)

        def let_go() -> None:
            for task in rig.proxy.services.running:
                task.cancel()

        yield let_go


def assert_overloaded(answer: Heard) -> None:
    assert (answer.status, answer.error["code"], answer.error["type"]) == (503, "overloaded", "server_error")
    assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
    assert "x-should-retry" not in answer.headers


async def assert_nobody_is_served(rig: Rig) -> None:
    services = rig.proxy.services
    await until(lambda: not services.running)
    assert not any(services.of_team.values())
    async with rig.client.get(f"{rig.admin_url}/metrics") as answer:
        text = await answer.text()
    assert {float(value) for value in re.findall(r"^oxyy_in_flight\{.*\} (\S+)$", text, re.M)} <= {0.0}


async def test_a_team_at_its_share_is_refused_at_once_and_another_has_room(small: Rig) -> None:
    async with served(small, 6):
        started = monotonic()
        assert_overloaded(await ask_chat(small))
        assert monotonic() - started < 0.3
        assert (await ask(small, QUESTION, key=OTHER_KEY)).status == 200
        assert len(small.rows()) == 7  # nothing is held for what is refused
        async with small.client.get(f"{small.admin_url}/metrics") as answer:
            assert 'oxyy_refusals_total{code="overloaded",team="search"} 1.0' in await answer.text()


async def test_when_every_place_is_taken_all_are_refused(small: Rig) -> None:
    async with served(small, 5), served(small, 3, OTHER_KEY):
        for key in (KEY, OTHER_KEY):
            assert_overloaded(await ask(small, QUESTION, key=key))
        assert (await ask(small, QUESTION, key="wrong")).status == 401
        for path in ("/healthz", "/readyz", "/metrics"):
            async with small.client.get(small.admin_url + path) as answer:
                assert answer.status == 200
        async with small.client.get(f"{small.admin_url}/-/drain") as answer:
            assert await answer.json() == {"draining": False, "running": 8}


async def test_a_place_that_is_given_back_is_free_at_once(small: Rig) -> None:
    async with served(small, 5):
        for _ in range(20):
            assert (await ask_chat(small)).status == 200
        assert small.proxy.services.of_team["search"] == 5


async def test_a_single_place_serves_one(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(settings={"max_in_flight": 1}, gateway="version: 1\ndrain: 100ms\n")
    assert (await ask_chat(rig)).status == 200
    async with served(rig, 1):
        assert_overloaded(await ask_chat(rig))


async def test_a_burst_is_served_up_to_the_cap_and_never_queued(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(settings={"max_in_flight": 40}, teams=TEAMS)
    most = 0

    async def one(key: str) -> Heard:
        nonlocal most
        answer = await ask(rig, {**QUESTION, "simulate": {"delay_ms": 300}}, key=key)
        most = max(most, rig.simulator.in_flight)
        return answer

    answers = await asyncio.gather(*(one(key) for key in [KEY] * 80 + [OTHER_KEY] * 20))
    told = Counter(answer.status for answer in answers)
    assert told == {200: 40, 503: 60}
    assert Counter(answer.status for answer in answers[80:]) == {200: 10, 503: 10}
    assert len(rig.simulator.received) == 40 >= most
    for answer in answers:
        if answer.status == 503:
            assert_overloaded(answer)
    await assert_nobody_is_served(rig)
    await assert_books_are_right(rig)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/usage", f"{JOBS}/none", "/v1/nothing"])
async def test_what_is_only_looked_at_has_no_place_either(small: Rig, path: str) -> None:
    async with served(small, 6):
        assert_overloaded(await ask(small, method="GET", path=path))
    assert (await ask(small, method="GET", path="/v1/models", key=OTHER_KEY)).status == 200


async def test_who_looks_at_a_video_takes_a_place(small: Rig) -> None:
    job = (await ask(small, VIDEO, path=JOBS)).json["id"]
    small.simulator.faults.add({"fault": "hang_before_headers", "polls": True, "for_s": 1})
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(small)) for _ in range(6)]
        for wire in wires:
            await wire.send(request(method="GET", path=f"{JOBS}/{job}"))
        await until(lambda: len(small.proxy.services.running) == 6)
        assert_overloaded(await ask_chat(small))
        assert (await wires[0].answer()).status == 200
    await assert_nobody_is_served(small)


async def test_who_uploads_takes_a_place(small: Rig) -> None:
    head = request(b"", headers={"Content-Length": "1000"})
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(small)) for _ in range(6)]
        for wire in wires:
            await wire.send(head + b'{"model":')
        await until(lambda: len(small.proxy.services.running) == 6)
        assert_overloaded(await ask_chat(small))
        assert_overloaded(await ask(small, {**QUESTION, "user": "x" * 500_000}))  # its body is not waited for
        for wire in wires:
            wire.reset()
        await assert_nobody_is_served(small)
    assert (await ask_chat(small)).status == 200


ENDS: dict[str, dict[str, Any]] = {
    "answered": {},
    "streamed": {"stream": True},
    "refused by the upstream": {"simulate": {"fault": "status", "status": 400}},
    "failed": {"simulate": {"fault": "status", "status": 503}},
    "timed out": {"simulate": {"fault": "hang_before_headers"}},
    "cut": {"stream": True, "simulate": {"fault": "reset_mid_body", "words": 5}},
    "no such model": {"model": "nothing-like-it"},
    "not valid": {"messages": 5},
}


@pytest.mark.parametrize("members", ENDS.values(), ids=ENDS)
async def test_a_place_is_given_back_however_it_ends(make_rig: Callable[..., Any], members: dict[str, Any]) -> None:
    gateway = "version: 1\nretry: {answer: 100ms, first_byte: 100ms}\n"
    rig: Rig = await make_rig(settings={"max_in_flight": 1}, gateway=gateway)
    for _ in range(3):
        assert (await ask_chat(rig, **members)).headers.get("retry-after") is None
    await assert_nobody_is_served(rig)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_place_is_given_back_when_the_client_leaves(rig: Rig, stream: bool) -> None:
    async with dial(rig) as wire:
        body = {**QUESTION, "stream": stream, "simulate": {"delay_ms": 150, "words": 20, "pace_ms": 5}}
        await wire.send(request(body))
        await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 1)
        wire.reset()
    await assert_nobody_is_served(rig)
    assert (await ended_rows(rig))[0]["state"] == "settled"


async def test_a_place_is_given_back_when_it_is_cancelled(small: Rig) -> None:
    async with served(small, 6) as let_go:
        let_go()
        await assert_nobody_is_served(small)
    assert (await ask_chat(small)).status == 200
    await rows_until(small, lambda rows: [row["state"] for row in rows].count("open") == 0)


async def test_a_place_is_given_back_after_a_defect(small: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr(type(small.proxy.services.upstream), "post", broken)
        for _ in range(10):
            assert (await ask_chat(small)).status == 500
    await assert_nobody_is_served(small)
    assert (await ask_chat(small)).status == 200
