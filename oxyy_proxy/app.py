"""The composition root: makes every part, runs them, and stops them in order. The only place that names them all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from oxyy_proxy import web
from oxyy_proxy.admin import Admin
from oxyy_proxy.catalogue import Catalogue
from oxyy_proxy.errors import StartupError
from oxyy_proxy.jobs import Jobs
from oxyy_proxy.ledger.sqlite import SqliteLedger
from oxyy_proxy.ledger.sqlite_open import open_ledger
from oxyy_proxy.listener import ADMIN_CONNECTIONS, Listener, connection_limit
from oxyy_proxy.observe import Log, Metrics
from oxyy_proxy.policyfiles import Loaded, PolicyInvalid, PolicyStore, load
from oxyy_proxy.settings import Settings, address
from oxyy_proxy.steps.exchange import Exchanges
from oxyy_proxy.steps.health import Health
from oxyy_proxy.steps.state import Services
from oxyy_proxy.sweep import Sweeper
from oxyy_proxy.uploads import Buffers
from oxyy_proxy.upstream import Upstream

OWN_CONNECTIONS = 64
"""To the upstream, beside one for each request that is served: what follows video jobs, and asks for the models."""

CUT_S = 5.0
"""How long the streams that are cut at the end of a drain have to settle and say so."""


class Proxy:
    """One proxy process. `start`, then `run` until a signal or `stop`; `stop` may be called at any time after."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._draining: asyncio.Task[int] | None = None

    async def start(self) -> None:
        """Everything up to listening. Raises StartupError, with nothing left running."""
        settings = self._settings
        _require_c_parser()
        org_key = settings.org_key()
        listen, admin = address(settings.listen), address(settings.admin)
        loaded = load(settings.policies, time.time())
        self.log = Log(settings.log_format)
        self.metrics = Metrics()
        self.policies = PolicyStore(
            settings.policies, loaded, on_loaded=self._policy_loaded, on_failed=self._policy_failed
        )
        sweeper = Sweeper()
        clock, jitter = time.time, random.random
        self.upstream = Upstream(settings.upstream_url, org_key, sweeper, settings.max_in_flight + OWN_CONNECTIONS)
        self.ledger = self._open_ledger()  # what may still fail after it must close it
        self.jobs = Jobs(self.ledger, self.upstream, self.policies, self.log, clock, jitter)
        catalogue = Catalogue(self.upstream, self.log)
        self.services = Services(
            policies=self.policies,
            ledger=self.ledger,
            upstream=self.upstream,
            sweeper=sweeper,
            metrics=self.metrics,
            log=self.log,
            clock=clock,
            entropy=lambda: random.getrandbits(64).to_bytes(8, "big").hex(),  # ids must differ, not be secret
            jitter=jitter,
            buffers=Buffers(),
            health=Health(self.metrics.breaker),
            max_in_flight=settings.max_in_flight,
            jobs=self.jobs,
            catalogue=catalogue,
        )
        self.public = Listener(Exchanges(self.services).handle, connection_limit())
        self.admin = Listener(Admin(self.services, self.drain).handle, ADMIN_CONNECTIONS)
        try:
            await self.jobs.resume()  # before a client can ask for one of them
            await self.public.open(*listen)
            await self.admin.open(*admin)
        except StartupError:
            await self._close()
            raise
        self._begin(sweeper.run())
        self._begin(self.policies.watch())
        self._begin(self.jobs.run())
        self._begin(catalogue.run())
        self._policy_loaded(loaded)
        self.log.event(
            "ready",
            listen=self.public.address,
            admin=self.admin.address,
            upstream=settings.upstream_url,
            ledger=settings.ledger,
            durability=settings.durability,
            recovered_unresolved=self.ledger.recovered.unresolved,
            recovered_voided=self.ledger.recovered.voided,
            jobs=self.ledger.recovered.running,
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain and stop. SIGHUP reloads the policies."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await self._stop.wait()
        await self.stop()

    async def stop(self) -> None:
        """Accept nothing more, drain, settle, checkpoint."""
        self.public.stop_accepting()
        cut = await self.drain()
        await self._close()
        self.log.event("stopped", cut=cut)
        self.log.flush()

    def drain(self) -> asyncio.Task[int]:
        """Not ready, begin nothing more, finish what runs within the policy's `drain`, cut the rest with an error
        event. Begun once; the result is how many were cut."""
        if self._draining is None:
            self.services.draining = True
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        return self._draining

    async def _drain(self) -> int:
        running, drain_s = self.services.running, self.policies.policy.drain_s
        self.log.event("draining", running=len(running), seconds=drain_s)
        await _wait(running, drain_s)
        for task in running:
            task.cancel()
        cut = len(running)
        await _wait(running, CUT_S)
        return cut

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.public.close()
        await self.upstream.close()
        await self.ledger.close()
        await self.admin.close()

    def _open_ledger(self) -> SqliteLedger:
        loop = asyncio.get_running_loop()

        def on_defect(error: Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(self.log.error, "ledger_failed", error)

        settings = self._settings
        return open_ledger(settings.ledger, settings.durability, self.metrics.commit_seconds, on_defect)

    def _reload(self) -> None:
        self._begin(self.policies.reload())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """A task of the process's own. One that fails is told of, and the proxy stops: without it time-outs would pass
        or policies go stale, and nobody would know."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log.error("task_failed", error)
            self._stop.set()

    def _policy_loaded(self, loaded: Loaded) -> None:
        self.metrics.reload_failed.set(0)
        self.metrics.policy_loaded(loaded.policy)
        self.log.event("policy_loaded", version=loaded.policy.version, warnings=[str(w) for w in loaded.warnings])

    def _policy_failed(self, invalid: PolicyInvalid) -> None:
        self.metrics.reload_failed.set(1)
        self.log.error("policy_invalid", errors=[str(error) for error in invalid.errors])


def serve(settings: Settings, started: Callable[[Proxy], None] = lambda _: None) -> None:
    """Run a proxy to its end. `started` is called once it listens. Raises StartupError."""
    import uvloop

    async def main() -> None:
        proxy = Proxy(settings)
        await proxy.start()
        # What is alive now stays: it need not be looked at again whenever garbage is collected.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()
        started(proxy)
        await proxy.run()

    uvloop.run(main())


async def _wait(running: set[asyncio.Task[object]], seconds: float) -> None:
    if running:
        await asyncio.wait(running, timeout=seconds)


def _require_c_parser() -> None:
    """The pure-Python parser of aiohttp is a different, slower and laxer one."""
    if web.HttpRequestParser is web.HttpRequestParserPy:
        raise StartupError("aiohttp was installed without its C parser; install a wheel of it for this platform")
