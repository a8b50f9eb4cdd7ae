"""Many clients on connections that they keep, each asking as soon as it has its answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from tests.faults.outcome import Answer
from tests.faults.stage import hear
from tests.rig import KEY
from tests.steps.wires import Wire, request

Told = Callable[[int, Answer], None]


@asynccontextmanager
async def wire_to(url: str, receive_buffer: int | None = None) -> AsyncIterator[Wire]:
    """A connection to the proxy at this base URL; with a small `receive_buffer` what is not read soon backs up."""
    parts = urlsplit(url)
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    except OSError:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 2**20)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def chat(model: str = "gpt-5", key: str = KEY, **members: Any) -> bytes:
    """A chat request's bytes."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **members}
    return request(body, key=key)


async def flood(url: str, requests: Iterable[bytes], clients: int, told: Told = lambda n, answer: None) -> list[Answer]:
    """The answers to all requests, in the order in which they were sent; `told` of each as soon as it is whole."""
    waiting: Iterator[tuple[int, bytes]] = enumerate(requests)
    answers: dict[int, Answer] = {}

    async def client() -> None:
        while True:
            async with wire_to(url) as wire:
                for n, sent in waiting:
                    began = monotonic()
                    await wire.send(sent)
                    answers[n] = answer = await hear(wire, began)
                    told(n, answer)
                    if answer.status == 0 or not answer.whole or answer.headers.get("connection") == "close":
                        break
                else:
                    return

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return [answers[n] for n in sorted(answers)]
