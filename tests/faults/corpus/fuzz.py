"""Valid requests with a few bytes changed, at random from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from tests.faults.corpus.case import BODY, HIDDEN_REQUEST, chunked, chunks, get, head, post

SEEDS: tuple[bytes, ...] = (
    post(),
    post("Connection: close"),
    post("Expect: 100-continue"),
    post("User-Agent: x", "Accept: */*", "x-oxyy-tag: a"),
    chunked(),
    chunked(body=chunks(BODY[:20], BODY[20:])),
    chunked(body=chunks(BODY, last=b"0\r\nX-A: b\r\n\r\n")),
    get(),
    get("Connection: Upgrade", "Upgrade: websocket"),
    post() + HIDDEN_REQUEST,
    chunked() + HIDDEN_REQUEST,
    get() + post(),
    head("Connection: keep-alive", f"Content-Length: {len(BODY)}", first="POST /v1/chat/completions HTTP/1.0") + BODY,
)

PIECES: tuple[bytes, ...] = (
    b"\r\n", b"\n", b"\r", b"\x00", b"\x0b", b"\x0c", b"\x7f", b"\xff", b" ", b"\t", b":", b",", b";", b"0", b"-", b"+",
    b"\r\n\r\n", b"\n\n", b"\r\n ", b"0\r\n\r\n", b"0x", b"chunked", b"identity", b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n", b"Transfer-Encoding: identity\r\n", b"transfer-encoding: xchunked\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
    b"Connection: transfer-encoding\r\n", b"Host: x\r\n", b"Authorization: Bearer x\r\n", b"HTTP/1.0", b"HTTP/1.1",
    b"HTTP/2.0", b"GET ", b"CONNECT ", b"ffffffffffffffff", b"Upgrade: websocket\r\nConnection: upgrade\r\n",
)  # fmt: skip
"""What is put in between; most of it is what smuggling is made of."""


def mutated(rng: random.Random) -> bytes:
    """One of the seeds, changed in one to four places."""
    data = rng.choice(SEEDS)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        data = rng.choice(_CHANGES)(rng, data)
    return data


def _place(rng: random.Random, data: bytes) -> int:
    """Mostly in a head: at the end of one of its lines, or anywhere in it."""
    end = data.find(b"\r\n\r\n") + 4
    ends = [at for at in range(end) if data[at : at + 2] == b"\r\n"]
    kind = rng.random()
    if kind < 0.4 and ends:
        return rng.choice(ends) + rng.choice((0, 1, 2, 2))
    return rng.randrange((end if kind < 0.7 else len(data)) or 1)


def _put_in(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice(PIECES) + data[at:]


def _take_out(rng: random.Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 1, 2, 8)) :]


def _put_over(rng: random.Random, data: bytes) -> bytes:
    at, piece = _place(rng, data), rng.choice(PIECES)
    return data[:at] + piece + data[at + len(piece) :]


def _flip(rng: random.Random, data: bytes) -> bytes:
    at = min(_place(rng, data), len(data) - 1)
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    at = rng.randrange(len(lines))
    return b"\r\n".join([*lines[: at + 1], *lines[at:]])


def _splice(rng: random.Random, data: bytes) -> bytes:
    other = rng.choice(SEEDS)
    return data[: _place(rng, data)] + other[_place(rng, other) :]


_CHANGES: Sequence[Callable[[random.Random, bytes], bytes]] = (
    _put_in, _put_in, _put_in, _take_out, _put_over, _flip, _repeat, _splice,
)  # fmt: skip
