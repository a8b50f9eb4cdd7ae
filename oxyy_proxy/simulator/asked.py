"""Reads a request body: which model, what the caller wishes of the simulator, and the seed of its answer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import orjson

from . import uploads, wishes
from .errors import ApiError
from .forms import Form
from .uploads import File
from .wishes import Wishes

NOT_PART_OF_THE_SEED = ("stream", "stream_options", "simulate")
"""So that the same question gets the same answer, streamed or not, and however a proxy asks for the usage."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request body that names a model, JSON or a form. `files` are its parts or its base64 fields, decoded.

    `by_tokens`: the model's price list has a price for input tokens, so that its answers report tokens.
    """

    body: dict[str, object]
    model: str
    stream: bool
    seed: bytes
    wishes: Wishes
    files: tuple[File, ...] = ()
    by_tokens: bool = False


def read(raw: bytes) -> Asked:
    """The request in these bytes of JSON. Raises ApiError 400."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}", "invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "The body must be a JSON object", "invalid_json")
    return _asked(body, tuple(uploads.of_base64(body)), _seed(body, raw))


def of_form(form: Form) -> Asked:
    """The request in this form. Raises ApiError 400."""
    fingerprint = [[file.part, hashlib.sha256(file.data).hexdigest()] for file in form.files]
    return _asked(form.fields, form.files, _seed({**form.fields, "": fingerprint}, b""))


def count(body: dict[str, object], key: str, least: int = 0) -> int | None:
    """A whole number from the body, None if absent or null. Raises ApiError 400."""
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ApiError(400, f"'{key}' must be a whole number of at least {least}")
    return value


def text(body: dict[str, object], key: str) -> str:
    """A text from the body, empty if absent or null. Raises ApiError 400."""
    value = body.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ApiError(400, f"'{key}' must be a text")
    return value


def required(body: dict[str, object], key: str) -> str:
    """A text that must be there and not empty. Raises ApiError 400."""
    found = text(body, key)
    if not found:
        raise ApiError(400, f"you must provide a {key} parameter", "missing_required_parameter")
    return found


def _asked(body: dict[str, object], files: tuple[File, ...], seed: bytes) -> Asked:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "you must provide a model parameter", "missing_required_parameter")
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise ApiError(400, "'stream' must be true or false")
    return Asked(body, model, bool(stream), seed, wishes.read(body.get("simulate")), files)


def _seed(body: dict[str, object], raw: bytes) -> bytes:
    question = {key: value for key, value in body.items() if key not in NOT_PART_OF_THE_SEED}
    try:
        canonical = orjson.dumps(question, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # orjson reads 1,024 levels but writes 254
        canonical = raw
    return hashlib.blake2b(canonical, digest_size=16).digest()
