"""Entries and sequences in processes of their own, as many at a time as there are cores."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import uvloop

from tests.faults import drivers, sequences
from tests.faults.checks import differences
from tests.faults.entries import load
from tests.faults.progress import Progress

REQUESTS = 200
"""Of a sequence."""

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@contextmanager
def empty_folder() -> Iterator[Path]:
    """On a disk where there is one: /tmp is often memory, and a ledger lies on a disk."""
    disk = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="oxyy-faults-", dir=disk))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def play_entry(name: str) -> tuple[str, list[str]]:
    """An entry of the matrix: what is not as it says."""
    (entry,) = (each for each in load() if each.id == name)
    with empty_folder() as folder:
        try:
            return name, differences(entry, asyncio.run(drivers.play(entry, folder)))
        except Exception as error:  # noqa: BLE001 - told with the others, which are still played
            return name, [f"{type(error).__name__}: {error}"]


def play_sequence(seed: int) -> sequences.Played:
    with empty_folder() as folder:
        try:
            return uvloop.run(sequences.play(seed, REQUESTS, folder))
        except Exception as error:  # noqa: BLE001 - as above
            return sequences.Played(seed, REQUESTS, [f"{type(error).__name__}: {error}"])


def in_processes(title: str, play: Callable[[ItemT], ResultT], items: Sequence[ItemT], jobs: int) -> Iterator[ResultT]:
    """The results as they come."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context) as pool, Progress(title, len(items)) as done:
        for future in as_completed([pool.submit(play, item) for item in items]):
            yield future.result()
            done()
