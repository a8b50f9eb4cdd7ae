"""What the upstream says of its models, asked for in the background: good to have, and never a reason to fail.

Nothing is asked before somebody lists models. The first one waits for a moment; all others get what was heard last.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from time import monotonic
from typing import Any

import orjson

from oxyy_proxy.endpoints import models
from oxyy_proxy.endpoints.base import read_json
from oxyy_proxy.errors import UpstreamFailure
from oxyy_proxy.observe import Log
from oxyy_proxy.upstream import Upstream

STALE_S = 600.0
"""After this long a list is asked for again, by the next one who wants it."""

RETRY_S = 30.0
"""The same, where the upstream failed."""

PATIENCE_S = 1.0
"""How long the first list is waited for."""

ANSWER_S = 30.0

Described = Mapping[str, Mapping[str, Any]]


class Catalogue:
    """The upstream's own entry for each model of its list, by the model's name."""

    def __init__(self, upstream: Upstream, log: Log) -> None:
        self._upstream = upstream
        self._log = log
        self._described: Described = {}
        self._stale_at = 0.0  # `monotonic()`
        self._wanted = asyncio.Event()
        self._settled = asyncio.Event()  # an answer has come, or somebody has waited for it in vain

    async def described(self) -> Described:
        """What was heard last, at once, save for the first time. What is stale is asked for behind the answer."""
        if monotonic() >= self._stale_at:
            self._wanted.set()
        if not self._settled.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._settled.wait()
            self._settled.set()  # one has waited long enough for all
        return self._described

    async def run(self) -> None:
        """Ask whenever somebody wants to know and what is known is stale. What was heard stays where asking fails."""
        while True:
            await self._wanted.wait()
            reason = await self._ask()
            if reason:
                self._log.event("models_not_refreshed", reason=reason)
            self._stale_at = monotonic() + (RETRY_S if reason else STALE_S)
            self._wanted.clear()
            self._settled.set()

    async def _ask(self) -> str | None:
        """Ask once. Why no list came, None where one did."""
        try:
            status, _, body = await self._upstream.fetch(models.PATH, "", ANSWER_S)
        except UpstreamFailure as failure:
            return failure.code
        said = read_json(body) if status == 200 else None
        entries = said.get("data") if isinstance(said, dict) else None
        if not isinstance(entries, list):
            return f"upstream_{status}" if status != 200 else "upstream_bad_response"
        found = {entry["id"]: entry for entry in entries if _is_usable(entry)}
        if entries and not found:
            return "upstream_bad_response"
        self._described = found
        return None


def _is_usable(entry: object) -> bool:
    """Whether it describes a model, and can be handed on: not all that is read as JSON can be written as JSON."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        return False
    try:
        orjson.dumps(entry)
    except orjson.JSONEncodeError:
        return False
    return True
