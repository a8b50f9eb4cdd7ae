"""The fields of the policy files: their shapes, before anything is checked across fields or files.

Every leaf has a validator of its own, for two reasons: nothing is coerced (`cap: "5"` is an error), and every message
says what is expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from decimal import Decimal
from typing import Annotated, ClassVar, Literal, TypeVar
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from oxyy_proxy.policyfiles.document import MAX_NUMBER_CHARS
from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE, Meter, Per

Endpoint = Literal["chat", "embeddings", "images", "image_edits", "videos", "transcriptions", "speech"]

ORGANISATION = "organisation"
"""What limits over all teams are called; no team may have this name."""

MAX_SPAN_S = 7 * 24 * 3600
MAX_COUNT = 10**15
MAX_PRICE = Decimal(10**6)
MAX_USD = Decimal(10**9)
"""One billion USD is 10^18 nano-USD; sums of a few still fit the 64 bits of a database column."""

_SPAN = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_MODEL = re.compile(r"[^\s,*?\[\]]{1,128}")
_GLOB = re.compile(r"[^\s,]{1,128}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def shown(value: object) -> str:
    """A value as a message quotes it: short, on one line, and naming its kind where that is the mistake."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return repr(value[:60])
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case date():
            return f"the date {value}"
        case _:
            return str(value)


def _text(value: object) -> str:
    if isinstance(value, str) and value.isprintable():
        return value
    quotes = "" if value is None or isinstance(value, str | dict | list) else "; put it in quotes"
    raise ValueError(f"expected text on one line, got {shown(value)}{quotes}")


def _matching(pattern: re.Pattern[str], expected: str) -> Callable[[object], str]:
    def validate(value: object) -> str:
        text = _text(value)
        if not pattern.fullmatch(text):
            raise ValueError(f"expected {expected}, got {shown(text)}")
        return text

    return validate


def _number(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError(f"expected a number, got {_unlike_number(value)}")
    return Decimal(value)


def _unlike_number(value: object) -> str:
    return f"the text {shown(value)}" if isinstance(value, str) else shown(value)


def _whole(least: int, most: int = MAX_COUNT) -> Callable[[object], int]:
    def validate(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"expected a whole number from {least} to {most}, got {_unlike_number(value)}")
        return value

    return validate


def _span(*, zero: bool) -> Callable[[object], float]:
    expected = f"a time such as 500ms, 60s, 10m or 2h, {'from 0' if zero else 'above 0'} and at most 7 days"

    def validate(value: object) -> float:
        seconds: Decimal | None = None
        if isinstance(value, str) and (match := _SPAN.fullmatch(value)):
            seconds = Decimal(match[1]) * _SECONDS[match[2]]
        elif isinstance(value, int | Decimal) and not isinstance(value, bool):
            seconds = Decimal(value)
        if seconds is None or not 0 <= seconds <= MAX_SPAN_S or not (zero or float(seconds)):
            raise ValueError(f"expected {expected}, got {shown(value)}")
        return float(seconds)

    return validate


def _zone(value: object) -> ZoneInfo:
    name = _text(value)
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"unknown time zone {shown(name)}; expected a name such as UTC or Europe/Berlin") from None


def _day(value: object) -> date:
    expected = ValueError(f"expected a date such as 2027-06-30, got {shown(value)}")
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            raise expected from None
    if not isinstance(value, date) or not 2000 <= value.year <= 9000:
        raise expected
    return value


def _sha256(value: object) -> str:
    # The value is not quoted: by mistake it may be the key itself.
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError("expected the SHA-256 of the key, 64 hex digits in quotes; 'oxyy-proxy keys new ID' prints it")
    return value.lower()


def _version(value: object) -> int:
    if isinstance(value, bool) or value != 1:
        raise ValueError(f"expected 1, the only version of this file there is, got {shown(value)}")
    return 1


def _mode(value: object) -> str:
    if value == "shadow":
        raise ValueError("mode: shadow is not available in this version; allowed: enforce")
    if value != "enforce":
        raise ValueError(f"expected enforce, got {shown(value)}")
    return "enforce"


