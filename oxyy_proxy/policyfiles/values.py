"""The values that stand in policy files: texts, numbers, spans, prices …

Each is a type of its own that pydantic validates, for two reasons: nothing is coerced (`cap: "5"` is an error), and
every message says what is expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainValidator,
)

from oxyy_proxy.policyfiles.document import MAX_NUMBER_CHARS
from oxyy_proxy.rules.types import NUSD_PER_USD, PRICE_SCALE

MAX_SPAN_S = 7 * 24 * 3600
MIN_JOB_S = 60
MAX_COUNT = 10**15
MAX_TOKENS = 10**7
MAX_VIDEO_SECONDS = 7200
"""With these two, the dearest request there can be still fits the 64 bits of a database column."""

MAX_PRICE = Decimal(10**6)
MAX_USD = Decimal(10**9)
"""One billion USD is 10^18 nano-USD; sums of a few still fit the 64 bits of a database column."""

_SPAN = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h)", re.ASCII)
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
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


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {_unlike_number(value)}")
    return value


def _span(least: str, least_s: float) -> Callable[[object], float]:
    """Validates a time -> seconds. `least` is `least_s`, the smallest that is taken, in words."""
    expected = f"a time such as 500ms, 60s, 10m or 2h, {least} and at most 7 days"

    def validate(value: object) -> float:
        seconds: Decimal | None = None
        if isinstance(value, str) and (match := _SPAN.fullmatch(value)):
            seconds = Decimal(match[1]) * _SECONDS[match[2]]
        elif isinstance(value, int | Decimal) and not isinstance(value, bool):
            seconds = Decimal(value)
        if seconds is None or not 0 <= seconds <= MAX_SPAN_S or float(seconds) < least_s:
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
Name = Annotated[str, PlainValidator(_matching(NAME, "a name of letters, digits, '.', '_' and '-', at most 64"))]
ModelName = Annotated[
    str, PlainValidator(_matching(_MODEL, "a model's name, without blanks, commas, *, ? or brackets"))
]
Glob = Annotated[str, PlainValidator(_matching(_GLOB, "a model's name or pattern, without blanks or commas"))]
Number = Annotated[Decimal, PlainValidator(_number)]
Flag = Annotated[bool, PlainValidator(_flag)]
Span = Annotated[float, PlainValidator(_span("above 0", math.ulp(0.0)))]
SpanOrZero = Annotated[float, PlainValidator(_span("from 0", 0))]
JobSpan = Annotated[float, PlainValidator(_span("from 1m", MIN_JOB_S))]
Zone = Annotated[ZoneInfo, PlainValidator(_zone)]
Day = Annotated[date, PlainValidator(_day)]
Sha256 = Annotated[str, PlainValidator(_sha256)]
Status = Annotated[int, PlainValidator(_statuses)]
Positive = Annotated[int, PlainValidator(_whole(1))]
OutputTokens = Annotated[int, PlainValidator(_whole(1, MAX_TOKENS))]
VideoSeconds = Annotated[int, PlainValidator(_whole(1, MAX_VIDEO_SECONDS))]
Count = Annotated[int, PlainValidator(_whole(0, MAX_TOKENS))]
Attempts = Annotated[int, PlainValidator(_whole(1, 20))]
Percent = Annotated[int, PlainValidator(_whole(0, 100))]
Mode = Annotated[str, PlainValidator(_mode)]
