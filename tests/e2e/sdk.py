"""The official SDK, synchronous and asynchronous, behind one small face: each test runs with both."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from openai import AsyncOpenAI, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.rig import KEY, Rig


class Sdk(ABC):
    """`call` gives what the SDK returns, `events` all events of a stream. `make` is given the client."""

    @abstractmethod
    async def call(self, make: Callable[[Any], Any]) -> Any: ...

    @abstractmethod
    async def events(self, make: Callable[[Any], Any]) -> list[Any]: ...

    @abstractmethod
    async def first_event(self, make: Callable[[Any], Any]) -> Any:
        """The first event of a stream, which is then closed."""

    @abstractmethod
    async def close(self) -> None: ...


class Sync(Sdk):
    """In a thread, because the proxy runs on this one."""

    def __init__(self, url: str, key: str) -> None:
        self._client = OpenAI(base_url=url, api_key=key)

    async def call(self, make: Callable[[Any], Any]) -> Any:
        return await asyncio.to_thread(make, self._client)

    async def events(self, make: Callable[[Any], Any]) -> list[Any]:
        return await asyncio.to_thread(lambda: list(make(self._client)))

    async def first_event(self, make: Callable[[Any], Any]) -> Any:
        def first() -> Any:
            with make(self._client) as stream:
                return next(iter(stream))

        return await asyncio.to_thread(first)

    async def close(self) -> None:
        self._client.close()


class Async(Sdk):
    def __init__(self, url: str, key: str) -> None:
        self._client = AsyncOpenAI(base_url=url, api_key=key)

    async def call(self, make: Callable[[Any], Any]) -> Any:
        return await make(self._client)

    async def events(self, make: Callable[[Any], Any]) -> list[Any]:
        return [event async for event in await make(self._client)]

    async def first_event(self, make: Callable[[Any], Any]) -> Any:
        async with await make(self._client) as stream:
            return await anext(aiter(stream))

    async def close(self) -> None:
        await self._client.close()


KINDS: dict[str, Callable[[str, str], Sdk]] = {"sync": Sync, "async": Async}

HELLO: dict[str, Any] = {"model": "gpt-5", "messages": [{"role": "user", "content": "Hello!"}]}


def assert_billed(rig: Rig, requests: int = 1) -> None:
    """So many requests were settled, each at what the simulator charged for it."""
    billed: defaultdict[str | None, int] = defaultdict(int)
    for entry in rig.simulator.bill:
        billed[entry.request_id] += entry.cost_nusd
    rows = rig.rows()
    assert [row["state"] for row in rows] == ["settled"] * requests
    assert {row["request_id"]: row["cost_nusd"] for row in rows} == billed
    assert all(cost > 0 for cost in billed.values())


async def requests_served(rig: Rig) -> int:
    """How many requests the proxy has answered so far, refusals included, whatever the client made of them."""
    async with rig.client.get(f"{rig.admin_url}/metrics") as answer:
        families = text_string_to_metric_families(await answer.text())
    return sum(
        int(sample.value)
        for family in families
        if family.name == "oxyy_requests"
        for sample in family.samples
        if sample.labels["endpoint"]
    )


async def idle(rig: Rig) -> None:
    """Returns once the proxy has nothing more to do, for clients that have left or not."""
    await rig.simulator.wait_for(lambda: rig.simulator.in_flight == 0)
    if running := rig.proxy.services.running:
        await asyncio.wait(running)


__all__ = ["HELLO", "KEY", "KINDS", "Sdk", "assert_billed", "idle", "requests_served"]
