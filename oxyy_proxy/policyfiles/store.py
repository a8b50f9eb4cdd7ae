"""The policy in force, kept up to date with its folder."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from oxyy_proxy.policyfiles.findings import Loaded, PolicyInvalid
from oxyy_proxy.policyfiles.folder import Folder, read_folder
from oxyy_proxy.policyfiles.loading import load_files
from oxyy_proxy.rules.types import Policy

LOOK_EVERY_S = 30.0
"""Some file systems report no changes: look anyway."""

TICK_MS = 1000
"""How soon it shows that the folder, or what a symlink in its place points to, is another one now."""

MAX_ROUNDS = 10
"""How often a load is repeated because the folder changed under it, before the next event has to do."""


class PolicyStore:
    """`policy` is one immutable snapshot, replaced as a whole: read it once per request and keep it.

    `failed` tells that the folder, as it is now, could not be loaded and `policy` is the last good one. `on_loaded`
    and `on_failed` are called on the event loop after every load.
    """

    def __init__(
        self,
        folder: Path,
        loaded: Loaded,
        *,
        on_loaded: Callable[[Loaded], None],
        on_failed: Callable[[PolicyInvalid], None],
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self.policy: Policy = loaded.policy
        self.failed = False
        self._folder = folder
        self._on_loaded = on_loaded
        self._on_failed = on_failed
        self._look_every_s = look_every_s
        self._seen = loaded.policy.version
        self._lock = asyncio.Lock()

    async def reload(self) -> None:
        """Loads the folder, changed or not, and swaps `policy` if it is valid; never raises."""
        async with self._lock:
            await self._load(await asyncio.to_thread(read_folder, self._folder))

    async def watch(self) -> None:
        """Reloads whenever the content of the folder changes, until cancelled; follows a folder that is replaced."""
        while True:
            folder = await asyncio.to_thread(_identity, self._folder)
            await self._look()
            try:
                await self._follow(folder)
            except OSError:
                # The folder is gone, or the system has no watches left: look from time to time instead.
                await asyncio.sleep(self._look_every_s)

    async def _follow(self, folder: tuple[int, int] | None) -> None:
        ticks, ticks_per_look = 0, max(1, int(self._look_every_s * 1000) // TICK_MS)
        left = threading.Event()
        try:
            changes = await asyncio.to_thread(_changes, self._folder, left)
            while (changed := await asyncio.to_thread(next, changes, None)) is not None:
                # The first tick catches what was edited before the watch began.
                if changed or ticks % ticks_per_look == 0:
                    await self._look()
                ticks += not changed
                if await asyncio.to_thread(_identity, self._folder) != folder:
                    return
        finally:
            left.set()  # a thread may still wait for the next change

    async def _look(self) -> None:
        async with self._lock:
            files = await asyncio.to_thread(read_folder, self._folder)
            if files.version != self._seen:
                await self._load(files)

    async def _load(self, files: Folder) -> None:
        """Loads what was read; if the folder has changed meanwhile, what it holds now instead."""
        for _ in range(MAX_ROUNDS):
            outcome = await asyncio.to_thread(_attempt, files)
            self._seen = files.version
            files = await asyncio.to_thread(read_folder, self._folder)
            if files.version == self._seen:
                break
        self.failed = isinstance(outcome, PolicyInvalid)
        if isinstance(outcome, PolicyInvalid):
            self._on_failed(outcome)
        else:
            self.policy = outcome.policy
            self._on_loaded(outcome)


def _changes(folder: Path, left: threading.Event) -> Iterator[Set[object]]:
    """What has changed, nothing where a tick went by, until `left` is set. For a thread: the import takes 30 ms, which
    a start need not wait for."""
    from watchfiles import watch

    # The directory, not its files: a file's watch dies with the inode that an editor or a ConfigMap replaces.
    return watch(folder, watch_filter=None, step=50, rust_timeout=TICK_MS, yield_on_timeout=True, stop_event=left)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _attempt(files: Folder) -> Loaded | PolicyInvalid:
    try:
        return load_files(files)
    except PolicyInvalid as invalid:
        return invalid
