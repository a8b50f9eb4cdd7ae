"""The load against the stub upstream: every answer is checked, and a wrong one stops the run."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.benchmarks.load import Answer, Load, WrongAnswer, decode_chunked
from tests.benchmarks.upstream import Upstream
from tests.benchmarks.workloads import (
    BURST,
    COST_NUSD,
    EVENT_GAP_S,
    EVENTS,
    JSON,
    JSON_ANSWER,
    PACED,
    STREAM_ANSWER,
    USAGE_EVENT,
    WORKLOADS,
    Workload,
    sizes,
)


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def drive(workload: Workload, port: int, connections: int, seconds: float) -> Load:
    load = Load(workload, port, "sk-bench", connections)
    try:
        await load.connect()
        await load.run(seconds)
    finally:
        load.close()
    return load


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
async def test_every_connection_gets_right_answers_until_the_time_is_up(workload: Workload) -> None:
    async with upstream() as port:
        samples = (await drive(workload, port, 3, 0.05)).samples
    assert len(samples.total_s) == len(samples.first_byte_s) >= 3
    assert all(0 < first <= total for first, total in zip(samples.first_byte_s, samples.total_s, strict=True))
    assert samples.elapsed_s >= 0.04


async def test_so_many_requests_are_sent_and_no_other() -> None:
    async with upstream() as port:
        load = Load(JSON, port, "sk-bench", 3)
        await load.connect()
        await load.run_requests(20)
        load.close()
    assert len(load.samples.total_s) == 20


@pytest.mark.parametrize("workload", [sizes()[3], sizes()[-1]], ids=lambda workload: workload.name)
async def test_large_requests_and_answers_arrive_whole(workload: Workload) -> None:
    async with upstream() as port:
        assert (await drive(workload, port, 1, 0.0)).samples.total_s


def test_requests_and_answers_are_of_the_size_that_they_are_named_for() -> None:
    bodies = [len(each.request("stub", "key").partition(b"\r\n\r\n")[2]) for each in sizes() if each.body_bytes]
    answers = [len(each.answer) for each in sizes() if each.answer and not each.body_bytes]
    assert bodies == [1000, 10_000, 100_000, 1_000_000]
    assert answers == [1000, 10_000, 100_000, 1_000_000, 10_000_000]


async def test_a_paced_stream_takes_its_time() -> None:
    async with upstream() as port:
        samples = (await drive(PACED, port, 1, 0.0)).samples
    assert samples.total_s[0] >= (EVENTS - 1) * EVENT_GAP_S * 0.98
    assert samples.first_byte_s[0] < samples.total_s[0] / 2


async def test_a_connection_pauses_before_its_next_request() -> None:
    pauses = random.Random(1)
    async with upstream() as port:
        load = Load(replace(JSON, pause_s=0.05), port, "sk-bench", 1)
        try:
            await load.connect()
            await load.run_requests(4)
        finally:
            load.close()
    assert len(load.samples.total_s) == 4
    # The loop's timers tick in milliseconds.
    assert load.samples.elapsed_s >= sum([pauses.uniform(0.0, 0.05) - 0.001 for _ in range(3)])


@pytest.mark.parametrize("workload", [JSON, BURST], ids=lambda workload: workload.name)
async def test_an_answer_that_differs_by_one_byte_stops_the_run(workload: Workload) -> None:
    assert workload.answer
    async with upstream() as port:
        with pytest.raises(WrongAnswer, match="not the expected bytes"):
            await drive(replace(workload, answer=workload.answer[:-1] + b"!"), port, 2, 0.05)


async def test_a_refusal_stops_the_run() -> None:
    async with upstream() as port:
        with pytest.raises(WrongAnswer, match="status 400"):
            await drive(replace(JSON, marker="somebody else"), port, 1, 0.05)


async def test_a_cut_connection_stops_the_run() -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        with pytest.raises(WrongAnswer, match="broke during an answer"):
            await drive(JSON, server.sockets[0].getsockname()[1], 1, 0.05)


async def test_the_usage_event_comes_only_when_asked_for() -> None:
    asked = JSON.request("stub", "sk-bench").replace(b"bench-json", b"bench-burst")
    body = asked.partition(b"\r\n\r\n")[2][:-1] + b',"stream_options":{"include_usage": true}}'
    async with upstream() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        answer = Answer()
        while not answer.feed(await reader.read(65536)):
            pass
        writer.close()
        await writer.wait_closed()
    assert answer.content() == STREAM_ANSWER.replace(b"data: [DONE]", USAGE_EVENT + b"data: [DONE]")


def test_an_answer_is_read_the_same_however_it_is_cut() -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"
    answer = Answer()
    seen = [answer.feed(whole[index : index + 1]) for index in range(len(whole))]
    assert seen == [False] * (len(whole) - 1) + [True]
    assert (answer.status, answer.begun, answer.content()) == (200, True, b"hello!")


@pytest.mark.parametrize("raw", [b"", b"5\r\nhell", b"zz\r\nhello\r\n0\r\n\r\n", b"-1\r\n\r\n", b"5\r\nhello\r\n"])
def test_a_malformed_chunked_body_is_refused(raw: bytes) -> None:
    with pytest.raises(WrongAnswer, match="malformed chunk"):
        decode_chunked(raw)


def test_an_answer_without_an_end_is_refused() -> None:
    with pytest.raises(WrongAnswer, match="neither a length nor chunked"):
        Answer().feed(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")


def test_the_workloads_are_of_the_size_that_the_readme_names() -> None:
    assert 650 <= len(JSON_ANSWER) <= 900
    assert 220 <= len(STREAM_ANSWER) / EVENTS <= 300
    assert COST_NUSD == 790_000


async def test_nobody_listening_is_an_error_not_a_figure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await drive(JSON, taken.getsockname()[1], 1, 0.05)
