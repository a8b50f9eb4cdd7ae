"""Request bodies that do not come with their head: in memory at first, in a temporary file beyond, bounded in all.

A temporary file has no name: nothing is left of it after a crash. It lies where `TMPDIR` says; a file system in memory
there would make it count twice.
"""

from __future__ import annotations

import asyncio
import io
import os
import tempfile
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, cast

from oxyy_proxy.errors import Overloaded
from oxyy_proxy.rules.multipart import Span

SPOOL_AT_BYTES = 1024 * 1024
"""A body larger than this goes to a file."""

WRITE_BYTES = 256 * 1024
"""Bytes that are written to a file, or read from it, at a time."""

MEMORY_BYTES = 192 * 1024 * 1024
"""Of bodies in memory, over all requests. JSON that is being read takes about three times its size."""

DISK_BYTES = 8 * 1024 * 1024 * 1024
"""Of bodies in files, over all requests."""

TEAM_SHARE = 0.75
"""Of what there is room for: no team takes all of it."""


class Buffers:
    """How many bytes of request bodies are kept, over all requests, and how many may be."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES, disk_bytes: int = DISK_BYTES) -> None:
        self.memory_bytes = 0
        self.disk_bytes = 0
        self._most_memory = memory_bytes
        self._most_disk = disk_bytes
        self._shares: dict[str, Share] = {}

    def share(self, team: str) -> Share:
        """What this team may take of them."""
        found = self._shares.get(team)
        if found is None:
            most = int(self._most_memory * TEAM_SHARE), int(self._most_disk * TEAM_SHARE)
            found = self._shares[team] = Share(self, Buffers(*most))
        return found

    def take(self, *, memory: int = 0, disk: int = 0) -> None:
        """Raises Overloaded where there is no room."""
        if self.memory_bytes + memory > self._most_memory or self.disk_bytes + disk > self._most_disk:
            raise Overloaded("The proxy is receiving as much as it can hold. Retry.", headers={"Retry-After": "1"})
        self.memory_bytes += memory
        self.disk_bytes += disk

    def give_back(self, *, memory: int = 0, disk: int = 0) -> None:
        self.memory_bytes -= memory
        self.disk_bytes -= disk


class Share:
    """The buffers of one team: `own` bounds what it takes of those of `all`."""

    def __init__(self, all: Buffers, own: Buffers) -> None:
        self._all = all
        self._own = own

    def take(self, *, memory: int = 0, disk: int = 0) -> None:
        """Raises Overloaded where there is no room, for this team or for anybody."""
        self._own.take(memory=memory, disk=disk)
        try:
            self._all.take(memory=memory, disk=disk)
        except Overloaded:
            self._own.give_back(memory=memory, disk=disk)
            raise

    def give_back(self, *, memory: int = 0, disk: int = 0) -> None:
        self._own.give_back(memory=memory, disk=disk)
        self._all.give_back(memory=memory, disk=disk)


class Upload:
    """One body, written as it comes and then read, as often as there are attempts. `close` it in the end."""

    def __init__(self, buffers: Buffers | Share) -> None:
        self.size_bytes = 0
        self._buffers = buffers
        self._waiting = bytearray()  # not a list of pieces: a client may send two bytes at a time
        self._memory_bytes = 0
        self._disk_bytes = 0
        self._file: _Unnamed | None = None

    async def write(self, data: bytes) -> None:
        """The next bytes. Raises Overloaded."""
        self._take_memory(len(data))
        self._waiting += data
        self.size_bytes += len(data)
        if len(self._waiting) > (SPOOL_AT_BYTES if self._file is None else WRITE_BYTES):
            await self._spool()

    async def finish(self) -> None:
        """All has come. Raises Overloaded."""
        if self._file is not None:
            await self._spool()

    async def whole(self) -> bytes:
        """All of it in memory, for one who must see it whole; counted as long as the upload is there. Raises
        Overloaded."""
        if self._file is None:
            return bytes(self._waiting)
        self._take_memory(self.size_bytes)
        return await asyncio.to_thread(self._file.read, 0, self.size_bytes)

    async def pieces(self, wanted: Sequence[bytes | Span]) -> AsyncGenerator[bytes]:
        """These bytes and stretches of the body, in order, in pieces that are not large."""
        for one in wanted:
            if isinstance(one, bytes):
                yield one
                continue
            for start in range(one.start, one.end, WRITE_BYTES):
                end = min(start + WRITE_BYTES, one.end)
                if self._file is None:
                    yield self._in_memory(start, end)
                else:
                    yield await asyncio.to_thread(self._file.read, start, end)

    def view(self, span: Span) -> BinaryIO:
        """A stretch of the body as a file, for one reader on one thread."""
        if self._file is None:
            return io.BytesIO(self._in_memory(span.start, span.end))
        return cast(BinaryIO, io.BufferedReader(_Stretch(self._file, span)))

    def close(self) -> None:
        """Forget the body. Never waits, nor for what a thread is doing with it."""
        self._buffers.give_back(memory=self._memory_bytes, disk=self._disk_bytes)
        self._memory_bytes = self._disk_bytes = 0
        self._waiting = bytearray()
        if self._file is not None:
            self._file.close()

    def _in_memory(self, start: int, end: int) -> bytes:
        with memoryview(self._waiting) as whole:
            return bytes(whole[start:end])

    def _take_memory(self, size_bytes: int) -> None:
        self._buffers.take(memory=size_bytes)
        self._memory_bytes += size_bytes

    async def _spool(self) -> None:
        """Move to the file what waits in memory."""
        size = len(self._waiting)
        self._buffers.take(disk=size)
        self._disk_bytes += size
        data, self._waiting = self._waiting, bytearray()
        if self._file is None:
            self._file = _Unnamed()
        try:
            await asyncio.to_thread(self._file.append, data)
        except OSError:
            raise Overloaded(
                "The proxy has no room on disk for this upload. Retry; your platform team can make room.",
                headers={"Retry-After": "1"},
            ) from None
        given = min(size, self._memory_bytes)  # nothing, where it was closed meanwhile
        self._memory_bytes -= given
        self._buffers.give_back(memory=given)


class _Unnamed:
    """A temporary file without a name, for threads. The event loop may `close` it while they are at work on it: then
    the one that is frees the descriptor when it has done, so that it does not write to whatever file gets it next."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None  # made on a thread, as it is written
        self._lock = threading.Lock()
        self._closed = False

    def append(self, data: bytes | bytearray) -> None:
        """Raises OSError, where the disk is full for one; ValueError once closed."""
        with self._opened() as file, memoryview(data) as left:
            at = 0
            while at < len(data):
                at += file.write(left[at:])

    def read(self, start: int, end: int) -> bytes:
        """Raises ValueError once closed."""
        with self._opened() as file:
            return os.pread(file.fileno(), end - start, start)

    def close(self) -> None:
        self._closed = True
        if self._lock.acquire(blocking=False):  # else who holds it closes
            try:
                if self._file is not None:
                    self._file.close()
            finally:
                self._lock.release()

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            with self._lock:
                if self._file is None:
                    # Without a buffer: one that could not be written out would make closing fail.
                    self._file = tempfile.TemporaryFile(prefix="oxyy-upload-", buffering=0)  # noqa: SIM115 - `close`
                yield self._file
        finally:
            if self._closed:
                self.close()


class _Stretch(io.RawIOBase):
    """A part of a file as a file of its own; seeks as io.BytesIO does."""

    def __init__(self, file: _Unnamed, span: Span) -> None:
        self._file = file
        self._span = span
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset < 0:
            raise ValueError(f"negative seek value {offset}")
        size = self._span.end - self._span.start
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        start = self._span.start + self._at
        data = self._file.read(start, max(start, min(start + len(buffer), self._span.end)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
