"""Bytes to a proxy, what came of them on all sides, and what must never come of any bytes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.faults.corpus.case import PATH
from tests.faults.corpus.parsers import by_h11, by_httptools
from tests.faults.stage import Stage
from tests.rig import KEY
from tests.steps.wires import WAIT_S, Heard, Wire, dial, request

DOCUMENTED = frozenset({200, 400, 401, 403, 404, 405, 413, 415})
"""What may be answered to bytes of any kind while upstream and host are well: no 5xx is among it."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

FOLLOWING = request(method="GET", path="/v1/usage")
"""A request whose answer looks like no other."""


@dataclass
class Played:
    """`answers` as they came, `ends` as in a Case; `more`: bytes that are no answer."""

    sent: bytes
    answers: list[Heard]
    ends: str
    more: bytes = b""


HEADERS = {
    "host", "content-type", "content-length", "accept", "user-agent", "x-request-id", "authorization",
    "accept-encoding",
}  # fmt: skip
"""That may go upstream."""


async def play(rig: Stage, sent: bytes, wanted: int | None, ends: str, pieces: int = 1) -> Played:
    """Send, hear `wanted` answers, and see that it then goes on as `ends` says. Without `wanted` the client has nothing
    more to say, and hears all there is."""
    async with dial(rig) as wire:
        sending = asyncio.get_running_loop().create_task(_send(wire, sent, pieces))
        played = Played(sent, [], "closed")
        try:
            while wanted is None or len(played.answers) < wanted:
                if wanted is None and not played.answers:
                    await sending
                    wire.writer.write_eof()
                played.answers.append(await _hear(wire, sent))
            await sending
            played.ends = await _go_on(wire, played, ends)
        except asyncio.IncompleteReadError as cut:
            played.more = cut.partial
        except ConnectionError:
            pass
        finally:
            sending.cancel()
    return played


async def _send(wire: Wire, sent: bytes, pieces: int) -> None:
    size = -(-len(sent) // pieces)
    try:
        for at in range(0, len(sent), size):
            await wire.send(sent[at : at + size])
            if pieces > 1:
                await asyncio.sleep(0)
    except ConnectionError:
        pass  # the answer says why


async def _hear(wire: Wire, sent: bytes) -> Heard:
    """The next answer that is final."""
    async with asyncio.timeout(WAIT_S):
        while (begin := await wire.reader.readexactly(len(CONTINUE))) == CONTINUE:
            pass
    wire.reader._buffer[:0] = begin  # type: ignore[attr-defined]
    if not sent.startswith(b"HEAD"):
        return await wire.answer()
    status, headers = await wire.head()
    return Heard(status, headers, b"", True)


async def _go_on(wire: Wire, played: Played, ends: str) -> str:
    """Whether it is as `ends` says; what it is instead, where that can be told."""
    if ends == "open":
        await wire.send(FOLLOWING)
        answer = await wire.answer()
        return "open" if answer.status == 200 and b'"limits"' in answer.body else f"a further request got {answer}"
    if ends.startswith("waits"):
        wire.writer.write_eof()
    if ends == "waits for a body":
        answer = await wire.answer()
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    played.more = await asyncio.wait_for(wire.reader.read(), WAIT_S)
    return ends


def asked(played: Played, upstream: dict[str, bytes]) -> list[bytes]:
    """The bodies that the upstream was sent for these answers, in order; they are taken out of `upstream`."""
    ids = [answer.headers.get("x-request-id", "") for answer in played.answers if answer.status == 200]
    return [upstream.pop(each) for each in ids if each in upstream]


def never(played: Played, asked: list[bytes]) -> Iterator[str]:
    """What no bytes may bring about. `asked`: the bodies that the upstream was sent for them, in order."""
    if played.more:
        yield f"bytes that are no answer: {played.more[:200]!r}"
    for answer in played.answers:
        yield from _answer(answer, head_only=played.sent.startswith(b"HEAD"))
    yield from _other_parsers(played, asked)


def _answer(answer: Heard, head_only: bool) -> Iterator[str]:
    if answer.status not in DOCUMENTED:
        yield f"status {answer.status}"
    if not re.fullmatch(r"req_[0-9a-f]{27}", answer.headers.get("x-request-id", "")):
        yield f"no x-request-id: {answer.headers}"
    if KEY.encode() in answer.body or KEY in str(answer.headers):
        yield f"the key is in the answer: {answer}"
    if not answer.whole:
        yield f"an answer that is cut off: {answer}"
    if answer.status != 200 and not head_only:
        try:
            error = json.loads(answer.body)["error"]
        except (ValueError, KeyError, TypeError):
            error = {}
        if set(error) != {"message", "type", "param", "code"}:
            yield f"not our form of an error: {answer}"


def _other_parsers(played: Played, asked: list[bytes]) -> Iterator[str]:
    """One that reads as many requests must read the same. One that refuses what the proxy takes does no harm."""
    chats = [n for n, answer in enumerate(played.answers) if answer.status == 200 and b'"choices"' in answer.body]
    for name, parser in (("h11", by_h11), ("httptools", by_httptools)):
        read = parser(played.sent)
        for body, at in zip(asked, chats, strict=False):
            if at < len(read.requests):
                if read.requests[at] != ("POST", body):
                    yield f"{name} reads {read.requests[at]}, the upstream was sent {body!r}"
            elif read.refused is None:
                yield f"{name} does not see the end of what the upstream was sent as {body!r}"


def forget(rig: Stage) -> None:
    """What the upstream was sent before is not looked at again."""
    rig.simulator.received.clear()
    rig.simulator.received_paths.clear()


def sent_upstream(rig: Stage) -> dict[str, bytes]:
    """Bodies of what the upstream was sent since, by the proxy's request id. Raises AssertionError for anything but a
    plain chat request."""
    found: dict[str, bytes] = {}
    for path, (headers, body) in zip(rig.simulator.received_paths, rig.simulator.received, strict=True):
        if "content-length" not in headers:
            continue  # the proxy's own, for its catalogue
        assert path == PATH
        assert set(headers) <= HEADERS, headers
        assert headers["x-request-id"] not in found
        found[headers["x-request-id"]] = body
    return found
