"""The field `simulate` of a request: what this one request wants of the simulator."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .effects import KINDS
from .errors import ApiError
from .faults import Fault, FaultError, parse_fault

MOST_WORDS = 1_000_000
MOST_IMAGES = 1000
MOST_BYTES = 64 * 2**20
NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one request wants. None: as the simulator is set, or as the request says.

    `words` of a text; `images` really returned; `bytes` of a sound, sent `chunked`; `usage` also where the model
    would not report it; keys to `omit` from a JSON answer. Of a video job: `job_s` until it ends (NEVER if written as
    null), whether it is to `fail`, and what it turns out to be, `actual_seconds` and `actual_resolution`.
    """

    words: int | None = None
    pace_ms: float | None = None
    delay_ms: float = 0
    images: int | None = None
    job_s: float | None = None
    fail: bool = False
    actual_seconds: float | None = None
    actual_resolution: str | None = None
    bytes: int | None = None
    chunked: bool = False
    usage: bool = False
    omit: frozenset[str] = frozenset()
    fault: Fault | None = None


def read(value: object) -> Wishes:
    """The wishes in this JSON object; None has none. Raises ApiError 400."""
    if value is None:
        return Wishes()
    if not isinstance(value, dict):
        raise ApiError(400, "'simulate' must be an object")
    plain = {key: wish for key, wish in value.items() if key in CHECKS and not _of_the_fault(key, value)}
    fault = _fault({key: field for key, field in value.items() if key not in plain})
    wished: dict[str, object] = {}
    for key, wish in plain.items():
        fine, must_be = CHECKS[key]
        if wish is None and key == "job_s":
            wished[key] = NEVER
        elif wish is not None:
            if not fine(wish):
                raise ApiError(400, f"'simulate.{key}' must be {must_be}")
            wished[key] = frozenset(wish) if isinstance(wish, list) else wish
    return Wishes(**wished, fault=fault)  # type: ignore[arg-type]  # each value has just been checked


def _of_the_fault(key: str, value: Mapping[str, object]) -> bool:
    """Whether a name that is also a wish (`bytes`) belongs to the fault that is written beside it."""
    name = value.get("fault")
    return isinstance(name, str) and name in KINDS and key in KINDS[name].parameters


def _fault(fields: dict[str, object]) -> Fault | None:
    if not fields:
        return None
    if "fault" not in fields:
        raise ApiError(400, f"'simulate' takes {', '.join(CHECKS)} and fault; not {', '.join(sorted(fields))}")
    if alien := [key for key in ("times", "polls") if key in fields]:
        raise ApiError(400, f"'simulate' is for one request: {alien[0]} belongs to PUT /-/faults")
    try:
        return parse_fault(fields)
    except FaultError as error:
        raise ApiError(400, f"'simulate': {error}") from None


def _whole(most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


CHECKS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "words": (_whole(MOST_WORDS), f"a whole number, at most {MOST_WORDS}"),
    "pace_ms": (_amount, "a number of milliseconds, 0 or more"),
    "delay_ms": (_amount, "a number of milliseconds, 0 or more"),
    "images": (_whole(MOST_IMAGES), f"a whole number, at most {MOST_IMAGES}"),
    "job_s": (_amount, "a number of seconds, 0 or more, or null: it never ends by itself"),
    "fail": (_flag, "true or false"),
    "actual_seconds": (_amount, "a number of seconds, 0 or more"),
    "actual_resolution": (_text, "a text such as 1080p"),
    "bytes": (_whole(MOST_BYTES), f"a whole number, at most {MOST_BYTES}"),
    "chunked": (_flag, "true or false"),
    "usage": (_flag, "true or false"),
    "omit": (_texts, "an array of the keys to leave out"),
}
