"""The command line as a whole: help, version, exit codes, and how little it imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from oxyy_proxy import __version__
from oxyy_proxy.__main__ import command_line
from tests.e2e.serving import PROXY, Serving, environment, write_policies

COMMANDS = ["serve", "demo", "simulate", "rehearse", "check", "usage", "keys new"]

HEAVY = {
    "aiohttp",
    "aiosqlite",
    "asyncio",
    "httptools",
    "orjson",
    "prometheus_client",
    "pydantic",
    "pydantic_settings",
    "ruamel",
    "sqlite3",
    "structlog",
    "uvloop",
    "watchfiles",
}

IMPORTED = """
import json, sys
from oxyy_proxy.__main__ import main
try:
    main()
except SystemExit:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""

READY = """
import json, os, sys
from oxyy_proxy import app
from oxyy_proxy.__main__ import main
def ready(proxy):
    print(json.dumps(sorted(sys.modules)), file=sys.stderr, flush=True)
    os._exit(0)
serve = app.serve
app.serve = lambda settings: serve(settings, ready)
main()
"""

NOT_FOR_A_START = {
    "aiohttp.web",
    "aiohttp.web_app",
    "anyio",
    "dotenv",
    "oxyy_proxy.cli.rehearse",
    "oxyy_proxy.simulator",
    "pydantic_settings",
    "pygments",
    "rich",
    "structlog",
    "watchfiles",
}
"""What `serve` does not need until it is ready, and some not at all: 10 to 60 ms of a start each, or 1 to 4 MB."""


def run(*args: str, command: tuple[str, ...] = PROXY) -> subprocess.CompletedProcess[str]:
    env = environment(COLUMNS="200", NO_COLOR="1")
    return subprocess.run([*command, *args], capture_output=True, text=True, env=env, timeout=60)


def test_help_names_every_command() -> None:
    result = run("--help")
    assert (result.returncode, result.stderr) == (0, "")
    named = re.findall(r"^│ (\w+) ", result.stdout, re.MULTILINE)
    assert named == [*dict.fromkeys(command.split()[0] for command in COMMANDS)]
    app = command_line()
    assert len(app.registered_commands) + len(app.registered_groups) == len(named)


@pytest.mark.parametrize("name", [command.split()[0] for command in COMMANDS])
def test_a_command_that_is_named_is_made_alone_and_is_the_same(name: str) -> None:
    def said(words: list[str]) -> str:
        return CliRunner().invoke(command_line(words), [name, "--help"], env={"COLUMNS": "120"}).output

    app = command_line([name])
    assert len(app.registered_commands) + len(app.registered_groups) == 1
    assert said([name]) == said([])


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"oxyy-proxy {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_an_example(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.returncode == 0
    said = " ".join(result.stdout.split())
    assert re.search(rf"Examples?: .*oxyy-proxy {command}", said), result.stdout


def test_nothing_to_do_is_help() -> None:
    result = run()
    assert result.returncode == 2
    assert "Usage: oxyy-proxy" in result.stdout + result.stderr


@pytest.mark.parametrize("args", [["no-such-command"], ["serve", "--no-such-option"], ["keys", "no-such-command"]])
def test_wrong_use_is_exit_code_2_and_no_traceback(args: list[str]) -> None:
    result = run(*args)
    assert (result.returncode, result.stdout) == (2, "")
    assert args[-1] in result.stderr
    assert "Traceback" not in result.stderr


def imported(*args: str) -> set[str]:
    """The top-level modules that this command line has imported when it ends."""
    result = run(*args, command=(sys.executable, "-c", IMPORTED))
    modules = {module.partition(".")[0] for module in json.loads(result.stderr)}
    assert "typer" in modules
    return modules


@pytest.mark.parametrize("arg", ["--help", "--version"])
def test_help_is_quick_because_it_imports_nothing_heavy(arg: str) -> None:
    assert imported(arg) & HEAVY == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    # Typer's own parameters are made of pydantic since 2026.
    assert imported(*command.split(), "--help") & HEAVY <= {"pydantic"}


def test_serve_is_ready_without_what_it_does_not_need(tmp_path: Path) -> None:
    write_policies(tmp_path / "policies")
    flags = {"policies": tmp_path / "policies", "ledger": f"sqlite:///{tmp_path}/l.db"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    env = environment(OXYY_API_KEY="sk-org")
    command = [sys.executable, "-c", READY, "serve", *words, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    modules = set(json.loads(result.stderr))
    assert {"aiohttp.web_server", "oxyy_proxy.cli.serve"} <= modules
    assert modules & NOT_FOR_A_START == set()


async def test_serve_is_ready_soon(tmp_path: Path) -> None:
    write_policies(tmp_path / "policies")
    started = time.monotonic()
    proxy = await Serving(tmp_path, "http://127.0.0.1:9/v1").start()
    took_s = time.monotonic() - started
    assert await proxy.stop() == 0
    assert took_s <= 5
