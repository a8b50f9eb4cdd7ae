"""`oxyy-proxy serve` as a process: why it does not start, how it reloads, how it ends."""

from __future__ import annotations

import asyncio
import signal
import socket
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from oxyy_proxy.simulator import Simulator
from tests.e2e.serving import PROXY, Serving, environment, ledger_rows, write_policies
from tests.rig import GATEWAY, KEY, ORG_KEY, OTHER_KEY, PRICES, team_file

UPSTREAM = "http://127.0.0.1:9/v1"
HELLO = {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello!"}]}


def refused(folder: Path, *options: str, **settings: str) -> str:
    """What `serve` says on stderr when it does not start, in a folder with valid policies: one line."""
    if not (folder / "policies").exists():
        write_policies(folder / "policies")
    env = environment(**{"OXYY_API_KEY": ORG_KEY, **settings})
    command = [*PROXY, "serve", "--upstream", UPSTREAM, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *options]
    result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (3, ""), result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("oxyy-proxy: ")
    return line.removeprefix("oxyy-proxy: ")


class TestStartUp:
    def test_a_missing_policy_folder(self, tmp_path: Path) -> None:
        line = refused(tmp_path, "--policies", "elsewhere")
        assert "elsewhere" in line
        assert "no such folder" in line

    def test_an_invalid_policy_is_named_with_its_place(self, tmp_path: Path) -> None:
        write_policies(tmp_path / "policies", gateway="version: 1\nlimits:\n  - {meter: usd, per: year, cap: 10}\n")
        line = refused(tmp_path)
        assert line.startswith("gateway.yaml:3:23: ")
        assert "minute, hour, day, month" in line
        assert "oxyy-proxy check" in line

    def test_of_many_errors_the_first_is_named_and_the_others_counted(self, tmp_path: Path) -> None:
        write_policies(tmp_path / "policies", gateway="version: 1\ncolour: red\n", models="version: 1\nmodels: 7\n")
        line = refused(tmp_path)
        assert line.startswith("gateway.yaml:2:1: ")
        assert "and 1 more" in line

    def test_a_file_that_is_not_a_ledger(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("hello\n" * 1000)
        assert "notes.txt" in refused(tmp_path, "--ledger", "sqlite:///notes.txt")
        assert (tmp_path / "notes.txt").read_text() == "hello\n" * 1000

    def test_the_database_of_another_program(self, tmp_path: Path) -> None:
        db = sqlite3.connect(tmp_path / "other.db")
        db.execute("CREATE TABLE notes (text)")
        db.commit()
        db.close()
        before = (tmp_path / "other.db").read_bytes()
        assert "not an oxyy-proxy ledger" in refused(tmp_path, "--ledger", "sqlite:///other.db")
        assert (tmp_path / "other.db").read_bytes() == before

    def test_a_ledger_in_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        assert "No such file or directory" in refused(tmp_path, "--ledger", "sqlite:///nowhere/ledger.db")

    def test_a_ledger_url_of_another_kind(self, tmp_path: Path) -> None:
        assert "sqlite:///" in refused(tmp_path, "--ledger", "mysql://host/ledger")

    async def test_a_ledger_that_another_proxy_uses(self, tmp_path: Path) -> None:
        write_policies(tmp_path / "policies")
        proxy = await Serving(tmp_path, UPSTREAM).start()
        try:
            line = await asyncio.to_thread(refused, tmp_path, "--ledger", f"sqlite:///{tmp_path}/ledger.db")
        finally:
            assert await proxy.stop() == 0
        assert "in use by another oxyy-proxy" in line

    @pytest.mark.parametrize("option", ["--listen", "--admin"])
    def test_a_port_in_use(self, tmp_path: Path, option: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            address = "{}:{}".format(*other.getsockname())
            line = refused(tmp_path, option, address)
        assert address in line
        assert "the port is in use" in line

    @pytest.mark.parametrize("option", ["--listen", "--admin"])
    @pytest.mark.parametrize("address", ["8080", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:http"])
    def test_an_address_that_is_none(self, tmp_path: Path, option: str, address: str) -> None:
        line = refused(tmp_path, option, address)
        assert repr(address) in line
        assert "HOST:PORT" in line

    def test_a_host_that_is_not_this_machine(self, tmp_path: Path) -> None:
        assert "192.0.2.1:8080" in refused(tmp_path, "--listen", "192.0.2.1:8080")

    def test_no_organisation_key(self, tmp_path: Path) -> None:
        line = refused(tmp_path, OXYY_API_KEY="")
        assert "OXYY_API_KEY" in line
        assert "OXYY_API_KEY_FILE" in line

    def test_a_key_file_that_is_not_there(self, tmp_path: Path) -> None:
        assert "key.txt" in refused(tmp_path, OXYY_API_KEY="", OXYY_API_KEY_FILE="key.txt")

    @pytest.mark.parametrize("url", ["ftp://api.oxyy.ai/v1", "api.oxyy.ai", "http://", "http://host:port/v1"])
    def test_an_upstream_that_is_no_url(self, tmp_path: Path, url: str) -> None:
        assert repr(url) in refused(tmp_path, "--upstream", url)

    @pytest.mark.parametrize(
        ("option", "variable"), [("--durability", "OXYY_DURABILITY"), ("--log-format", "OXYY_LOG_FORMAT")]
    )
    def test_a_value_that_is_not_one_of_the_choices(self, tmp_path: Path, option: str, variable: str) -> None:
        for line in (refused(tmp_path, option, "much"), refused(tmp_path, **{variable: "much"})):
            assert option in line
            assert variable in line


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    made = Simulator(PRICES, ORG_KEY)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def proxy(tmp_path: Path, simulator: Simulator) -> AsyncIterator[Serving]:
    """A proxy that is ready; stopped at the end, unless the test has done so."""
    write_policies(tmp_path / "policies")
    made = await Serving(tmp_path, simulator.url).start()
    yield made
    await made.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as made:
        yield made


async def status_with(client: aiohttp.ClientSession, proxy: Serving, key: str = KEY) -> int:
    headers = {"Authorization": f"Bearer {key}"}
    async with client.post(f"{proxy.url}/chat/completions", json=HELLO, headers=headers) as answer:
        await answer.read()
        return answer.status


def edit(proxy: Serving, name: str, text: str) -> None:
    """Put a policy file in place as editors do: whole, never half-written."""
    written = proxy.folder / "edited.yaml"
    written.write_text(text)
    written.replace(proxy.folder / "policies" / name)


async def reload_failed(client: aiohttp.ClientSession, proxy: Serving) -> str:
    async with client.get(f"{proxy.admin_url}/metrics") as answer:
        shown = await answer.text()
    return next(line.split()[1] for line in shown.splitlines() if line.startswith("oxyy_policy_reload_failed "))


async def test_the_key_may_come_from_a_file(
    tmp_path: Path, simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    (tmp_path / "key.txt").write_text(f"{ORG_KEY}\n")
    write_policies(tmp_path / "policies")
    proxy = Serving(tmp_path, simulator.url)
    proxy.environ = {"OXYY_API_KEY_FILE": "key.txt"}
    await proxy.start()
    try:
        assert await status_with(client, proxy) == 200
    finally:
        assert await proxy.stop() == 0
    assert ORG_KEY not in "\n".join(proxy.lines) + proxy.stderr.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_streams_in_flight_end_whole_after_a_signal(
    proxy: Serving, simulator: Simulator, client: aiohttp.ClientSession, number: signal.Signals
) -> None:
    streams = 10
    begun = asyncio.Barrier(streams + 1)

    async def stream() -> bytes:
        body = {**HELLO, "stream": True, "simulate": {"words": 50, "pace_ms": 30}}
        async with client.post(f"{proxy.url}/chat/completions", json=body) as answer:
            first = await answer.content.readany()
            await begun.wait()
            return first + await answer.read()

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(stream()) for _ in range(streams)]
        await begun.wait()
        proxy.send(number)
        draining = await proxy.event("draining")
    assert draining["running"] == streams
    assert await proxy.ended() == 0
    assert all(task.result().endswith(b"data: [DONE]\n\n") for task in running)
    assert all(task.result().count(b"data: ") == 50 + 3 for task in running), "a role, the words, an end and [DONE]"
    rows = ledger_rows(proxy.folder / "ledger.db")
    assert [row["state"] for row in rows] == ["settled"] * streams
    assert sum(row["cost_nusd"] for row in rows) == simulator.total_nusd
    assert (await proxy.event("stopped"))["cut"] == 0
    assert proxy.stderr.read_text() == ""


async def test_a_connection_that_waits_for_a_request_does_not_hold_up_the_end(
    proxy: Serving, client: aiohttp.ClientSession
) -> None:
    assert await status_with(client, proxy) == 200  # the client keeps its connection
    assert await proxy.stop() == 0


async def test_hangup_reloads_the_policies(proxy: Serving) -> None:
    loaded = next(line for line in proxy.lines if '"policy_loaded"' in line)
    proxy.send(signal.SIGHUP)
    again = await proxy.event("policy_loaded")
    assert f'"{again["version"]}"' in loaded


async def test_an_edited_folder_is_picked_up(proxy: Serving, client: aiohttp.ClientSession) -> None:
    assert await status_with(client, proxy, OTHER_KEY) == 401
    edit(proxy, "teams/support.yaml", team_file("support", OTHER_KEY))
    await proxy.event("policy_loaded")
    assert await status_with(client, proxy, OTHER_KEY) == 200
    assert await status_with(client, proxy) == 200


async def test_an_invalid_edit_keeps_the_last_good_policies(proxy: Serving, client: aiohttp.ClientSession) -> None:
    edit(proxy, "gateway.yaml", "version: 1\ncolour: red\n")
    invalid = await proxy.event("policy_invalid")
    assert invalid["errors"][0].startswith("gateway.yaml:2:1: ")
    assert await reload_failed(client, proxy) == "1.0"
    assert await status_with(client, proxy) == 200
    edit(proxy, "gateway.yaml", GATEWAY)
    await proxy.event("policy_loaded")
    assert await reload_failed(client, proxy) == "0.0"
