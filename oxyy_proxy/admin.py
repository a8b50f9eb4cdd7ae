"""The admin listener: `/metrics`, `/healthz` (alive), `/readyz` (may be sent requests), `/-/drain` (take no more). No
authentication: keep it inside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import orjson

from oxyy_proxy import web
from oxyy_proxy.errors import ProxyError
from oxyy_proxy.steps.state import Services

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Admin:
    """Handles every request of the admin listener."""

    def __init__(self, services: Services, drain: Callable[[], object]) -> None:
        """`drain` begins to drain, and returns at once."""
        self._services = services
        self._drain = drain

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/-/drain" and request.method == "POST":
            self._drain()
            return self._state(202)
        if request.method not in ("GET", "HEAD"):
            allow = "GET, HEAD, POST" if request.path == "/-/drain" else "GET, HEAD"
            return _text(405, f"use {allow}\n", {"Allow": allow})
        if request.path == "/-/drain":
            return self._state(200)
        if request.path == "/metrics":
            return await self._metrics()
        if request.path == "/healthz":
            return _text(200, "alive\n")
        if request.path == "/readyz":
            return await self._ready()
        return _text(404, "known: /metrics /healthz /readyz /-/drain\n")

    def _state(self, status: int) -> web.Response:
        """Whether it drains, and how many requests are still being served: at 0 it may be stopped."""
        services = self._services
        body = orjson.dumps({"draining": services.draining, "running": len(services.running)})
        return web.Response(status=status, body=body, headers={"Content-Type": "application/json"})

    async def _metrics(self) -> web.Response:
        services = self._services
        policy = services.policies.policy
        limits = [*policy.limits, *(limit for team in policy.teams.values() for limit in team.limits)]
        try:
            snapshot = await services.ledger.snapshot(limits, services.clock())
        except ProxyError as error:
            return _text(error.status, f"{error.message}\n")
        body = await asyncio.to_thread(services.metrics.rendering(snapshot))
        return web.Response(body=body, headers={"Content-Type": _METRICS_TYPE})

    async def _ready(self) -> web.Response:
        """Policies are loaded from before the listener opens; what can be lacking is the ledger, or time. A ledger that
        failed is tried again here: nobody sends requests, by which it would be found mended, to what is not ready."""
        services = self._services
        if not services.ledger.writable:
            with contextlib.suppress(ProxyError):
                await services.ledger.standings((), services.clock())
        state = {"ledger": "ok" if services.ledger.writable else "not writable", "draining": services.draining}
        ready = services.ledger.writable and not services.draining
        body = orjson.dumps({"ready": ready, "policy": services.policies.policy.version, **state})
        return web.Response(status=200 if ready else 503, body=body, headers={"Content-Type": "application/json"})


def _text(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, text=text, headers=headers)
