"""Uploads that end early: cancelled, closed under a thread's hands, or out of disk. Nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from oxyy_proxy import uploads
from oxyy_proxy.errors import Overloaded
from oxyy_proxy.rules.multipart import Span
from oxyy_proxy.uploads import Buffers, Upload
from tests.upload_parts import descriptors, held, read, uploaded

WAIT_S = 10.0
BODY = bytes(range(256)) * 8192  # 2 MB


class Gate:
    """Where threads stop on their way, until they may `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self._come = threading.Semaphore(0)

    def stop(self) -> None:
        self._come.release()
        assert self.go.wait(WAIT_S)

    async def reached(self) -> None:
        """A thread is there."""
        async with asyncio.timeout(WAIT_S):
            while not self._come.acquire(blocking=False):  # noqa: ASYNC110 - what it waits for is a thread
                await asyncio.sleep(0)


class SlowFile(io.FileIO):
    """A file whose reads and writes stop at a gate before they touch it."""

    def __init__(self, descriptor: int, gate: Gate) -> None:
        super().__init__(descriptor, "w+")
        self._gate = gate

    def write(self, data: Any) -> int:
        self._gate.stop()
        return super().write(data)

    def fileno(self) -> int:
        self._gate.stop()
        return super().fileno()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.go.set()


def slow_files(gate: Gate) -> Callable[..., IO[bytes]]:
    make = tempfile.TemporaryFile

    def slow(**options: Any) -> IO[bytes]:
        with make(**options) as file:
            return SlowFile(os.dup(file.fileno()), gate)  # type: ignore[return-value]

    return slow


async def threads_are_done() -> None:
    await asyncio.get_running_loop().shutdown_default_executor()


async def _spooling(gate: Gate, monkeypatch: pytest.MonkeyPatch, buffers: Buffers) -> tuple[Upload, asyncio.Task[None]]:
    """An upload whose first write to its file stands at the gate."""
    monkeypatch.setattr(tempfile, "TemporaryFile", slow_files(gate))
    upload = Upload(buffers)
    writing = asyncio.create_task(upload.write(BODY))
    await gate.reached()
    return upload, writing


async def test_a_write_that_is_cancelled_gives_everything_back(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers, open_before = Buffers(), descriptors()
    upload, writing = await _spooling(gate, monkeypatch, buffers)
    assert held(buffers) == (len(BODY), len(BODY))
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    upload.close()
    assert held(buffers) == (0, 0)
    gate.go.set()
    await threads_are_done()
    assert descriptors() == open_before


async def test_an_upload_that_is_closed_while_its_file_is_made_leaves_no_file(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.TemporaryFile

    def slowly(**options: Any) -> IO[bytes]:
        gate.stop()
        return make(**options)

    monkeypatch.setattr(tempfile, "TemporaryFile", slowly)
    buffers, open_before = Buffers(), descriptors()
    upload = Upload(buffers)
    writing = asyncio.create_task(upload.write(BODY))
    await gate.reached()
    writing.cancel()
    upload.close()
    gate.go.set()
    await asyncio.wait([writing])
    await threads_are_done()
    assert (held(buffers), descriptors()) == ((0, 0), open_before)


async def test_closing_does_not_wait_for_a_write_and_frees_its_descriptor_only_after_it(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upload, writing = await _spooling(gate, monkeypatch, Buffers())
    writing.cancel()
    began = time.monotonic()
    upload.close()  # on the event loop, while a thread is at the gate
    assert time.monotonic() - began < 1
    others = [open(tmp_path / str(number), "w+b", buffering=0) for number in range(50)]  # noqa: ASYNC230, SIM115
    gate.go.set()
    await asyncio.wait([writing])
    await threads_are_done()
    assert [os.fstat(file.fileno()).st_size for file in others] == [0] * 50  # not one of them got the body
    for file in others:
        file.close()
    gc.collect()


async def test_a_write_that_ends_after_the_upload_was_closed_gives_nothing_back_twice(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers = Buffers()
    upload, writing = await _spooling(gate, monkeypatch, buffers)
    upload.close()
    gate.go.set()
    await writing
    assert held(buffers) == (0, 0)
    with pytest.raises(ValueError, match="closed"):
        await upload.write(BODY)
    upload.close()
    assert held(buffers) == (0, 0)


@pytest.mark.parametrize("how", ["pieces", "whole", "view"])
async def test_a_read_may_be_cancelled_and_the_upload_closed_under_it(
    how: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.go.set()
    monkeypatch.setattr(tempfile, "TemporaryFile", slow_files(gate))
    buffers, open_before = Buffers(), descriptors()
    upload = await uploaded(buffers, BODY)
    await gate.reached()
    gate.go.clear()
    view = upload.view(Span(0, len(BODY)))
    work = {
        "pieces": lambda: read(upload, Span(0, len(BODY))),
        "whole": upload.whole,
        "view": lambda: asyncio.to_thread(view.read),
    }[how]
    reading = asyncio.create_task(work())
    await gate.reached()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    upload.close()
    assert held(buffers) == (0, 0)
    gate.go.set()
    await threads_are_done()
    assert descriptors() == open_before


async def test_what_was_closed_is_not_read_as_an_empty_body() -> None:
    upload = await uploaded(Buffers(), BODY)
    view = upload.view(Span(0, 10))
    upload.close()
    with pytest.raises(ValueError, match="closed"):
        await read(upload, Span(0, 10))
    with pytest.raises(ValueError, match="closed"):
        view.read()


async def test_many_that_are_cancelled_at_any_moment_leave_nothing() -> None:
    buffers, open_before = Buffers(), descriptors()

    async def one(number: int) -> None:
        upload = Upload(buffers)
        try:
            for _ in range(5):
                await upload.write(BODY[: 400_000 + number])
                await asyncio.sleep(0)
            await upload.finish()
            await read(upload, Span(0, upload.size_bytes))
        finally:
            upload.close()

    for rounds in range(40):
        tasks = [asyncio.create_task(one(number)) for number in range(8)]
        for _ in range(rounds * 3):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert held(buffers) == (0, 0)
    await threads_are_done()
    assert descriptors() == open_before


# A disk that is full.


def _full(buffering: int = -1, **_: Any) -> IO[bytes]:
    return open("/dev/full", "r+b", buffering=buffering)


def _no_place(**_: Any) -> IO[bytes]:
    raise FileNotFoundError(2, "No usable temporary directory found")


class _Filling(io.FileIO):
    """Takes a little at a time, and then no more."""

    left = 100_000

    def write(self, data: Any) -> int:
        if not self.left:
            with open("/dev/full", "wb", buffering=0) as full:
                return full.write(data)  # raises ENOSPC
        taken = super().write(data[: min(self.left, 30_000)])
        self.left -= taken
        return taken


def _soon_full(**_: Any) -> IO[bytes]:
    return _Filling(os.memfd_create("x"), "w+")  # type: ignore[return-value]


@pytest.mark.parametrize(("make", "size"), [(_full, len(BODY)), (_full, 1), (_no_place, 1), (_soon_full, len(BODY))])
async def test_a_full_disk_is_an_overload_that_leaves_nothing(
    make: Callable[..., IO[bytes]], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "SPOOL_AT_BYTES", 0)
    buffers, open_before = Buffers(), descriptors()
    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    upload = Upload(buffers)
    with pytest.raises(Overloaded, match="no room on disk") as caught:
        await upload.write(BODY[:size])
    assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})
    assert caught.value.__cause__ is None
    upload.close()  # raises nothing
    del upload, caught
    assert (held(buffers), descriptors()) == ((0, 0), open_before)


async def test_a_disk_that_is_full_at_the_last_bytes_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Filling, "left", len(BODY))
    monkeypatch.setattr(tempfile, "TemporaryFile", _soon_full)
    buffers = Buffers()
    upload = Upload(buffers)
    await upload.write(BODY)
    await upload.write(b"the rest")
    with pytest.raises(Overloaded):
        await upload.finish()
    upload.close()
    assert held(buffers) == (0, 0)


async def test_a_disk_that_takes_a_little_at_a_time_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Filling, "left", 10**9)
    monkeypatch.setattr(tempfile, "TemporaryFile", _soon_full)
    upload = await uploaded(Buffers(), BODY, BODY[:777])
    assert await read(upload, Span(0, upload.size_bytes)) == BODY + BODY[:777]
    upload.close()
