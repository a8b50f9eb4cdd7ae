"""Starting, draining and stopping a whole proxy."""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from oxyy_proxy.app import Proxy
from oxyy_proxy.errors import StartupError
from oxyy_proxy.settings import Settings
from tests.rig import ORG_KEY, Rig
from tests.steps.wires import (
    QUESTION,
    Wire,
    ask,
    ask_chat,
    assert_books_are_right,
    dial,
    ended_rows,
    own_rig,
    request,
    until,
)

DONE = b"data: [DONE]\n\n"


async def _stream(wire: Wire, **simulate: Any) -> bytes:
    """Start a stream: its first chunk."""
    await wire.send(request({**QUESTION, "stream": True, "simulate": simulate}))
    status, _ = await wire.head()
    assert status == 200
    return await wire.chunk()


async def _rest(wire: Wire) -> bytes:
    pieces = []
    async with asyncio.timeout(10):
        while piece := await wire.chunk():
            pieces.append(piece)
    return b"".join(pieces)


async def _draining(rig: Rig) -> asyncio.Task[None]:
    stopping = asyncio.create_task(rig.proxy.stop())
    await until(lambda: rig.proxy.services.draining, every_s=0)
    return stopping


async def test_streams_that_run_at_a_stop_finish_whole(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    async with dial(rig) as wire, dial(rig) as idle:
        await idle.send(request(QUESTION))
        await idle.answer()
        first = await _stream(wire, pace_ms=15, words=20)
        whole = asyncio.create_task(ask_chat(rig, simulate={"delay_ms": 200}))
        await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 2)
        stopping = await _draining(rig)

        async with rig.client.get(f"{rig.admin_url}/readyz") as answer:
            assert (answer.status, (await answer.json())["draining"]) == (503, True)
        async with rig.client.get(f"{rig.admin_url}/metrics") as answer:
            assert answer.status == 200
        with pytest.raises(ConnectionRefusedError):
            async with dial(rig):
                pass
        assert await idle.closed()
        assert not stopping.done()

        assert (first + await _rest(wire)).endswith(DONE)
        assert (await whole).status == 200
        await stopping
    rows = await ended_rows(rig, 3)
    assert {(row["state"], row["usage_source"]) for row in rows} == {("settled", "upstream")}
    assert sum(row["cost_nusd"] for row in rows) == rig.simulator.total_nusd
    await assert_books_are_right(rig)


async def test_a_stop_without_requests_does_not_wait(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    await ask_chat(rig)
    started = monotonic()
    await rig.proxy.stop()
    assert monotonic() - started < 2


async def test_what_does_not_finish_within_the_drain_is_cut_and_told(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig(gateway="version: 1\ndrain: 200ms\n")
    async with dial(rig) as streaming, dial(rig) as waiting, dial(rig) as silent:
        await _stream(streaming, pace_ms=20, words=5000)
        await waiting.send(request({**QUESTION, "simulate": {"fault": "hang_before_headers"}}))
        await silent.send(request({**QUESTION, "stream": True, "simulate": {"fault": "hang_before_headers"}}))
        await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 3)
        started = monotonic()
        stopping = await _draining(rig)

        body = await _rest(streaming)
        last = body.split(b"\n\n")[-2]
        assert orjson.loads(last.removeprefix(b"data: "))["error"]["code"] == "overloaded"
        assert b"[DONE]" not in body
        for wire in (waiting, silent):
            answer = await wire.answer()
            assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")
            assert answer.headers["connection"] == "close"
        await stopping
        assert 0.2 < monotonic() - started < 4
    rows = rig.rows()
    assert [(row["state"], row["usage_source"], row["status"], row["error_code"]) for row in rows] == [
        ("settled", "estimated", 200, "overloaded"),
        ("unresolved", None, 503, "overloaded"),
        ("unresolved", None, 503, "overloaded"),
    ]
    assert rows[0]["output_tokens"] > 0 < rows[0]["cost_nusd"]
    await assert_books_are_right(rig)
    await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 0)


async def test_a_request_on_a_connection_that_was_busy_is_refused_while_draining(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    async with dial(rig) as wire:
        await wire.send(request({**QUESTION, "simulate": {"delay_ms": 100}}) + request(QUESTION))
        await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 1)
        stopping = await _draining(rig)
        first = await wire.answer()
        assert (first.status, first.headers["connection"]) == (200, "close")
        await stopping
    assert len(rig.simulator.received) == 1


