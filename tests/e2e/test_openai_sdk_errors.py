"""What the official OpenAI package raises, and that it does not try again what it should not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

from tests.e2e.sdk import HELLO, KEY, KINDS, Sdk, assert_billed, idle, requests_served
from tests.rig import Rig, team_file

OpenSdk = Callable[..., Any]


@pytest.fixture(params=KINDS)
async def open_sdk(request: pytest.FixtureRequest) -> AsyncIterator[OpenSdk]:
    """`open_sdk(rig, key=…)`: a client of either kind."""
    made: list[Sdk] = []

    def open_one(rig: Rig, key: str = KEY) -> Sdk:
        made.append(KINDS[request.param](rig.url, key))
        return made[-1]

    yield open_one
    for sdk in made:
        await sdk.close()


def chat(client: Any, **members: Any) -> Any:
    return client.chat.completions.create(**{**HELLO, **members})


async def test_a_wrong_key_is_an_authentication_error(open_sdk: OpenSdk, rig: Rig) -> None:
    with pytest.raises(openai.AuthenticationError) as raised:
        await open_sdk(rig, key="no-such-key").call(chat)
    assert (raised.value.status_code, raised.value.code) == (401, "invalid_api_key")
    assert raised.value.type == "authentication_error"
    assert (raised.value.request_id or "").startswith("req_")


async def test_a_model_that_is_not_allowed_is_a_permission_error(open_sdk: OpenSdk, make_rig: OpenSdk) -> None:
    rig = await make_rig(teams={"search": team_file(allow="gpt-5-mini")})
    with pytest.raises(openai.PermissionDeniedError) as raised:
        await open_sdk(rig).call(chat)
    assert (raised.value.status_code, raised.value.code) == (403, "model_not_allowed")
    assert "GET /v1/models" in raised.value.message


async def test_a_model_that_does_not_exist_is_a_not_found_error(open_sdk: OpenSdk, rig: Rig) -> None:
    sdk = open_sdk(rig)
    for make in (lambda c: chat(c, model="gpt-7"), lambda c: c.models.retrieve("gpt-7")):
        with pytest.raises(openai.NotFoundError) as raised:
            await sdk.call(make)
        assert (raised.value.status_code, raised.value.code, raised.value.param) == (404, "model_not_found", "model")


async def test_a_wrong_member_is_a_bad_request(open_sdk: OpenSdk, rig: Rig) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await open_sdk(rig).call(lambda c: chat(c, max_tokens="many"))
    assert (raised.value.code, raised.value.param) == ("invalid_value", "max_tokens")
    assert (list(rig.simulator.received), rig.rows()) == ([], [])


async def test_a_bad_request_that_only_the_upstream_finds_is_handed_on(open_sdk: OpenSdk, rig: Rig) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await open_sdk(rig).call(lambda c: chat(c, tools=[{"type": "function"}]))
    assert "'tools' must be" in raised.value.message
    assert [(row["state"], row["cost_nusd"]) for row in rig.rows()] == [("voided", 0)]


async def test_a_spent_budget_is_a_rate_limit_error_that_is_not_tried_again(
    open_sdk: OpenSdk, make_rig: OpenSdk
) -> None:
    rig = await make_rig(teams={"search": team_file(limits="{meter: usd, per: month, cap: 0.000001}")})
    sdk = open_sdk(rig)
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as raised:
            await sdk.call(lambda c, stream=stream: chat(c, stream=stream))
        assert (raised.value.status_code, raised.value.code) == (429, "insufficient_quota")
        assert raised.value.response.headers["x-should-retry"] == "false"
        assert int(raised.value.response.headers["Retry-After"]) > 0
    assert await requests_served(rig) == 2
    assert (list(rig.simulator.received), rig.rows()) == ([], [])


async def test_an_outage_of_every_target_is_an_internal_server_error_that_is_not_tried_again(
    open_sdk: OpenSdk, rig: Rig
) -> None:
    rig.simulator.faults.add({"fault": "status", "status": 503})
    with pytest.raises(openai.InternalServerError) as raised:
        await open_sdk(rig).call(chat)
    assert raised.value.status_code == 503
    assert raised.value.code == "model_unavailable"
    assert raised.value.response.headers["x-should-retry"] == "false"
    assert raised.value.response.headers["x-oxyy-attempts"] == "2"
    assert await requests_served(rig) == 1
    assert [entry.model for entry in rig.simulator.bill] == ["gpt-5", "gpt-5-mini"]
    assert [(row["state"], row["cost_nusd"]) for row in rig.rows()] == [("voided", 0)]


async def test_a_full_concurrency_limit_is_tried_again_until_there_is_room(
    open_sdk: OpenSdk, make_rig: OpenSdk
) -> None:
    rig = await make_rig(teams={"search": team_file(limits="{meter: concurrent, cap: 1}")})
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.chat(simulate={"delay_ms": 500}))
        await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 1)
        answer = await open_sdk(rig).call(chat)
    assert answer.choices[0].message.content
    assert await requests_served(rig) > 2, "it was not refused at first"
    assert_billed(rig, 2)


@pytest.mark.parametrize("fault", ["reset_mid_body", "error_mid_stream", "truncated"])
async def test_an_upstream_that_dies_mid_stream_is_an_error_inside_the_stream(
    open_sdk: OpenSdk, rig: Rig, fault: str
) -> None:
    rig.simulator.faults.add({"fault": fault})
    with pytest.raises(openai.APIError) as raised:
        await open_sdk(rig).events(lambda c: chat(c, stream=True))
    assert not isinstance(raised.value, openai.APIStatusError)
    assert not isinstance(raised.value, openai.APIConnectionError), "the connection must end as it should"
    await idle(rig)
    (row,), (entry,) = rig.rows(), rig.simulator.bill
    assert (row["state"], row["cost_nusd"], row["status"]) == ("unresolved", 0, 200)
    assert row["unresolved_nusd"] >= entry.cost_nusd > 0
    assert await requests_served(rig) == 1


async def test_a_failover_is_not_seen_by_the_client(open_sdk: OpenSdk, rig: Rig) -> None:
    rig.simulator.faults.add({"fault": "status", "status": 503, "model": "gpt-5"})
    sdk = open_sdk(rig)
    raw = await sdk.call(lambda c: c.chat.completions.with_raw_response.create(**HELLO))
    assert (raw.headers["x-oxyy-model"], raw.headers["x-oxyy-attempts"]) == ("gpt-5-mini", "2")
    assert raw.parse().choices[0].message.content
    assert await sdk.events(lambda c: chat(c, stream=True))
    assert {row["model_served"] for row in rig.rows()} == {"gpt-5-mini"}
    assert_billed(rig, 2)
