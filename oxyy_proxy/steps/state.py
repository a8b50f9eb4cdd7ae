"""What the steps share: the services of the process, and the state of one request."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final

from oxyy_proxy.catalogue import Catalogue
from oxyy_proxy.endpoints.base import Ask, Endpoint
from oxyy_proxy.jobs import Jobs
from oxyy_proxy.ledger.base import Ledger
from oxyy_proxy.observe import Log, Metrics
from oxyy_proxy.rules.budget import Watch
from oxyy_proxy.rules.types import Plan, Policies, Policy, Principal, Usage
from oxyy_proxy.steps.health import Health
from oxyy_proxy.sweep import Sweeper
from oxyy_proxy.uploads import Buffers, Upload
from oxyy_proxy.upstream import Upstream


@dataclass(slots=True)
class Services:
    """What lives as long as the process. `clock`: epoch seconds; `entropy`: 16 hex digits; `jitter`: [0, 1)."""

    policies: Policies
    ledger: Ledger
    upstream: Upstream
    sweeper: Sweeper
    metrics: Metrics
    log: Log
    clock: Callable[[], float]
    entropy: Callable[[], str]
    jitter: Callable[[], float]
    buffers: Buffers
    health: Health
    jobs: Jobs
    catalogue: Catalogue
    max_in_flight: int
    draining: bool = False
    running: set[asyncio.Task[object]] = field(default_factory=set)
    of_team: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """How many requests of each team are being served."""


@dataclass(slots=True)
class Call(Plan):
    """A plan with whose it is: who calls what."""

    principal: Final[Principal]
    endpoint: Final[Endpoint]
    ask: Final[Ask]


@dataclass(slots=True)
class Exchange:
    """One request, from its head to the end of its answer, and how it goes. `started_at` is the epoch's time, `started`
    `time.monotonic()`'s, which is finer than uvloop's milliseconds. Empty strings stand for what the request did not
    come to."""

    request_id: str
    started_at: float
    started: float
    policy: Policy
    deadline: float = inf
    """`time.monotonic()` until when an answer must have begun: the policy's, or the client's own if that is sooner."""
    client_retries: bool = False
    """Whether this is a second try of the client's own."""
    forwarded: str = ""
    """The client's headers that go upstream, Accept and User-Agent, as lines that end in CRLF."""
    client_request_id: str = ""
    tag: str | None = None
    team: str = ""
    key_id: str = ""
    endpoint: str = ""
    model_requested: str = ""
    model_label: str = ""
    """The model that was to be asked first; from the policy, so fit for a metric's label."""
    stream: bool = False
    watch: Watch | None = None
    remaining: tuple[int, ...] = ()
    """What each limit of `watch` had left when the request was held for."""
    attempts: int = 0
    model_served: str | None = None
    status: int = 0
    error_code: str | None = None
    usage: Usage | None = None
    cost_nusd: int = 0
    duration_s: float = 0.0
    """Known at the end."""
    first_byte_s: float | None = None
    upstream_s: float = 0.0
    upload: Upload | None = None
    """The body, where it did not come with the head."""
    committed: bool = False
    """Whether the answer has begun: nothing else may be answered then."""
