"""Every snippet of the README does what it says. Addresses and keys are replaced by those of a running test rig."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oxyy_proxy.policyfiles import load
from tests.rig import KEY, MODELS, Rig, team_file

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
BASH = [text for language, text in BLOCKS if language == "bash"]
LONG_RUNNING = [text for text in BASH if re.search(r"oxyy-proxy (serve|simulate)", text)]
MAKE = [text for text in BASH if re.match(r"make ", text)]
SHELL = [text for text in BASH if text not in LONG_RUNNING + MAKE]


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[tuple[Rig, Path]]:
    """A rig, and a folder in which the README's commands find `policies` and `oxyy-ledger.db`."""
    rig = await Rig(tmp_path, models=MODELS, teams={"search": team_file()}).start()
    folder = tmp_path / "here"
    folder.mkdir()
    shutil.copytree(ROOT / "policies", folder / "policies")
    (folder / "oxyy-ledger.db").symlink_to(rig.ledger_path)
    (folder / ".curlrc").write_text("silent\nshow-error\nfail\nmax-time = 20\n")
    await rig.chat()
    yield rig, folder
    await rig.stop()


def fitted(snippet: str, rig: Rig) -> str:
    for written, real in {
        "127.0.0.1:8080": rig.proxy.public.address,
        "127.0.0.1:9090": rig.proxy.admin.address,
        "127.0.0.1:8081": rig.simulator.origin.removeprefix("http://"),
        "YOUR_TEAM_KEY": KEY,
    }.items():
        snippet = snippet.replace(written, real)
    return snippet


def environment(folder: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("OXYY_")}
    path = f"{Path(sys.executable).parent}:{own['PATH']}"
    return {**own, "PATH": path, "HOME": str(folder), "CURL_HOME": str(folder), "PWD": str(folder)}


async def run(folder: Path, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment(folder),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


@pytest.mark.parametrize("snippet", SHELL, ids=lambda text: text.split("\n")[0][:50])
async def test_a_shell_snippet_runs(shop: tuple[Rig, Path], snippet: str) -> None:
    rig, folder = shop
    if snippet.startswith("sqlite3") and not shutil.which("sqlite3"):
        pytest.skip("needs the sqlite3 command line")
    out = await run(folder, "bash", "-euo", "pipefail", "-c", fitted(snippet, rig))
    assert out or snippet.startswith("export"), "it shows something"


async def test_the_python_snippets_run(shop: tuple[Rig, Path]) -> None:
    rig, folder = shop
    for snippet in [text for language, text in BLOCKS if language == "python"]:
        assert (await run(folder, sys.executable, "-c", fitted(snippet, rig))).strip()


@pytest.mark.parametrize("snippet", LONG_RUNNING, ids=lambda text: text.split("\n")[-2][:50])
async def test_a_snippet_that_serves_comes_up_and_stops_cleanly(tmp_path: Path, snippet: str) -> None:
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    (tmp_path / "key").write_text("sk-anything")
    snippet = snippet.replace("/run/secrets/oxyy", str(tmp_path / "key"))
    snippet = snippet.replace("--listen 127.0.0.1:8081", "--listen 127.0.0.1:0")
    # The signal shall reach the program and not the shell, so the program takes the shell's place.
    in_place = 'oxyy-proxy() { exec oxyy-proxy "$@"; }; export OXYY_LISTEN=127.0.0.1:0 OXYY_ADMIN=127.0.0.1:0\n'
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", in_place + snippet),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        line = ""
        while "127.0.0.1:" not in line:
            raw = await process.stdout.readline()
            assert raw, "it ended before it served"
            line = raw.decode()
        process.terminate()
        await process.stdout.read()
        assert await process.wait() == 0


def test_the_policy_snippets_are_a_valid_folder(tmp_path: Path) -> None:
    for text in [text for language, text in BLOCKS if language == "yaml"]:
        path = tmp_path / text.split("\n")[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert load(tmp_path / "policies").warnings == ()


@pytest.mark.parametrize("snippet", MAKE, ids=str.strip)
async def test_make_knows_the_targets_that_are_named(snippet: str) -> None:
    for line in snippet.splitlines():
        await run(ROOT, "make", "--dry-run", *shlex.split(line)[1:])


def test_every_error_code_of_the_program_is_in_the_table() -> None:
    from oxyy_proxy import errors

    def subclasses(of: type[errors.ProxyError]) -> set[type[errors.ProxyError]]:
        return {of, *(found for sub in of.__subclasses__() for found in subclasses(sub))}

    codes = {error.code for error in subclasses(errors.ProxyError)} - {"internal_error"}
    missing = [code for code in codes if f"{code}" not in README]
    assert missing == []