async def test_a_stop_may_come_twice(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    await asyncio.gather(rig.proxy.stop(), rig.proxy.stop())
    await rig.proxy.stop()


async def test_nothing_is_left_after_a_stop(tmp_path: Path) -> None:
    tasks, threads = asyncio.all_tasks(), {thread.name for thread in threading.enumerate()}
    async with own_rig(tmp_path) as rig:
        await ask_chat(rig)
        await ask_chat(rig, stream=True)
        public = int(rig.proxy.public.address.rpartition(":")[2])
        await rig.proxy.stop()
        socket.create_server(("127.0.0.1", public), reuse_port=False).close()
        assert not rig.ledger_path.with_name("ledger.db-wal").exists()  # checkpointed
    assert "ledger-writer" not in {thread.name for thread in threading.enumerate()} - threads
    left = [task for task in asyncio.all_tasks() - tasks if not task.done()]
    assert left == []


async def test_a_restart_knows_what_was_spent_and_voids_or_keeps_what_was_open(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    await ask_chat(rig)
    await rig.proxy.stop()
    (row,) = rig.rows()
    with sqlite3.connect(rig.ledger_path) as db:
        sent = db.execute("SELECT count(*) FROM attempts").fetchone()[0]
    db.close()
    assert sent == 1
    await rig.start_proxy()
    async with rig.client.get(f"{rig.url}/usage", headers={"Authorization": "Bearer team-key-search"}) as answer:
        (limit,) = (await answer.json())["limits"]
    assert round(float(limit["spent"]) * 1e9) == row["cost_nusd"]


def _settings(folder: Path, **changes: Any) -> Settings:
    return Settings(
        **{
            "upstream_url": "http://127.0.0.1:1/v1",
            "policies": folder / "policies",
            "ledger": f"sqlite:///{folder / 'ledger.db'}",
            "listen": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
            "api_key": SecretStr(ORG_KEY),
            **changes,
        }
    )


def _taken() -> tuple[socket.socket, str]:
    taken = socket.create_server(("127.0.0.1", 0))
    return taken, f"127.0.0.1:{taken.getsockname()[1]}"


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "no key": ({"api_key": None}, "no organisation key"),
    "no policies": ({"policies": Path("/nonexistent/policies")}, "/nonexistent/policies"),
    "no ledger URL": ({"ledger": "postgres://x"}, "is not a URL this version knows"),
    "no ledger folder": ({"ledger": "sqlite:////nonexistent/ledger.db"}, "cannot be opened"),
    "not a ledger": ({"ledger": "other"}, "cannot be used"),
    "an address that is none": ({"listen": "8080"}, "is not an address"),
    "an admin address that is none": ({"admin": "127.0.0.1"}, "is not an address"),
    "an upstream that is none": ({"upstream_url": "api.oxyy.ai"}, "the upstream 'api.oxyy.ai'"),
    "a host that is none": ({"listen": "a..b:0"}, "cannot listen on a..b:0"),
    "a port in use": ({"listen": "taken"}, "the port is in use"),
    "an admin port in use": ({"admin": "taken"}, "the port is in use"),
}


@pytest.mark.parametrize(("changes", "line"), BAD_SETTINGS.values(), ids=BAD_SETTINGS)
async def test_a_start_that_fails_is_one_line_and_leaves_nothing_running(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    rig = Rig(tmp_path)
    rig.write_policies()
    taken, address = _taken()
    (tmp_path / "other.db").write_text("this is no database, and longer than its header would be" * 10)
    stand_ins = {"taken": address, "other": f"sqlite:///{tmp_path / 'other.db'}"}
    changes = {name: stand_ins.get(str(value), value) for name, value in changes.items()}
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    with taken:
        with pytest.raises(StartupError) as caught:
            await Proxy(_settings(tmp_path, **changes)).start()
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)
        assert asyncio.all_tasks() == tasks
        assert not [thread for thread in set(threading.enumerate()) - threads if thread.name == "ledger-writer"]
    proxy = Proxy(_settings(tmp_path))  # the ledger's lock is free again
    await proxy.start()
    await proxy.stop()


async def test_invalid_policies_refuse_the_start_with_file_and_line(tmp_path: Path) -> None:
    rig = Rig(tmp_path, models="version: 1\nmodels:\n  gpt-5: {endpoint: [chat]}\n")
    rig.write_policies()
    with pytest.raises(StartupError, match=r"models\.yaml:3:\d+: ") as caught:
        await Proxy(_settings(tmp_path)).start()
    assert "endpoint" in str(caught.value)


async def test_two_proxies_do_not_share_a_ledger(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    with pytest.raises(StartupError, match="is in use by another oxyy-proxy"):
        await Proxy(_settings(rig.folder)).start()
    assert (await ask_chat(rig)).status == 200


async def test_a_changed_policy_comes_into_force_by_itself(make_rig: Callable[..., Any]) -> None:
    rig: Rig = await make_rig()
    before = rig.proxy.policies.policy.version
    rig.models = rig.models.replace("aliases: {fast: gpt-5-mini}", "aliases: {fast: gpt-5-mini, quick: gpt-5-mini}")
    rig.write_policies()
    await until(lambda: rig.proxy.policies.policy.version != before)
    assert (await ask_chat(rig, model="quick")).headers["x-oxyy-model"] == "gpt-5-mini"


async def test_usage_is_that_of_the_team_alone(rig: Rig) -> None:
    answer = await ask(rig, path="/v1/usage", method="GET")
    assert json.loads(answer.body)["team"] == "search"
    assert answer.headers["content-type"] == "application/json"
    assert not rig.rows()


async def test_a_background_task_that_fails_is_told_of_and_stops_the_proxy(make_rig: Callable[..., Any]) -> None:
    rig = await make_rig()
    told: list[str] = []
    rig.proxy.log.error = lambda event, error=None, **_: told.append(f"{event}: {error}")

    async def fails() -> None:
        raise ZeroDivisionError("a defect")

    rig.proxy._begin(fails())
    await asyncio.wait_for(rig.proxy._stop.wait(), 5)
    assert told == ["task_failed: a defect"]
