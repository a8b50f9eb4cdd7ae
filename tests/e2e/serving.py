"""The proxy as a process of its own: `python -m oxyy_proxy serve …`, and its log lines as they come."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.rig import GATEWAY, MODELS, ORG_KEY, team_file

PROXY = (sys.executable, "-m", "oxyy_proxy")

START_S = 60
"""Longest wait for anything that a process says; generous, for machines that are busy."""


def environment(**settings: str) -> dict[str, str]:
    """The caller's environment with these settings and no others of the proxy."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OXYY_")} | settings


def write_policies(
    folder: Path, *, gateway: str = GATEWAY, models: str = MODELS, teams: dict[str, str] | None = None
) -> Path:
    """A policy folder, made or written over; the team `search` unless others are named."""
    (folder / "teams").mkdir(parents=True, exist_ok=True)
    (folder / "gateway.yaml").write_text(gateway)
    (folder / "models.yaml").write_text(models)
    for name, text in (teams or {"search": team_file()}).items():
        (folder / "teams" / f"{name}.yaml").write_text(text)
    return folder


@dataclass
class Process:
    """A command of `oxyy-proxy` that runs until a signal. `lines` is what it has said on stdout so far; stderr is in
    `stderr`. End it with `stop` or `kill`."""

    folder: Path
    command: Sequence[str]
    environ: dict[str, str] = field(default_factory=dict)
    program: Sequence[str] = PROXY

    async def spawn(self) -> None:
        self.lines: list[str] = []
        self._read = 0
        self._more = asyncio.Event()
        with self.stderr.open("wb") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *self.program,
                *self.command,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                cwd=self.folder,
                env=environment(**self.environ),
            )
        # Read all the time: a process whose pipe is full stands still.
        self._reader = asyncio.get_running_loop().create_task(self._collect())

    @property
    def stderr(self) -> Path:
        return self.folder / "stderr.txt"

    async def line(self, wanted: Callable[[str], bool]) -> str:
        """The next line for which this is true; lines are looked at once. Raises AssertionError if the process ends."""
        async with asyncio.timeout(START_S):
            while True:
                while self._read < len(self.lines):
                    self._read += 1
                    if wanted(self.lines[self._read - 1]):
                        return self.lines[self._read - 1]
                assert not self._reader.done(), "\n".join([*self.lines, self.stderr.read_text()])
                self._more.clear()
                await self._more.wait()

    async def event(self, name: str) -> dict[str, Any]:
        """The next log line of this event."""
        return event_of(await self.line(lambda line: event_of(line).get("event") == name))

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, unless it has ended, and wait for the end: the exit code, negative for a signal that killed
        it."""
        if self._process.returncode is None:
            self.send(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for the end: the exit code."""
        async with asyncio.timeout(START_S):
            await self._reader
            return await self._process.wait()

    async def kill(self) -> None:
        await self.stop(signal.SIGKILL)

    async def _collect(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode().rstrip("\n"))
            self._more.set()
        self._more.set()


class Serving(Process):
    """`serve` on free ports, with the policies and the ledger in `folder`."""

    def __init__(self, folder: Path, upstream_url: str, *options: str) -> None:
        command = ["serve", "--upstream", upstream_url, "--ledger", f"sqlite:///{folder / 'ledger.db'}", *options]
        for option, value in (
            ("--policies", str(folder / "policies")),
            ("--listen", "127.0.0.1:0"),
            ("--admin", "127.0.0.1:0"),
        ):
            if option not in options:
                command += [option, value]
        super().__init__(folder, command, {"OXYY_API_KEY": ORG_KEY})

    async def start(self) -> Serving:
        """Returns once it says that it is ready."""
        await self.spawn()
        self.ready = await self.event("ready")
        return self

    @property
    def url(self) -> str:
        return f"http://{self.ready['listen']}/v1"

    @property
    def admin_url(self) -> str:
        return f"http://{self.ready['admin']}"


def event_of(line: str) -> dict[str, Any]:
    """A log line as a record; empty for a line that is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def ledger_rows(ledger: Path, query: str = "SELECT * FROM usage ORDER BY request_id") -> list[dict[str, Any]]:
    """Rows of a ledger, in use or not, as dictionaries."""
    db = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
    try:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute(query)]
    finally:
        db.close()
