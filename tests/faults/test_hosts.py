"""What a machine can do to the proxy, beside the matrix: starts that fail, descriptors that run out, SIGTERM."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from oxyy_proxy.ledger.sqlite_reads import verify
from tests.e2e.serving import PROXY, START_S, Serving, environment, event_of
from tests.faults.clients import question
from tests.faults.entries import Entry
from tests.faults.hosts import Host, host
from tests.steps.wires import WAIT_S, Wire

PLAIN = Entry("plain", "host", "", {}, (), {}, ())
DESCRIPTORS = 256
ALLOWED = (DESCRIPTORS - 64) // 3
"""Connections that the listener lets in with so many descriptors."""

MANY = 500


def entry(*, stream: bool = False, **do: Any) -> Entry:
    return Entry("asked", "host", "", do, (), {}, (), stream=stream)


def said(here: Host, *events: str) -> list[dict[str, Any]]:
    """Log lines of these events."""
    return [event for line in here.proxy.lines if (event := event_of(line)).get("event") in events]


# --- starts that fail -------------------------------------------------------------------------------------------


def _garbage(ledger: Path) -> None:
    ledger.write_bytes(b"not a database, " * 1000)


def _a_hole_in_the_middle(ledger: Path) -> None:
    data = bytearray(ledger.read_bytes())
    data[200 : len(data) // 2] = b"\xaa" * (len(data) // 2 - 200)
    ledger.write_bytes(data)


def _cut_short(ledger: Path) -> None:
    ledger.write_bytes(ledger.read_bytes()[:5000])


def _read_only(ledger: Path) -> None:
    ledger.chmod(0o444)


def _in_a_read_only_folder(ledger: Path) -> None:
    Path(f"{ledger}.lock").unlink()
    ledger.parent.chmod(0o555)


def _a_folder(ledger: Path) -> None:
    ledger.unlink()
    ledger.mkdir()


@pytest.mark.parametrize(
    "harm", [_garbage, _a_hole_in_the_middle, _cut_short, _read_only, _in_a_read_only_folder, _a_folder]
)
async def test_a_ledger_that_cannot_be_used_is_one_line_and_exit_3(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    async with host(PLAIN, tmp_path) as here:
        assert (await here.ask(PLAIN)).status == 200
        assert await here.proxy.stop() == 0
        harm(here.ledger)
        written = (await _refuses_to_start(here)).strip()
        here.folder.chmod(0o755)
    assert len(written.splitlines()) == 1, written
    assert "ledger.db" in written


async def _refuses_to_start(here: Host) -> str:
    """What it says. It runs without the right to pass over a file's mode, which root has."""
    again = Serving(here.folder, here.simulator.url)
    if os.geteuid() == 0:
        again.program = ("setpriv", "--bounding-set", "-all", *PROXY)
    process = await asyncio.create_subprocess_exec(
        *again.program,
        *again.command,
        env=environment(**again.environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(START_S):
            async for line in process.stdout:
                assert event_of(line.decode()).get("event") != "ready", "it started"
            written = (await process.stderr.read()).decode()
            assert (await process.wait()) == 3, written
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert "Traceback" not in written
    return written


# --- a ledger that breaks while it is used ----------------------------------------------------------------------


async def test_a_ledger_that_is_overwritten_while_it_runs_charges_nothing_unseen(tmp_path: Path) -> None:
    """What is sent upstream was held for; who is refused is told so; nobody sees a traceback."""
    async with host(PLAIN, tmp_path) as here:
        assert (await here.ask(PLAIN)).status == 200
        for file in (here.ledger, Path(f"{here.ledger}-wal")):
            with file.open("r+b") as opened:
                size = opened.seek(0, 2)
                opened.seek(0)
                opened.write(b"\xaa" * size)
        answers = [await here.ask(PLAIN) for _ in range(10)]
        assert {answer.status for answer in answers} <= {200, 503}
        for answer in answers:
            if answer.status != 200:
                assert json.loads(answer.body)["error"]["code"] == "ledger_unavailable"
            assert b"Traceback" not in answer.body
        served = sum(answer.status == 200 for answer in answers) + 1
        assert len([1 for headers, _ in here.simulator.received if "content-length" in headers]) == served
        await here.proxy.kill()
        assert "ledger.db" in await _refuses_to_start(here)


# --- descriptors ------------------------------------------------------------------------------------------------


async def _arrive(here: Host, stack: AsyncExitStack, count: int) -> list[Wire]:
    return list(await asyncio.gather(*(stack.enter_async_context(here.dial()) for _ in range(count))))


async def test_connections_beyond_what_descriptors_allow_are_told_to_come_back(tmp_path: Path) -> None:
    async with host(PLAIN, tmp_path, descriptors=DESCRIPTORS) as here, AsyncExitStack() as stack:
        wires = await _arrive(here, stack, MANY)
        for wire in wires:
            wire.writer.write(question(PLAIN))
        answers = await asyncio.gather(*(wire.answer() for wire in wires))
        assert Counter(answer.status for answer in answers) == {200: ALLOWED, 503: MANY - ALLOWED}
        for wire, answer in zip(wires, answers, strict=True):
            if answer.status == 503:
                assert answer.error["code"] == "overloaded"
                assert answer.headers["retry-after"] == "1"
                assert answer.headers["x-request-id"].startswith("req_")
                assert await wire.closed()
        staying = [wire for wire, answer in zip(wires, answers, strict=True) if answer.status == 200]
        await staying[0].send(question(PLAIN))
        assert (await staying[0].answer()).status == 200  # those who are in are served
        staying[1].writer.transport.abort()
        async with asyncio.timeout(WAIT_S):
            while (await here.ask(PLAIN)).status == 503:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.01)
        assert len(here.simulator.bill) == ALLOWED + 2
        await _ends_well(here, ALLOWED + 2)
        assert len(here.proxy.lines) < ALLOWED + 20, "a line for each refused connection"


async def test_all_that_are_let_in_may_upload_at_once_without_running_out(tmp_path: Path) -> None:
    """Each takes a connection, a file and one to the upstream: that is what a place is counted as."""
    upload = Entry("upload", "host", "", {"pad_bytes": 2 * 2**20}, (), {}, (), endpoint="transcriptions")
    async with host(upload, tmp_path, descriptors=DESCRIPTORS) as here, AsyncExitStack() as stack:
        wires = await _arrive(here, stack, ALLOWED)
        sent = question(upload)
        for wire in wires:
            await wire.send(sent[:-10])
        for wire in wires:
            await wire.send(sent[-10:])
        statuses = Counter([(await wire.answer()).status for wire in wires])
        assert statuses == {200: ALLOWED}
        await _ends_well(here, ALLOWED)


# --- signals ----------------------------------------------------------------------------------------------------


async def test_sigterm_under_load_ends_every_stream_whole_or_with_an_error_event(tmp_path: Path) -> None:
    streams, wholes, most = entry(stream=True, words=60, pace_ms=10), entry(delay_ms=300), 20
    async with host(streams, tmp_path) as here, AsyncExitStack() as stack:
        wires = await _arrive(here, stack, 2 * most)
        for at, wire in enumerate(wires):
            await wire.send(question(streams if at % 2 else wholes))
        await here.simulator.wait_for(lambda: here.simulator.in_flight == 2 * most)
        here.proxy.send(signal.SIGTERM)
        answers = await asyncio.gather(*(wire.answer() for wire in wires))
        assert {answer.status for answer in answers} == {200}
        assert all(answer.whole for answer in answers)
        for answer in answers[1::2]:
            assert answer.body.endswith(b"data: [DONE]\n\n") or b'"code":"overloaded"' in answer.body
        await _ends_well(here, 2 * most)


async def _ends_well(here: Host, rows: int) -> None:
    """Exit 0, nothing on stderr, no defect; the bill is the ledger's sum, and every row is settled."""
    assert await here.proxy.stop() == 0
    assert here.proxy.stderr.read_text() == ""
    assert said(here, "defect", "task_failed", "ledger_failed") == []
    found = here.rows()
    assert Counter(row["state"] for row in found) == {"settled": rows}
    assert sum(row["cost_nusd"] for row in found if row["usage_source"] == "upstream") <= here.simulator.total_nusd
    verdict = await verify(f"sqlite:///{here.ledger}")
    assert (verdict.broken, verdict.open) == ((), 0)
    assert sqlite3.connect(here.ledger).execute("PRAGMA integrity_check").fetchone() == ("ok",)
