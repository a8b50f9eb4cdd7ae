"""The records that policies, decisions and the ledger speak in. None changes, none has behaviour that needs a clock.

Those that every request makes are not `frozen`, which would make them five times as dear: there `Final` has the type
checker see to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from typing import Final, Literal, Protocol

Meter = Literal["usd", "tokens", "requests", "concurrent"]
Per = Literal["minute", "hour", "day", "month"]
UsageSource = Literal["upstream", "computed", "estimated"]

NUSD_PER_USD = 1_000_000_000
"""nano-USD in one USD."""

PRICE_SCALE = 1_000_000
"""Prices are kept as nano-USD per this many units, so that prices per million tokens stay integers."""


@dataclass(slots=True)
class Usage:
    """What one answer consumed, or may consume. Cached, audio and image tokens are parts of `input_tokens` and
    `output_tokens`. `quality` and `size` choose the variant of a price by image; `size` is a video's resolution; empty
    where it is not known."""

    input_tokens: Final[int] = 0
    cached_input_tokens: Final[int] = 0
    audio_input_tokens: Final[int] = 0
    output_tokens: Final[int] = 0
    audio_output_tokens: Final[int] = 0
    source: Final[UsageSource] = "upstream"
    image_input_tokens: Final[int] = 0
    image_output_tokens: Final[int] = 0
    images: Final[int] = 0
    video_ms: Final[int] = 0
    audio_ms: Final[int] = 0
    characters: Final[int] = 0
    quality: Final[str] = ""
    size: Final[str] = ""

    @property
    def tokens(self) -> int:
        """All tokens, as limits with `meter: tokens` count them."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Price:
    """What a unit of a model costs: nano-USD per `PRICE_SCALE` units; `variants` by quality:size, size, quality or
    resolution, in lower case."""

    default: int
    variants: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """A model of models.yaml. `prices` is keyed by unit: input, cached_input, output, audio_input, request …"""

    name: str
    endpoints: frozenset[str]
    prices: Mapping[str, Price]
    max_output_tokens: int | None = None
    fallbacks: tuple[str, ...] = ()
    first_byte_s: float | None = None
    answer_s: float | None = None
    default_seconds: int | None = None
    """Of a video whose length the request does not name."""
    max_seconds: int | None = None
    """Of a video; a request for more is refused."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A cap. `id` is everything but the cap, so that changing a cap keeps what is spent.

    `cap` is nano-USD for `usd`, else a count. `per` is None for `concurrent` alone. `team` None: the organisation;
    `key` None: every key; `models` are globs, empty: every model.
    """

    id: str
    meter: Meter
    per: Per | None
    cap: int
    zone: tzinfo
    team: str | None = None
    key: str | None = None
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Key:
    """A team key; only its SHA-256 (lower-case hex) is known. `expires_at`: the first second it no longer works."""

    id: str
    sha256: str
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Team:
    """A team file. `fallbacks` replaces a model's chain for this team; an empty chain turns failover off."""

    name: str
    cost_center: str
    keys: tuple[Key, ...]
    allow: tuple[str, ...]
    deny: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls."""

    team: Team
    key: Key


@dataclass(frozen=True, slots=True)
class Retry:
    """How failover behaves; spans in seconds. `on`: upstream statuses that move on to the next target."""

    on: frozenset[int] = frozenset({500, 503})
    attempts: int = 3
    deadline_s: float = 600.0
    first_byte_s: float = 60.0
    answer_s: float = 300.0
    idle_s: float = 60.0
    budget_percent: int = 20
    """Retries and fallbacks, as a share of recent requests; a few more are allowed in any case."""


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a model is not called any more; spans in seconds. `slow_s`: an answer whose first byte takes longer counts
    as a failure, None: none does."""

    failures: int = 5
    window_s: float = 30.0
    open_for_s: float = 15.0
    slow_s: float | None = None


@dataclass(frozen=True, slots=True)
class PartTokens:
    """Input tokens held for a part of a message that is not text, whatever its bytes."""

    image: int = 1600
    audio: int = 4000
    file: int = 20000


@dataclass(frozen=True, slots=True)
class Policy:
    """All policy files of one folder at one instant. `version`: a fingerprint of their bytes."""

    version: str
    models: Mapping[str, Model]
    teams: Mapping[str, Team]
    keys: Mapping[str, Principal]
    """sha256 hex of a team key -> who it is."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    default_models: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    """Limits of the organisation, over all teams."""
    retry: Retry = field(default_factory=Retry)
    breaker: BreakerPolicy = field(default_factory=BreakerPolicy)
    part_tokens: PartTokens = field(default_factory=PartTokens)
    on_disconnect: Literal["drain", "cancel"] = "drain"
    drain_s: float = 30.0
    allow_internal_urls: bool = False
    """Whether a URL in a request may name an internal host, which the upstream would then fetch."""
    video_job_timeout_s: float = 86_400.0


class Policies(Protocol):
    """Where the policy in force is found; a request takes one snapshot and keeps it."""

    @property
    def policy(self) -> Policy: ...


@dataclass(slots=True)
class Target:
    """A model that may answer, with the worst it can cost for the request at hand."""

    model: Final[Model]
    worst_nusd: Final[int]
    worst_tokens: Final[int]


@dataclass(slots=True)
class Plan:
    """What was decided: the chain of targets in order, and the limits that watch it."""

    model_requested: Final[str]
    targets: Final[tuple[Target, ...]]
    limits: Final[tuple[Limit, ...]]
