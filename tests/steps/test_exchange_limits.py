"""Limits under concurrency, through HTTP: a cap is never passed because requests raced."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest

from tests.rig import KEY, OTHER_KEY, Rig, team_file
from tests.steps.wires import (
    QUESTION,
    RawAnswer,
    ask,
    ask_chat,
    assert_books_are_right,
    http,
    limits,
    raw_upstream,
    rows_until,
    says,
)

ALONE = """
version: 1
models:
  gpt-5: {endpoints: [chat], price: {input: 1.25, output: 10.00}}
"""

COSTS_MOST_OF_ITS_HOLD = http(b'{"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 80}}')
BODY = {**QUESTION, "max_tokens": 100}


@pytest.fixture
def _many_sockets() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _gated(gate: asyncio.Event) -> RawAnswer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(COSTS_MOST_OF_ITS_HOLD)
        await writer.drain()

    return answer


def _usd(nusd: int) -> str:
    return f"{nusd // 10**9}.{nusd % 10**9:09d}"


def _nusd(usd: str) -> int:
    return round(float(usd) * 1e9)


async def _hold_nusd(make_rig: Callable[..., Any]) -> int:
    """What one request with `BODY` holds, as the ledger has it."""
    rig: Rig = await make_rig(models=ALONE)
    assert (await ask(rig, BODY)).status == 200
    return int(rig.rows()[0]["hold_nusd"])


@pytest.mark.usefixtures("_many_sockets")
async def test_500_concurrent_requests_against_a_budget_of_100_holds(make_rig: Callable[..., Any]) -> None:
    hold = await _hold_nusd(make_rig)
    cap = 100 * hold
    gate = asyncio.Event()
    async with raw_upstream(_gated(gate)) as upstream:
        teams = {"search": team_file(limits=f"{{meter: usd, per: month, cap: {_usd(cap)}}}")}
        rig: Rig = await make_rig(models=ALONE, teams=teams, upstream_url=upstream.url)
        over: list[dict[str, Any]] = []
        samples = 0

        async def sample() -> None:
            nonlocal samples
            while True:
                (limit,) = await limits(rig)
                samples += 1
                if _nusd(limit["held"]) + _nusd(limit["spent"]) > cap:
                    over.append(limit)

        async def one(session: aiohttp.ClientSession) -> tuple[int, dict[str, str], Any]:
            async with session.post(f"{rig.url}/chat/completions", json=BODY, headers=headers) as answer:
                return answer.status, dict(answer.headers), await answer.json()

        headers = {"Authorization": f"Bearer {KEY}"}
        sampling = asyncio.create_task(sample())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            tasks = [asyncio.create_task(one(session)) for _ in range(500)]
            refused = []
            for done in asyncio.as_completed(tasks, timeout=30):
                refused.append(await done)
                if len(refused) == 400:
                    break
            assert [status for status, _, _ in refused] == [429] * 400
            await rows_until(rig, lambda rows: len(rows) == 100)
            (limit,) = await limits(rig)
            assert (_nusd(limit["held"]), _nusd(limit["spent"]), limit["remaining"]) == (cap, 0, "0.00")
            gate.set()
            answers = await asyncio.gather(*tasks)
        assert sorted(status for status, _, _ in answers) == [200] * 100 + [429] * 400
        for _, told, body in refused:
            assert (body["error"]["type"], body["error"]["code"]) == ("insufficient_quota", "insufficient_quota")
            assert told["x-should-retry"] == "false"
            assert 0 < int(told["Retry-After"]) <= 31 * 86400
        cost = rig.rows()[0]["cost_nusd"]
        assert 0.75 * hold < cost < hold

        one_by_one = 0
        while (await ask(rig, BODY)).status == 200:
            one_by_one += 1
        sampling.cancel()

        assert 100 + one_by_one == (cap - hold) // cost + 1 >= 99  # until not one more hold fits
        assert samples > 10
        assert not over
        (limit,) = await limits(rig)
        assert (limit["held"], _nusd(limit["spent"])) == ("0.00", (100 + one_by_one) * cost)
        assert len(upstream.seen) == 100 + one_by_one
        await assert_books_are_right(rig)


async def test_streams_hold_too_and_give_back_what_they_did_not_use(make_rig: Callable[..., Any]) -> None:
    hold = await _hold_nusd(make_rig)
    teams = {"search": team_file(limits=f"{{meter: usd, per: month, cap: {_usd(hold * 7 // 2)}}}")}
    rig: Rig = await make_rig(models=ALONE, teams=teams)
    body = {**BODY, "stream": True, "simulate": {"words": 2, "delay_ms": 300}}
    statuses = [answer.status for answer in await asyncio.gather(*(ask(rig, body) for _ in range(8)))]
    assert sorted(statuses) == [200] * 3 + [429] * 5
    (limit,) = await limits(rig)
    assert limit["held"] == "0.00"
    assert _nusd(limit["spent"]) == rig.simulator.total_nusd


async def test_concurrency_is_limited_and_given_back(make_rig: Callable[..., Any]) -> None:
    gate = asyncio.Event()
    async with raw_upstream(_gated(gate)) as upstream:
        teams = {"search": team_file(limits="{meter: concurrent, cap: 3}")}
        rig: Rig = await make_rig(models=ALONE, teams=teams, upstream_url=upstream.url)
        running = [asyncio.create_task(ask(rig, BODY)) for _ in range(3)]
        await rows_until(rig, lambda rows: len(rows) == 3)
        refused = await ask(rig, BODY)
        assert (refused.status, refused.error["type"]) == (429, "rate_limit_error")
        assert refused.error["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert "x-should-retry" not in refused.headers
        (limit,) = await limits(rig)
        assert limit == {
            "meter": "concurrent", "per": None, "models": None, "key": None,
            "cap": 3, "spent": 0, "held": 3, "remaining": 0, "resets_at": None,
        }  # fmt: skip
        gate.set()
        assert [answer.status for answer in await asyncio.gather(*running)] == [200] * 3
        assert (await limits(rig))[0]["held"] == 0
        assert (await ask(rig, BODY)).status == 200


@pytest.mark.parametrize(
    ("limit", "code", "retry_after"),
    [
        ("{meter: requests, per: minute, cap: 1}", "rate_limit_exceeded", "30"),
        ("{meter: requests, per: hour, cap: 1}", "rate_limit_exceeded", "60"),
        ("{meter: tokens, per: minute, cap: 150}", "rate_limit_exceeded", "30"),
        ("{meter: requests, per: day, cap: 1}", "insufficient_quota", "6390"),
        ("{meter: tokens, per: month, cap: 150}", "insufficient_quota", "1388790"),
        ("{meter: usd, per: day, cap: 0.0013}", "insufficient_quota", "6390"),
        ("{meter: usd, per: minute, cap: 0.0013}", "insufficient_quota", "30"),
    ],
)
async def test_a_limit_says_when_to_come_back_and_then_lets_through(
    make_rig: Callable[..., Any], limit: str, code: str, retry_after: str
) -> None:
    # One request fits, and what it spends leaves no room for a second one.
    async with raw_upstream(says(COSTS_MOST_OF_ITS_HOLD)) as upstream:
        teams = {"search": team_file(limits=limit)}
        rig: Rig = await make_rig(models=ALONE, teams=teams, upstream_url=upstream.url)
        now = 1_700_000_010.0  # 2023-11-14 22:13:30 UTC
        rig.proxy.services.clock = lambda: now
        assert (await ask(rig, BODY)).status == 200
        refused = await ask(rig, BODY)
        assert (refused.status, refused.error["code"]) == (429, code)
        assert refused.headers["retry-after"] == retry_after
        assert refused.headers.get("x-should-retry") == ("false" if code == "insufficient_quota" else None)
        resets_s = 46 * 60 + 30 if "hour" in limit else int(retry_after)
        rig.proxy.services.clock = lambda: now + resets_s - 0.5
        assert (await ask(rig, BODY)).status == 429
        rig.proxy.services.clock = lambda: now + resets_s
        assert (await ask(rig, BODY)).status == 200


async def test_limits_of_one_team_leave_another_alone(make_rig: Callable[..., Any]) -> None:
    teams = {
        "search": team_file(limits="{meter: requests, per: month, cap: 1}"),
        "support": team_file("support", OTHER_KEY, limits="{meter: requests, per: month, cap: 2}"),
    }
    rig: Rig = await make_rig(teams=teams)
    statuses = [(await ask(rig, QUESTION, key=key)).status for key in (KEY, OTHER_KEY, KEY, OTHER_KEY, OTHER_KEY)]
    assert statuses == [200, 200, 429, 200, 429]


async def test_the_organisations_limit_binds_all_teams_together(make_rig: Callable[..., Any]) -> None:
    gateway = "version: 1\nlimits: [{meter: requests, per: month, cap: 3}]\n"
    teams = {"search": team_file(), "support": team_file("support", OTHER_KEY)}
    rig: Rig = await make_rig(gateway=gateway, teams=teams)
    statuses = [(await ask(rig, QUESTION, key=key)).status for key in (KEY, OTHER_KEY, KEY, OTHER_KEY, KEY)]
    assert statuses == [200, 200, 200, 429, 429]


async def test_a_refused_limit_holds_on_no_other(make_rig: Callable[..., Any]) -> None:
    caps = "{meter: usd, per: month, cap: 10}, {meter: requests, per: day, cap: 5}, {meter: concurrent, cap: 0}"
    rig: Rig = await make_rig(teams={"search": team_file(limits=caps)})
    assert (await ask_chat(rig)).status == 429
    assert [float(limit["held"]) for limit in await limits(rig)] == [0, 0, 0]
    assert rig.rows() == []


async def test_usage_shows_each_limit_as_documented(make_rig: Callable[..., Any]) -> None:
    caps = "{meter: usd, per: month, cap: 12.5, timezone: Europe/Berlin}, {meter: tokens, per: day, cap: 90000, models:"
    caps += ' ["gpt-*"]}, {meter: requests, per: hour, cap: 7, key: search-key}'
    rig: Rig = await make_rig(teams={"search": team_file(limits=caps)})
    rig.proxy.services.clock = lambda: 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
    assert (await ask_chat(rig)).status == 200
    (row,) = rig.rows()
    answer = await ask(rig, path="/v1/usage", method="GET")
    tokens = row["input_tokens"] + row["output_tokens"]
    cost = f"{row['cost_nusd'] / 1e9:.9f}".rstrip("0")
    left = f"{12.5 - row['cost_nusd'] / 1e9:.9f}".rstrip("0")
    assert json.loads(answer.body) == {
        "team": "search",
        "limits": [
            {
                "meter": "usd", "per": "month", "models": None, "key": None, "cap": "12.50", "spent": cost,
                "held": "0.00", "remaining": left, "resets_at": "2023-11-30T23:00:00+00:00",
            },
            {
                "meter": "tokens", "per": "day", "models": ["gpt-*"], "key": None, "cap": 90000, "spent": tokens,
                "held": 0, "remaining": 90000 - tokens, "resets_at": "2023-11-15T00:00:00+00:00",
            },
            {
                "meter": "requests", "per": "hour", "models": None, "key": "search-key", "cap": 7, "spent": 1,
                "held": 0, "remaining": 6, "resets_at": "2023-11-14T23:00:00+00:00",
            },
        ],
    }  # fmt: skip
