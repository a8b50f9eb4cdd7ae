"""Clients that keep asking, and note what they were told before the proxy died under them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp

from tests.rig import KEY


@dataclass
class Told:
    """What clients have seen of answers that came whole. `cost_nusd`: by the header of those that are not streamed.
    `on_whole` is called as soon as one is there."""

    whole: set[str] = field(default_factory=set)
    cost_nusd: dict[str, int] = field(default_factory=dict)
    broken_off: int = 0
    refused: list[str] = field(default_factory=list)
    on_whole: Callable[[], None] = lambda: None

    def came_whole(self, request_id: str) -> None:
        self.whole.add(request_id)
        self.on_whole()


def questions(rng: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paths and bodies without end: JSON, streams and embeddings; a share of them fails over."""
    while True:
        kind = rng.choice(("whole", "stream", "stream", "embeddings", "failover", "failover stream"))
        if kind == "embeddings":
            text = "text " * rng.randint(1, 50)
            yield "/embeddings", {"model": "text-embedding-3-small", "input": text}
            continue
        wishes: dict[str, Any] = {"words": rng.randint(5, 40)}
        model = "claude-opus-4.6"  # its chain has no other: what it may cost is its hold
        if kind.startswith("failover"):
            model = "gpt-5"
            wishes |= {"fault": "status", "status": 503, "model": model}
        content = "word " * rng.randint(1, 200)
        yield (
            "/chat/completions",
            {
                "model": model,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": 100,
                "stream": kind.endswith("stream"),
                "simulate": wishes,
            },
        )


async def ask_until_it_dies(url: str, clients: int, rng: random.Random, told: Told) -> None:
    """So many clients ask one question after the other, each until its connection breaks."""
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {KEY}"}) as session:
        asked = questions(rng)

        async def client() -> None:
            for path, body in asked:
                try:
                    await _ask(session, url + path, body, told)
                except (aiohttp.ClientError, ConnectionError):
                    told.broken_off += 1
                    return

        await asyncio.gather(*(client() for _ in range(clients)))


async def _ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any], told: Told) -> None:
    async with session.post(url, json=body) as answer:
        content = await answer.read()
        request_id = answer.headers["x-request-id"]
        if answer.status != 200:
            told.refused.append(f"{answer.status} {content!r}")
        elif not body.get("stream"):
            told.cost_nusd[request_id] = int(Decimal(answer.headers["x-oxyy-cost-usd"]).scaleb(9))
            told.came_whole(request_id)
        elif content.endswith(b"data: [DONE]\n\n"):
            told.came_whole(request_id)
        else:
            told.broken_off += 1
