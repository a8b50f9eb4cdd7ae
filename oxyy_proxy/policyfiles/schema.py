"""The fields of the policy files: their shapes, before anything is checked across fields or files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator, field_validator

from oxyy_proxy.policyfiles.values import (
    Attempts,
    Count,
    Day,
    Flag,
    Glob,
    JobSpan,
    Mode,
    ModelName,
    Name,
    Number,
    OutputTokens,
    Percent,
    PerMillion,
    PerOne,
    Positive,
    Sha256,
    Span,
    SpanOrZero,
    Status,
    Text,
    Version,
    VideoSeconds,
    Zone,
)
from oxyy_proxy.rules.types import Meter, Per

Endpoint = Literal["chat", "embeddings", "images", "image_edits", "videos", "transcriptions", "speech"]

ORGANISATION = "organisation"
"""What limits over all teams are called; no team may have this name."""


class _Dropped:
    """Stands for an item of a list that was reported already, so that the others keep their indexes."""


DROPPED = _Dropped()

ItemT = TypeVar("ItemT")


def remaining(items: Iterable[ItemT]) -> Iterator[tuple[int, ItemT]]:
    """Index and item of those that are not `DROPPED`."""
    return ((index, item) for index, item in enumerate(items) if item is not DROPPED)


def _unless_dropped(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    return value if value is DROPPED else validate(value)


class Spec(BaseModel):
    """A mapping in which only the fields of its class may stand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    separable: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Parts of a file that may be wrong while what is around them can still be checked; `*` is any key or index."""

    @field_validator("*", mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        if value is None:
            raise ValueError("expected a value, got nothing; to leave the field out, delete its name too")
        return value


class LimitSpec(Spec):
    meter: Meter
    per: Per | None = None
    cap: Number
    timezone: Zone | None = None
    models: Annotated[list[Glob], Field(min_length=1)] | None = None
    key: Name | None = None


class RetrySpec(Spec):
    on: Annotated[list[Status], Field(min_length=1)] = [500, 503]
    attempts: Attempts = 3
    deadline: Span = 600.0
    first_byte: Span = 60.0
    answer: Span = 300.0
    idle: Span = 60.0
    budget_percent: Percent = 20


class BreakerSpec(Spec):
    failures: Positive = 5
    window: Span = 30.0
    open_for: Span = 15.0
    slow: Span | None = None


class GatewaySpec(Spec):
    separable = (("limits", "*"), ("retry", "*"))

    version: Version = 1
    timezone: Zone = ZoneInfo("UTC")
    limits: list[Annotated[LimitSpec, WrapValidator(_unless_dropped)]] = []
    retry: RetrySpec = RetrySpec()
    breaker: BreakerSpec = BreakerSpec()
    on_disconnect: Literal["drain", "cancel"] = "drain"
    drain: SpanOrZero = 30.0
    allow_internal_urls: Flag = False
    video_job_timeout: JobSpan = 86_400.0


class PriceSpec(Spec):
    input: PerMillion = {}
    cached_input: PerMillion = {}
    output: PerMillion = {}
    audio_input: PerMillion = {}
    audio_output: PerMillion = {}
    image_input: PerMillion = {}
    image_output: PerMillion = {}
    character: PerMillion = {}
    image: PerOne = {}
    video_second: PerOne = {}
    audio_minute: PerOne = {}
    request: PerOne = {}

    def units(self) -> dict[str, dict[str, int]]:
        """Unit -> variant -> nano-USD per `PRICE_SCALE` units, of the units that have a price."""
        return {unit: given for unit, given in self if given}


class ModelSpec(Spec):
    endpoints: Annotated[list[Endpoint], Field(min_length=1)]
    price: PriceSpec = PriceSpec()
    max_output_tokens: OutputTokens | None = None
    fallbacks: list[ModelName] = []
    first_byte: Span | None = None
    answer: Span | None = None
    default_seconds: VideoSeconds | None = None
    max_seconds: VideoSeconds | None = None


class PartTokensSpec(Spec):
    image: Count = 1600
    audio: Count = 4000
    file: Count = 20000


class ModelsSpec(Spec):
    separable = (
        ("models", "*"),
        ("models", "*", "price"),
        ("models", "*", "price", "*"),
        ("models", "*", "fallbacks"),
        ("models", "*", "max_output_tokens"),
        ("models", "*", "first_byte"),
        ("models", "*", "answer"),
        ("models", "*", "default_seconds"),
        ("models", "*", "max_seconds"),
        ("aliases", "*"),
        ("default_models", "*"),
        ("part_tokens", "*"),
    )

    version: Version = 1
    models: dict[ModelName, ModelSpec]
    aliases: dict[ModelName, ModelName] = {}
    default_models: dict[Endpoint, ModelName] = {}
    part_tokens: PartTokensSpec = PartTokensSpec()


class KeySpec(Spec):
    id: Name
    sha256: Sha256
    expires: Day | None = None


class AccessSpec(Spec):
    allow: list[Glob]
    deny: list[Glob] = []


class TeamSpec(Spec):
    separable = (("keys", "*"), ("limits", "*"), ("fallbacks", "*"))

    version: Version = 1
    team: Name
    cost_center: Text = ""
    keys: list[Annotated[KeySpec, WrapValidator(_unless_dropped)]] = []
    models: AccessSpec
    limits: list[Annotated[LimitSpec, WrapValidator(_unless_dropped)]] = []
    fallbacks: dict[ModelName, list[ModelName]] = {}
    mode: Mode = "enforce"
