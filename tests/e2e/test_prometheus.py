"""A real Prometheus reads the money from the proxy, to the nano-dollar, also after a restart."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from oxyy_proxy.simulator import Simulator
from tests.e2e.conftest import require_tool
from tests.e2e.serving import Serving, ledger_rows, write_policies
from tests.rig import KEY, ORG_KEY, OTHER_KEY, PRICES, Rig, team_file

WAIT_S = 60
COST_BY_SERIES = """
    SELECT team, cost_center, model_served AS model, endpoint, sum(cost_nusd) AS cost_nusd FROM usage
    WHERE state = 'settled' GROUP BY 1, 2, 3, 4"""
LABELS = ("team", "cost_center", "model", "endpoint")


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    made = Simulator(PRICES, ORG_KEY)
    await made.start()
    yield made
    await made.stop()


async def test_promtool_accepts_the_metrics(rig: Rig) -> None:
    promtool = require_tool("promtool")
    rig.simulator.faults.add({"fault": "status", "status": 503, "model": "gpt-5"})
    await rig.chat()
    await rig.chat(model="fast", stream=True)
    await rig.chat(key="no-such-key")
    await rig.chat(model="no-such-model")
    await rig.post("/embeddings", {"model": "text-embedding-3-small", "input": "a text"})
    async with rig.client.get(f"{rig.admin_url}/metrics") as answer:
        shown = await answer.read()
    checked = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=shown, capture_output=True, timeout=60
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
    assert shown.count(b"\noxyy_cost_usd_total{") == 2


@pytest.mark.slow
async def test_prometheus_and_the_ledger_agree_across_a_restart(tmp_path: Path, simulator: Simulator) -> None:
    prometheus = require_tool("prometheus")
    teams = {"search": team_file(), "support": team_file("support", OTHER_KEY)}
    write_policies(tmp_path / "policies", teams=teams)
    proxy = await Serving(tmp_path, simulator.url).start()
    try:
        admin = proxy.ready["admin"]
        async with scraping(prometheus, tmp_path / "prometheus", admin) as query:
            await spend(proxy, requests=5)
            await eventually(lambda: cost_by_series(query), ledger_of(tmp_path))
            assert await proxy.stop() == 0
            proxy = await Serving(tmp_path, simulator.url, "--admin", admin).start()
            await spend(proxy, requests=2)
            await eventually(lambda: cost_by_series(query), ledger_of(tmp_path))
            assert len(ledger_of(tmp_path)) == 6
            (total,) = await query("sum(oxyy_cost_usd_total)")
            assert nano(total) == simulator.total_nusd
            assert {sample["value"][1] for sample in await query("resets(oxyy_cost_usd_total[10m])")} == {"0"}
            (starts,) = await query("changes(process_start_time_seconds[10m])")
            assert starts["value"][1] == "1", "it has not seen the restart"
    finally:
        await proxy.stop()


@asynccontextmanager
async def scraping(prometheus: str, folder: Path, target: str) -> AsyncIterator[Callable[[str], Any]]:
    """A Prometheus that scrapes `target`. Gives `await query(PROMQL)`: the samples of an instant."""
    config = write_config(folder, target)
    process = await asyncio.create_subprocess_exec(
        prometheus,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--web.listen-address=127.0.0.1:0",
        "--log.format=json",
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    reader = None
    try:
        address = await listening_on(process.stderr)
        reader = asyncio.get_running_loop().create_task(process.stderr.read())  # so that its pipe never fills
        async with aiohttp.ClientSession() as session:

            async def query(expression: str) -> list[dict[str, Any]]:
                url = f"http://{address}/api/v1/query"
                async with session.get(url, params={"query": expression}) as answer:
                    found = await answer.json()
                return found["data"]["result"] if found["status"] == "success" else []

            yield query
    finally:
        process.terminate()
        await process.wait()
        if reader is not None:
            await reader


def write_config(folder: Path, target: str) -> Path:
    folder.mkdir()
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
        "scrape_configs": [{"job_name": "oxyy-proxy", "static_configs": [{"targets": [target]}]}],
    }
    file = folder / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    return file


async def listening_on(log: asyncio.StreamReader) -> str:
    """The address that Prometheus got, once it is ready; it says either first."""
    address, ready = "", False
    async with asyncio.timeout(WAIT_S):
        async for line in log:
            entry = json.loads(line)
            said = entry.get("msg", "")
            if said == "Listening on":
                address = entry["address"]
            ready = ready or said.startswith("Server is ready")
            if address and ready:
                return address
    raise AssertionError("Prometheus ended before it was ready")


async def spend(proxy: Serving, requests: int) -> None:
    """So many requests by two teams, of three kinds."""
    chat = {"model": "gpt-5", "messages": [{"role": "user", "content": f"Hello {requests}!"}]}
    embed = {"model": "text-embedding-3-small", "input": "a text of some words"}
    async with aiohttp.ClientSession(base_url=proxy.url + "/") as session:
        for key in (KEY, OTHER_KEY):
            for path, body in (
                ("chat/completions", chat),
                ("chat/completions", {**chat, "model": "claude-opus-4.6", "stream": True}),
                ("embeddings", embed),
            ):
                for _ in range(requests):
                    headers = {"Authorization": f"Bearer {key}"}
                    async with session.post(path, json=body, headers=headers) as answer:
                        assert answer.status == 200, await answer.text()
                        await answer.read()


async def eventually(look: Callable[[], Any], wanted: object) -> None:
    """Returns once `await look()` gives what is wanted: Prometheus tells nobody that it has scraped."""
    found: object = None
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                found = await look()
                if found == wanted:
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        assert found == wanted


async def cost_by_series(query: Callable[[str], Any]) -> dict[tuple[str, ...], int]:
    """Labels -> nano-USD, as Prometheus knows them."""
    samples = await query("oxyy_cost_usd_total")
    return {tuple(sample["metric"][label] for label in LABELS): nano(sample) for sample in samples}


def ledger_of(folder: Path) -> dict[tuple[str, ...], int]:
    """Labels -> nano-USD, as the rows of the ledger say."""
    rows = ledger_rows(folder / "ledger.db", COST_BY_SERIES)
    return {tuple(row[label] for label in LABELS): row["cost_nusd"] for row in rows}


def nano(sample: dict[str, Any]) -> int:
    """A sample in USD as whole nano-USD."""
    return round(float(sample["value"][1]) * 1_000_000_000)
