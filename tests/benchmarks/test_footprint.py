from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import footprint
from tests.benchmarks.footprint import descriptors, measure_memory, that_fit
from tests.benchmarks.load import WrongAnswer
from tests.benchmarks.processes import Pinned, free_port
from tests.benchmarks.rounds import QUICK
from tests.benchmarks.targets import NAIVE, Stage, Target

PLAN = replace(QUICK, streams=(3, 1), memory_wait_s=0.1)


def test_streams_that_want_more_descriptors_than_there_are_are_left_out_by_name() -> None:
    assert that_fit((1, 1000, 5000), descriptors(5000)) == ([1, 1000, 5000], [])
    fit, notes = that_fit((1, 1000, 5000), 4096)
    assert fit == [1, 1000]
    assert notes == [
        "5,000 open streams were left out: they want 15,064 descriptors and the hard limit is 4,096 (ulimit -Hn)"
    ]


def test_memory_is_measured_at_each_number_of_open_streams(tmp_path: Path) -> None:
    port, core = free_port(), 0
    upstream = Pinned.spawn("upstream", [sys.executable, "-m", "tests.benchmarks.upstream", str(port)], core, tmp_path)
    try:
        upstream.until_ready(port, None)
        memory = measure_memory(Stage(tmp_path, port, core), NAIVE, PLAN, "sk-bench")
    finally:
        upstream.stop(1.0)
    assert list(memory.streams_bytes) == [1, 3]
    assert 5_000_000 < memory.idle_bytes <= memory.streams_bytes[3] + 2_000_000


async def test_a_stream_that_is_served_no_further_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "_NEXT_EVENT_WITHIN_S", 0.3)

    class Stuck(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n")

    async with await asyncio.get_running_loop().create_server(Stuck, "127.0.0.1", 0) as server:
        target = Target("stuck", server.sockets[0].getsockname()[1])
        with pytest.raises(WrongAnswer, match="3 of 3 open streams had no event"):
            await footprint._with_streams(target, "sk-bench", replace(PLAN, streams=(3,)))
