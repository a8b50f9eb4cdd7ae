"""`oxyy-proxy demo`: every line that it prints works exactly as it is pasted."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from oxyy_proxy.cli.demo import write_policies
from oxyy_proxy.simulator import DEFAULT_PRICES
from oxyy_proxy.simulator.prices import read_prices
from tests.e2e.conftest import require_tool
from tests.e2e.serving import PROXY, Process, environment

PORTS = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", "127.0.0.1:0")
SCRIPT = (str(Path(sys.executable).with_name("oxyy-proxy")),)


class Demo(Process):
    """A demo, and its banner."""

    def __init__(self, folder: Path, program: Sequence[str] = PROXY) -> None:
        (folder / "tmp").mkdir()
        super().__init__(folder, ["demo", *PORTS], {"TMPDIR": str(folder / "tmp")}, program)

    async def start(self) -> Demo:
        await self.spawn()
        await self.line(lambda line: line.startswith("upstream "))
        self.banner = "\n".join(self.lines)
        return self

    def part(self, begins: str, ends: str) -> str:
        """What stands between two lines of the banner."""
        return self.banner.split(f"{begins}\n", 1)[1].split(ends, 1)[0].strip()

    @property
    def left_behind(self) -> list[Path]:
        """What it has put into the folder for temporary files."""
        return list((self.folder / "tmp").iterdir())


@pytest.fixture
async def demo(tmp_path: Path) -> AsyncIterator[Demo]:
    made = await Demo(tmp_path).start()
    yield made
    await made.stop()


async def pasted(program: str, *args: str) -> str:
    """What a line of the banner prints."""
    process = await asyncio.create_subprocess_exec(
        program, *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment()
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def spend_line(demo: Demo) -> str:
    found = re.search(r"^spend +(.+)$", demo.banner, re.MULTILINE)
    assert found
    return found[1]


async def test_it_says_loudly_that_nothing_is_real(demo: Demo) -> None:
    first = demo.banner.strip().splitlines()[0]
    assert first.startswith("NOTHING HERE IS REAL")
    assert "OXYY_API_KEY" in demo.banner


async def test_the_curl_line_works(demo: Demo) -> None:
    require_tool("curl")
    answer = json.loads(await pasted("bash", "-c", demo.part("With curl:", "With Python")))
    assert answer["choices"][0]["message"]["content"]


PYTHON = ("With Python:", "With the official SDK")
SDK = ("With the official SDK (pip install openai):", "policies ")


@pytest.mark.parametrize(("begins", "ends", "flags"), [(*PYTHON, "-IS"), (*SDK, "-I")], ids=["Python alone", "SDK"])
async def test_the_python_lines_work(demo: Demo, begins: str, ends: str, flags: str) -> None:
    said = await pasted(sys.executable, flags, "-c", demo.part(begins, ends))
    assert said.strip()


@pytest.mark.parametrize("program", [PROXY, SCRIPT], ids=["python -m", "script"])
async def test_the_line_that_shows_the_spend_works(tmp_path: Path, program: Sequence[str]) -> None:
    demo = await Demo(tmp_path, program).start()
    try:
        await pasted(sys.executable, "-c", demo.part(*PYTHON))
        header, row, total = (await pasted("bash", "-c", spend_line(demo))).splitlines()
    finally:
        assert await demo.stop() == 0
    assert header.split()[:3] == ["team", "model", "requests"]
    assert row.split()[:3] == ["demo", "gpt-5", "1"]
    assert total.split()[:2] == ["total", "1"]


async def test_the_other_lines_lead_somewhere(demo: Demo) -> None:
    folder, metrics, bill = (
        re.search(rf"^{name} +(\S+)", demo.banner, re.MULTILINE) for name in ("policies", "metrics", "upstream")
    )
    assert folder
    assert metrics
    assert bill
    assert "ok: 0 errors, 0 warnings" in await pasted(*PROXY, "check", folder[1])
    fetch = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
    assert "oxyy_build_info" in await pasted(sys.executable, "-c", fetch, metrics[1])
    assert '"total_nusd":0' in await pasted(sys.executable, "-c", fetch, bill[1])


def test_the_models_are_those_of_the_simulator_with_its_prices_and_endpoints(tmp_path: Path) -> None:
    write_policies(tmp_path, "a key")
    written = YAML(typ="safe").load(tmp_path / "models.yaml")["models"]
    models = read_prices(DEFAULT_PRICES)
    assert {name: set(model["endpoints"]) for name, model in written.items()} == {
        name: set(price.endpoints) for name, price in models.items()
    }
    assert {frozenset(model) for model in written.values()} == {frozenset({"endpoints", "price"})}
    for name, model in written.items():
        prices = {unit: price for unit, price in DEFAULT_PRICES[name].items() if unit != "endpoints"}
        assert numbers(model["price"]) == numbers(prices)
    assert written["dall-e-3"]["price"]["image"]["hd:1024x1024"] == 0.08


def numbers(prices: Mapping[str, Any]) -> dict[str, Any]:
    """Prices and the prices of variants as numbers, however they are written."""
    return {unit: numbers(price) if isinstance(price, Mapping) else float(price) for unit, price in prices.items()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_leaves_nothing_behind(demo: Demo, number: signal.Signals) -> None:
    assert len(demo.left_behind) == 1
    assert await demo.stop(number) == 0
    assert demo.left_behind == []
    assert demo.stderr.read_text() == ""


@pytest.mark.parametrize("option", ["--listen", "--admin", "--upstream"])
def test_a_port_in_use_is_one_line_and_exit_code_3(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = "{}:{}".format(*other.getsockname())
        command = [*PROXY, "demo", *PORTS, option, address]
        env = environment(TMPDIR=str(tmp_path))
        result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert (result.returncode, result.stdout) == (3, "")
    (line,) = result.stderr.splitlines()
    assert address in line
    assert option in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "command"),
    [({}, "demo"), ({"OXYY_API_KEY": "sk-x"}, "serve"), ({"OXYY_API_KEY_FILE": "/key"}, "serve")],
    ids=["no key", "key", "key file"],
)
def test_make_run_without_a_key_is_a_demo(tmp_path: Path, settings: dict[str, str], command: str) -> None:
    make = require_tool("make")
    stub = tmp_path / "oxyy-proxy"
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    env = environment(**settings)
    root = Path(__file__).parents[2]
    dry = subprocess.run(
        [make, "--no-print-directory", "-n", "run", f"BIN={tmp_path}"],
        cwd=root,
        capture_output=True,
        text=True,
        env=env,
    )
    assert dry.returncode == 0, dry.stderr
    recipe = dry.stdout.splitlines()[-1]
    said = subprocess.run(["sh", "-c", recipe], capture_output=True, text=True, env=env, check=True)
    assert said.stdout == f"{command}\n"


def test_the_script_is_installed_beside_this_python() -> None:
    assert os.access(SCRIPT[0], os.X_OK)