def _amount(units: int, decimals: int) -> Callable[[object], int]:
    """Validates a price in USD for `units` units -> nano-USD per `PRICE_SCALE` units."""

    def validate(value: object) -> int:
        amount = scaled(_number(value), NUSD_PER_USD * PRICE_SCALE // units, MAX_PRICE)
        if amount is None:
            span = f"a price in USD from 0 to {MAX_PRICE} with at most {decimals} decimals"
            raise ValueError(f"expected {span}, got {shown(value)}")
        return amount

    return validate


def scaled(number: Decimal, scale: int, most: Decimal) -> int | None:
    """`number` × `scale`, exactly; None if it is negative, above `most`, or has more decimals than fit."""
    if number == 0:
        return 0
    # The exponent is looked at first: written out, 1e-999999999 would fill the memory.
    if not 0 < number <= most or number.adjusted() < -MAX_NUMBER_CHARS:
        return None
    above, below = number.as_integer_ratio()
    whole, rest = divmod(above * scale, below)
    return whole if rest == 0 else None


def _with_variants(value: object) -> object:
    return value if isinstance(value, dict) else {"default": value}


def _with_default(value: dict[str, int]) -> dict[str, int]:
    if "default" not in value:
        raise ValueError("the field 'default' is missing: the price where no variant fits")
    return value


class _Dropped:
    """Stands for an item of a list that was reported already, so that the others keep their indexes."""


DROPPED = _Dropped()

ItemT = TypeVar("ItemT")


def remaining(items: Iterable[ItemT]) -> Iterator[tuple[int, ItemT]]:
    """Index and item of those that are not `DROPPED`."""
    return ((index, item) for index, item in enumerate(items) if item is not DROPPED)


def _unless_dropped(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    return value if value is DROPPED else validate(value)


def _statuses(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 400 <= value <= 599:
        raise ValueError(f"expected an HTTP status from 400 to 599, got {shown(value)}")
    return value


Text = Annotated[str, PlainValidator(_text)]
PerMillion = Annotated[
    dict[Text, Annotated[int, PlainValidator(_amount(PRICE_SCALE, 9))]],
    BeforeValidator(_with_variants),
    AfterValidator(_with_default),
]
PerOne = Annotated[
    dict[Text, Annotated[int, PlainValidator(_amount(1, 15))]],
    BeforeValidator(_with_variants),
    AfterValidator(_with_default),
]
Version = Annotated[int, PlainValidator(_version)]
Name = Annotated[str, PlainValidator(_matching(_NAME, "a name of letters, digits, '.', '_' and '-', at most 64"))]
ModelName = Annotated[
    str, PlainValidator(_matching(_MODEL, "a model's name, without blanks, commas, *, ? or brackets"))
]
Glob = Annotated[str, PlainValidator(_matching(_GLOB, "a model's name or pattern, without blanks or commas"))]
Number = Annotated[Decimal, PlainValidator(_number)]
Span = Annotated[float, PlainValidator(_span(zero=False))]
SpanOrZero = Annotated[float, PlainValidator(_span(zero=True))]
Zone = Annotated[ZoneInfo, PlainValidator(_zone)]
Day = Annotated[date, PlainValidator(_day)]
Sha256 = Annotated[str, PlainValidator(_sha256)]
Status = Annotated[int, PlainValidator(_statuses)]
Positive = Annotated[int, PlainValidator(_whole(1))]
Count = Annotated[int, PlainValidator(_whole(0))]


class Spec(BaseModel):
    """A mapping in which only the fields of its class may stand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    independent: ClassVar[tuple[str, ...]] = ()
    """Fields that are mappings whose entries stand each for itself: one may be wrong and the others be checked."""


class LimitSpec(Spec):
    meter: Meter
    per: Per | None = None
    cap: Number
    timezone: Zone | None = None
    models: Annotated[list[Glob], Field(min_length=1)] | None = None
    key: Name | None = None


class RetrySpec(Spec):
    on: Annotated[list[Status], Field(min_length=1)] = [500, 503]
    attempts: Annotated[int, PlainValidator(_whole(1, 20))] = 3
    deadline: Span = 600.0
    first_byte: Span = 60.0
    answer: Span = 300.0
    idle: Span = 60.0
    budget_percent: Annotated[int, PlainValidator(_whole(0, 100))] | None = None


class BreakerSpec(Spec):
    failures: Positive = 5
    window: Span = 30.0
    open_for: Span = 15.0


class GatewaySpec(Spec):
    version: Version = 1
    timezone: Zone = ZoneInfo("UTC")
    limits: list[Annotated[LimitSpec, WrapValidator(_unless_dropped)]] = []
    retry: RetrySpec = RetrySpec()
    breaker: BreakerSpec | None = None
    on_disconnect: Literal["drain", "cancel"] = "drain"
    drain: SpanOrZero = 30.0


class PriceSpec(Spec):
    input: PerMillion | None = None
    cached_input: PerMillion | None = None
    output: PerMillion | None = None
    audio_input: PerMillion | None = None
    audio_output: PerMillion | None = None
    image_input: PerMillion | None = None
    image_output: PerMillion | None = None
    character: PerMillion | None = None
    image: PerOne | None = None
    video_second: PerOne | None = None
    audio_minute: PerOne | None = None
    request: PerOne | None = None

    def units(self) -> dict[str, dict[str, int]]:
        """Unit -> variant -> nano-USD per `PRICE_SCALE` units, of the units that have a price."""
        return {unit: given for unit, given in self if given is not None}


class ModelSpec(Spec):
    endpoints: Annotated[list[Endpoint], Field(min_length=1)]
    price: PriceSpec = PriceSpec()
    max_output_tokens: Positive | None = None
    fallbacks: list[ModelName] = []
    first_byte: Span | None = None
    answer: Span | None = None
    default_seconds: Positive | None = None
    max_seconds: Positive | None = None


class PartTokensSpec(Spec):
    image: Count = 1600
    audio: Count = 4000
    file: Count = 20000


class ModelsSpec(Spec):
    independent = ("models", "aliases", "default_models")

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
    independent = ("fallbacks",)

    version: Version = 1
    team: Name
    cost_center: Text = ""
    keys: list[Annotated[KeySpec, WrapValidator(_unless_dropped)]] = []
    models: AccessSpec
    limits: list[Annotated[LimitSpec, WrapValidator(_unless_dropped)]] = []
    fallbacks: dict[ModelName, list[ModelName]] = {}
    mode: Annotated[str, PlainValidator(_mode)] = "enforce"
