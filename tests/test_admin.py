from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.rig import OTHER_KEY, Rig, team_file
from tests.steps.wires import QUESTION, ask, ask_chat, limits

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


async def _get(rig: Rig, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    async with rig.client.request(method, rig.admin_url + path) as answer:
        return answer.status, await answer.text(), dict(answer.headers)


async def _samples(rig: Rig) -> Samples:
    """/metrics, parsed: (name, sorted labels) -> value."""
    status, text, headers = await _get(rig, "/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def _of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def _from_ledger(samples: Samples) -> Samples:
    names = ("oxyy_cost_usd_total", "oxyy_tokens_total", "oxyy_usage_estimated_total", "oxyy_ledger_unresolved")
    return {key: value for key, value in samples.items() if key[0] in names}


def _assert_equal_rows(rig: Rig, samples: Samples) -> None:
    """Money and tokens are the ledger's, to the nano-dollar."""
    sums = rig.rows(
        "SELECT team, cost_center, model_served, endpoint, sum(cost_nusd) AS cost, sum(input_tokens) AS input, "
        "sum(cached_input_tokens) AS cached_input, sum(output_tokens) AS output FROM usage WHERE state = 'settled' "
        "GROUP BY 1, 2, 3, 4"
    )
    costs = {key: value for key, value in samples.items() if key[0] == "oxyy_cost_usd_total"}
    assert len(costs) == len(sums)
    for row in sums:
        labels = {"team": row["team"], "model": row["model_served"], "endpoint": row["endpoint"]}
        cost = _of(samples, "oxyy_cost_usd_total", **labels, cost_center=row["cost_center"])
        assert round(cost * 1e9) == row["cost"] > 0
        for kind in ("input", "cached_input", "output"):
            assert _of(samples, "oxyy_tokens_total", **labels, kind=kind) == row[kind]


async def test_money_and_tokens_equal_the_ledgers_rows_and_survive_a_restart(make_rig: Callable[..., Any]) -> None:
    teams = {"search": team_file(), "support": team_file("support", OTHER_KEY)}
    rig: Rig = await make_rig(teams=teams)
    await ask_chat(rig)
    await ask_chat(rig, model="fast", stream=True)
    await ask(rig, {**QUESTION, "simulate": {"fault": "missing_usage"}}, key=OTHER_KEY)
    await ask(rig, {"model": "text-embedding-3-small", "input": "Hello!"}, path="/v1/embeddings")
    await ask_chat(rig, model="gpt-5-mini", simulate={"fault": "reset_before_headers"})
    before = await _samples(rig)
    _assert_equal_rows(rig, before)
    assert _of(before, "oxyy_ledger_unresolved") == 1
    assert _of(before, "oxyy_usage_estimated_total", team="support", model="gpt-5") == 1

    await rig.proxy.stop()
    await rig.start_proxy()
    assert _from_ledger(await _samples(rig)) == _from_ledger(before)
    await ask_chat(rig)
    _assert_equal_rows(rig, await _samples(rig))


async def test_limits_are_gauges(make_rig: Callable[..., Any]) -> None:
    gateway = "version: 1\nlimits: [{meter: requests, per: day, cap: 50}]\n"
    caps = "{meter: usd, per: month, cap: 12.5}, {meter: concurrent, cap: 4}"
    rig: Rig = await make_rig(gateway=gateway, teams={"search": team_file(limits=caps)})
    rig.proxy.services.clock = lambda: 1_700_000_000.0
    running = asyncio.create_task(ask_chat(rig, simulate={"delay_ms": 200}))
    await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 1)
    samples = await _samples(rig)
    usd = {"team": "search", "meter": "usd", "per": "month", "limit": "search usd/month"}
    slots = {"team": "search", "meter": "concurrent", "per": "", "limit": "search concurrent"}
    whole = {"team": "", "meter": "requests", "per": "day", "limit": "organisation requests/day"}
    assert _of(samples, "oxyy_limit_cap", **usd) == 12.5
    assert round(_of(samples, "oxyy_limit_held", **usd) * 1e9) == rig.rows()[0]["hold_nusd"]
    assert _of(samples, "oxyy_limit_spent", **usd) == 0
    assert _of(samples, "oxyy_limit_resets_at_seconds", **usd) == 1701388800
    assert [_of(samples, f"oxyy_limit_{name}", **slots) for name in ("cap", "held", "spent")] == [4, 1, 0]
    assert ("oxyy_limit_resets_at_seconds", tuple(sorted(slots.items()))) not in samples
    assert [_of(samples, f"oxyy_limit_{name}", **whole) for name in ("cap", "held", "spent")] == [50, 1, 0]
    assert _of(samples, "oxyy_in_flight", endpoint="chat") == 1
    await running
    samples = await _samples(rig)
    assert _of(samples, "oxyy_limit_held", **usd) == _of(samples, "oxyy_limit_held", **slots) == 0
    assert round(_of(samples, "oxyy_limit_spent", **usd) * 1e9) == rig.simulator.total_nusd
    assert _of(samples, "oxyy_limit_spent", **whole) == 1
    assert _of(samples, "oxyy_in_flight", endpoint="chat") == 0


async def test_requests_refusals_attempts_and_failovers_are_counted(rig: Rig) -> None:
    rig.simulator.faults.add({"fault": "status", "status": 503, "model": "gpt-5", "times": 1})
    await ask_chat(rig)
    await ask_chat(rig, stream=True)
    await ask_chat(rig, model="nothing-like-it")
    await ask(rig, QUESTION, key="wrong")
    samples = await _samples(rig)
    chat = {"team": "search", "endpoint": "chat"}
    assert _of(samples, "oxyy_requests_total", **chat, model="gpt-5-mini", status="200") == 1
    assert _of(samples, "oxyy_requests_total", **chat, model="gpt-5", status="200") == 1
    assert _of(samples, "oxyy_requests_total", **chat, model="", status="404") == 1
    assert _of(samples, "oxyy_refusals_total", team="search", code="model_not_found") == 1
    assert _of(samples, "oxyy_refusals_total", team="", code="invalid_api_key") == 1
    assert _of(samples, "oxyy_upstream_attempts_total", model="gpt-5", outcome="failed") == 1
    assert _of(samples, "oxyy_upstream_attempts_total", model="gpt-5", outcome="answered") == 1
    assert _of(samples, "oxyy_upstream_attempts_total", model="gpt-5-mini", outcome="answered") == 1
    assert _of(samples, "oxyy_failovers_total", from_model="gpt-5", to_model="gpt-5-mini", reason="status") == 1
    assert _of(samples, "oxyy_time_to_first_byte_seconds_count", endpoint="chat", model="gpt-5") == 1
    assert _of(samples, "oxyy_request_duration_seconds_count", endpoint="chat", model="gpt-5") == 1
    assert _of(samples, "oxyy_overhead_seconds_count", endpoint="chat") == 2
    assert _of(samples, "oxyy_ledger_commit_seconds_count") > 0
    assert _of(samples, "oxyy_policy_reload_failed") == 0
    assert _of(samples, "oxyy_policy_info", version=rig.proxy.policies.policy.version) == 1


async def test_overhead_leaves_out_the_wait_for_the_upstream(rig: Rig) -> None:
    for stream in (False, True):
        await ask_chat(rig, stream=stream, simulate={"delay_ms": 300, "pace_ms": 20, "words": 15})
    samples = await _samples(rig)
    assert _of(samples, "oxyy_request_duration_seconds_sum", endpoint="chat", model="gpt-5") > 0.8
    assert _of(samples, "oxyy_overhead_seconds_sum", endpoint="chat") < 0.3


async def test_no_label_comes_from_a_request(rig: Rig) -> None:
    mark = "zzmarker"
    tagged = {"x-oxyy-tag": mark, "x-request-id": mark, "User-Agent": mark}
    await ask(rig, QUESTION, headers=tagged)
    await ask(rig, {**QUESTION, "model": mark}, headers=tagged)
    await ask(rig, QUESTION, path=f"/v1/{mark}", method="GET")
    await ask(rig, QUESTION, path=f"/v1/models/{mark}", method="GET")
    await ask(rig, QUESTION, method=mark.upper())
    await ask(rig, QUESTION, key=mark)
    await ask(rig, {**QUESTION, "user": mark})
    _, text, _ = await _get(rig, "/metrics")
    assert mark not in text.lower()


async def test_a_broken_policy_shows_and_a_mended_one_too(rig: Rig) -> None:
    before = rig.proxy.policies.policy.version
    rig.models = "version: 1\nmodels: 5\n"
    rig.write_policies()
    await rig.proxy.policies.reload()
    samples = await _samples(rig)
    assert _of(samples, "oxyy_policy_reload_failed") == 1
    assert _of(samples, "oxyy_policy_info", version=before) == 1
    rig.models = "version: 1\nmodels: {}\n"
    rig.write_policies()
    await rig.proxy.policies.reload()
    samples = await _samples(rig)
    assert _of(samples, "oxyy_policy_reload_failed") == 0
    assert [key for key in samples if key[0] == "oxyy_policy_info"] == [
        ("oxyy_policy_info", (("version", rig.proxy.policies.policy.version),))
    ]


async def test_it_is_alive_and_ready(rig: Rig) -> None:
    assert (await _get(rig, "/healthz"))[:2] == (200, "alive\n")
    status, text, _ = await _get(rig, "/readyz")
    assert (status, json.loads(text)) == (
        200,
        {"ready": True, "policy": rig.proxy.policies.policy.version, "ledger": "ok", "draining": False},
    )


async def test_it_is_not_ready_while_the_ledger_cannot_write_and_ready_again_after(rig: Rig) -> None:
    with closing(sqlite3.connect(rig.ledger_path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused = await ask_chat(rig)
        assert (refused.status, refused.error["code"]) == (503, "ledger_unavailable")
        status, text, _ = await _get(rig, "/readyz")
        assert (status, json.loads(text)["ready"], json.loads(text)["ledger"]) == (503, False, "not writable")
        assert (await _get(rig, "/healthz"))[0] == 200
        status, text, _ = await _get(rig, "/metrics")
        assert (status, "ledger" in text) == (503, True)
        other.execute("ROLLBACK")
    # Nobody sends requests to what is not ready: it must find out by itself.
    assert (await _get(rig, "/readyz"))[0] == 200
    assert (await ask_chat(rig)).status == 200
    assert not float((await limits(rig))[0]["held"])


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/metrics/", "GET", 404), ("/v1/models", "GET", 404), ("/metrics", "POST", 405)],
)
async def test_nothing_else_is_there(rig: Rig, path: str, method: str, status: int) -> None:
    found, _, headers = await _get(rig, path, method)
    assert found == status
    assert headers.get("Allow") == ("GET, HEAD" if status == 405 else None)


async def test_the_public_listener_shows_none_of_it(rig: Rig) -> None:
    for path in ("/metrics", "/healthz", "/readyz", "/v1/metrics", "/-/drain"):
        for method in ("GET", "POST"):
            assert (await ask(rig, path=path, method=method, key=None)).status == 401
            assert (await ask(rig, path=path, method=method)).status == 404
    assert not rig.proxy.services.draining


async def test_only_a_post_to_its_path_drains(rig: Rig) -> None:
    for method, path, status in (
        ("GET", "/-/drain", 200),
        ("HEAD", "/-/drain", 200),
        ("PUT", "/-/drain", 405),
        ("DELETE", "/-/drain", 405),
        ("POST", "/-/drain/", 405),
        ("POST", "/drain", 405),
        ("GET", "/-/", 404),
        ("POST", "/readyz", 405),
    ):
        found, text, headers = await _get(rig, path, method)
        assert found == status
        if path == "/-/drain" and status == 405:
            assert headers["Allow"] == "GET, HEAD, POST"
        if method == "GET" and status == 200:
            assert headers["Content-Type"] == "application/json"
            assert json.loads(text) == {"draining": False, "running": 0}
        if status == 404:
            assert "/-/drain" in text
    assert (await ask_chat(rig)).status == 200


async def test_a_drain_is_begun_told_and_leaves_the_admin_listener_at_work(rig: Rig) -> None:
    status, text, headers = await _get(rig, "/-/drain", "POST")
    assert (status, headers["Content-Type"]) == (202, "application/json")
    assert json.loads(text) == {"draining": True, "running": 0}
    status, text, _ = await _get(rig, "/readyz")
    assert (status, json.loads(text)["ready"], json.loads(text)["ledger"]) == (503, False, "ok")
    assert (await _get(rig, "/healthz"))[0] == 200
    assert (await ask_chat(rig)).error["code"] == "overloaded"
    samples = await _samples(rig)
    assert _of(samples, "oxyy_refusals_total", team="", code="overloaded") == 1
