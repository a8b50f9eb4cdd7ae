"""Plays the entries whose fault is the client's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from unittest.mock import patch

from oxyy_proxy import connection
from tests.faults.corpus import CASES
from tests.faults.entries import Entry
from tests.faults.outcome import Answer, Outcome
from tests.faults.questions import QUESTIONS
from tests.faults.stage import Stage, hear, more, outcome_of, stage
from tests.steps.wires import WAIT_S, Wire, dial, request, until

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SMALL_BUFFER = 4096


async def play(entry: Entry, folder: Path) -> Outcome:
    """The client that `do` names, and what came of it."""
    async with stage(entry, folder) as rig:
        answers = await PLAYS[entry.do["client"]](rig, entry)
        return await outcome_of(rig, answers)


def question(entry: Entry, **headers: str) -> bytes:
    """The whole request of this entry; a header that is empty is left out."""
    asked, do = QUESTIONS[entry.endpoint], entry.do
    wishes = {name: do[name] for name in ("words", "pace_ms", "delay_ms", "bytes") if name in do}
    if "inputs" in do:
        asked = replace(asked, members={"input": ["Hello!"] * do["inputs"]})
    content_type, body = asked.body(stream=entry.stream, wishes=wishes, pad=do.get("pad_bytes", 0))
    return request(body, path=asked.path, headers={"Content-Type": content_type, **headers})


def parts(entry: Entry, **headers: str) -> tuple[bytes, bytes]:
    """Head and body."""
    head, end, body = question(entry, **headers).partition(b"\r\n\r\n")
    return head + end, body


async def heard(wire: Wire) -> Answer:
    """The next answer, and what comes behind it."""
    answer = await hear(wire, monotonic())
    return replace(answer, more=await more(wire, answer))


async def silence(wire: Wire) -> Answer:
    """The connection ends without an answer."""
    answer = await hear(wire, monotonic())
    assert answer.status == 0, answer
    return answer


@contextmanager
def shortened(**seconds: float) -> Iterator[None]:
    """Time-outs of client connections as an impatient operator would have them."""
    with patch.multiple(connection, **seconds):
        yield


def leave(wire: Wire, how: str) -> None:
    if how == "reset":
        wire.reset()
    elif how == "half":
        wire.writer.write_eof()
    else:
        wire.writer.close()


# --- slow -------------------------------------------------------------------------------------------------------


async def slow_head(rig: Stage, entry: Entry) -> list[Answer]:
    with shortened(HEAD_S=0.3):
        async with dial(rig) as wire:
            dripping = asyncio.get_running_loop().create_task(_drip(wire, question(entry)))
            try:
                return [await silence(wire)]
            finally:
                dripping.cancel()


async def _drip(wire: Wire, data: bytes) -> None:
    """A byte now and then, without end."""
    with suppress(ConnectionError):
        for at in range(len(data)):
            await wire.send(data[at : at + 1])
            await asyncio.sleep(0.02)


async def slow_body(rig: Stage, entry: Entry) -> list[Answer]:
    head, body = parts(entry)
    async with dial(rig) as wire:
        await wire.send(head + body[: len(body) // 2])
        return [await silence(wire)]


async def slow_reader(rig: Stage, entry: Entry) -> list[Answer]:
    """Reads nothing until it is cut, then what has come by then."""
    with shortened(STALLED_S=0.3):
        async with dial(rig, receive_buffer=SMALL_BUFFER) as wire:
            await wire.send(question(entry))
            await until(lambda: bool(rig.rows()) and all(row["state"] != "open" for row in rig.rows()))
            await until(lambda: not rig.proxy.public._server.open)
            return [await hear(wire, monotonic())]


async def never_reads(rig: Stage, entry: Entry) -> list[Answer]:
    """Refusals are cheap to ask for: so many that no buffer could hold their answers."""
    many = request(key="wrong") * 1000
    peak = 0

    async def ask() -> None:
        with suppress(ConnectionError):
            while True:
                await wire.send(many)

    def left_bytes() -> int:
        transports = [connection.transport for connection in rig.proxy.public._server.open]
        return sum(transport.get_write_buffer_size() for transport in transports if transport is not None)

    with shortened(STALLED_S=0.3):
        async with dial(rig, receive_buffer=SMALL_BUFFER) as wire:
            asking = asyncio.get_running_loop().create_task(ask())
            async with asyncio.timeout(WAIT_S):
                while not asking.done():
                    peak = max(peak, left_bytes())
                    await asyncio.sleep(0)
    assert 0 < peak < 2**18, peak
    return [Answer(0)]


# --- gone -------------------------------------------------------------------------------------------------------


async def gone_mid_upload(rig: Stage, entry: Entry) -> list[Answer]:
    head, body = parts(entry, Expect="100-continue")
    async with dial(rig) as wire:
        await wire.send(head)
        assert await wire.reader.readexactly(len(CONTINUE)) == CONTINUE
        await wire.send(body[: len(body) // 2])
        leave(wire, entry.do["how"])
        if entry.do["how"] != "half":
            return [Answer(0)]
        return [await heard(wire)]


async def gone_mid_stream(rig: Stage, entry: Entry) -> list[Answer]:
    async with dial(rig) as wire:
        await wire.send(question(entry))
        status, headers = await wire.head()
        seen = await wire.chunk() + await wire.chunk()
        leave(wire, entry.do["how"])
    return [Answer(status, headers, seen, whole=False)]


async def gone_before_answer(rig: Stage, entry: Entry) -> list[Answer]:
    async with dial(rig) as wire:
        await wire.send(question(entry))
        await rig.simulator.wait_for(lambda: rig.simulator.in_flight > 0)
        leave(wire, entry.do["how"])
    return [Answer(0)]


async def gone_after_done(rig: Stage, entry: Entry) -> list[Answer]:
    async with dial(rig) as wire:
        await wire.send(question(entry))
        status, headers = await wire.head()
        seen = b""
        while not seen.endswith(b"data: [DONE]\n\n"):
            seen += await wire.chunk()
        wire.reset()
    return [Answer(status, headers, seen)]


async def half_closed(rig: Stage, entry: Entry) -> list[Answer]:
    async with dial(rig) as wire:
        await wire.send(question(entry))
        wire.writer.write_eof()
        answer = await hear(wire, monotonic())
        assert await wire.closed()
    return [answer]


# --- much -------------------------------------------------------------------------------------------------------


async def pipelining(rig: Stage, entry: Entry) -> list[Answer]:
    async with dial(rig) as wire:
        await wire.send(question(entry) * 3)
        if "how" in entry.do:
            leave(wire, entry.do["how"])
        answers = [await hear(wire, monotonic()) for _ in range(3)]
        if "how" in entry.do:
            assert await wire.closed()
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids == sorted(set(ids))
    return answers


async def many_headers(rig: Stage, entry: Entry) -> list[Answer]:
    lines = {f"x-{n}": "x" * entry.do["line_bytes"] for n in range(entry.do["lines"])}
    async with dial(rig) as wire:
        with suppress(ConnectionError):
            await wire.send(question(entry, **lines))
        return [await heard(wire)]


async def large_body(rig: Stage, entry: Entry) -> list[Answer]:
    """Announced; what is sent of it is what fits into the buffers on the way."""
    head, _ = parts(entry, **{"Content-Length": str(entry.do["size_bytes"])})
    async with dial(rig) as wire:
        return await _while_sending(wire, head, lambda: b"x" * 2**16, entry.do["size_bytes"])


async def endless_body(rig: Stage, entry: Entry) -> list[Answer]:
    head, body = parts(entry, **{"Content-Length": "", "Transfer-Encoding": "chunked"})
    opening = head + b"%x\r\n" % (begin := len(body) // 2) + body[:begin] + b"\r\n"
    piece = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    async with dial(rig) as wire:
        return await _while_sending(wire, opening, lambda: piece, entry.do["size_bytes"])


async def _while_sending(wire: Wire, head: bytes, piece: Callable[[], bytes], size_bytes: int) -> list[Answer]:
    sent = 0

    async def send() -> None:
        nonlocal sent
        with suppress(ConnectionError):
            await wire.send(head)
            while sent < size_bytes:
                await wire.send(data := piece())
                sent += len(data)

    sending = asyncio.get_running_loop().create_task(send())
    try:
        answer = await hear(wire, monotonic())
    finally:
        sending.cancel()
    assert sent < size_bytes / 2, "all of it was read"
    return [answer]


async def expects(rig: Stage, entry: Entry) -> list[Answer]:
    head, body = parts(entry, Expect="100-continue")
    async with dial(rig) as wire:
        await wire.send(head)
        assert await wire.reader.readexactly(len(CONTINUE)) == CONTINUE
        assert not rig.rows()
        await wire.send(body)
        return [await heard(wire)]


async def corpus(rig: Stage, entry: Entry) -> list[Answer]:
    (case,) = [case for case in CASES if case.name == entry.do["case"]]
    async with dial(rig) as wire:
        await wire.send(case.sent)
        return [await heard(wire) for _ in case.answers]


PLAYS: dict[str, Callable[[Stage, Entry], Awaitable[list[Answer]]]] = {
    play.__name__: play
    for play in (
        slow_head, slow_body, slow_reader, never_reads, gone_mid_upload, gone_mid_stream, gone_before_answer,
        gone_after_done, half_closed, pipelining, many_headers, large_body, endless_body, expects, corpus,
    )
}  # fmt: skip
