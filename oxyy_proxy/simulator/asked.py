"""Reads a request body: which model, what the caller wishes of the simulator, and the seed of its answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import orjson

from .errors import ApiError
from .faults import Fault, FaultError, parse_fault

NOT_PART_OF_THE_SEED = ("stream", "stream_options", "simulate")
"""So that the same question gets the same answer, streamed or not, and however a proxy asks for the usage."""

MOST_WORDS = 1_000_000
WISHES = ("words", "pace_ms", "delay_ms")


@dataclass(frozen=True, slots=True)
class Wishes:
    """The body field `simulate`: what one request wants. None: as the simulator is set."""

    words: int | None = None
    pace_ms: float | None = None
    delay_ms: float = 0
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request body that is JSON and names a model."""

    body: dict[str, object]
    model: str
    stream: bool
    seed: bytes
    wishes: Wishes


def read(raw: bytes) -> Asked:
    """The request in these bytes. Raises ApiError 400."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}", "invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object", "invalid_json")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter", "missing_required_parameter")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise ApiError(400, "'stream' must be true or false")
    return Asked(body, model, bool(stream), _seed(body, raw), _wishes(body.get("simulate")))


def count(body: dict[str, object], key: str, least: int = 0) -> int | None:
    """A whole number from the body, None if absent or null. Raises ApiError 400."""
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ApiError(400, f"'{key}' must be a whole number of at least {least}")
    return value


def _seed(body: dict[str, object], raw: bytes) -> bytes:
    question = {key: value for key, value in body.items() if key not in NOT_PART_OF_THE_SEED}
    try:
        canonical = orjson.dumps(question, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # orjson reads 1,024 levels but writes 254
        canonical = raw
    return hashlib.blake2b(canonical, digest_size=16).digest()


def _wishes(value: object) -> Wishes:
    if value is None:
        return Wishes()
    if not isinstance(value, dict):
        raise ApiError(400, "'simulate' must be an object")
    fault_fields = {key: field for key, field in value.items() if key not in WISHES}
    if fault_fields and "fault" not in fault_fields:
        raise ApiError(400, f"'simulate' takes {', '.join(WISHES)} and fault; not {', '.join(sorted(fault_fields))}")
    if "times" in fault_fields:
        raise ApiError(400, "'simulate' is for one request: times belongs to PUT /-/faults")
    try:
        fault = parse_fault(fault_fields) if fault_fields else None
    except FaultError as error:
        raise ApiError(400, f"'simulate': {error}") from None
    words = count(value, "words")
    if words is not None and words > MOST_WORDS:
        raise ApiError(400, f"'words' must be at most {MOST_WORDS}")
    return Wishes(words, _milliseconds(value, "pace_ms"), _milliseconds(value, "delay_ms") or 0, fault)


def _milliseconds(value: dict[str, object], key: str) -> float | None:
    number = value.get(key)
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float) or number < 0:
        raise ApiError(400, f"'simulate.{key}' must be a number of milliseconds, 0 or more")
    return number
