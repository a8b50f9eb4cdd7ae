"""What every endpoint provides, and the checks they share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson

from oxyy_proxy.errors import InvalidValue, UpstreamBadResponse, UpstreamErrorAnswer, UpstreamFailure
from oxyy_proxy.rules.price import worst_nusd
from oxyy_proxy.rules.types import Model, PartTokens, Target, Usage

MAX_JSON_BYTES = 32 * 1024 * 1024
"""The largest JSON body that is taken."""

MAX_INT = 2**31 - 1
"""The most that a count may be, asked for or consumed, so that no sum or cost overflows a 64-bit column."""


class StreamMeter(Protocol):
    """Reads a stream on its way to the client: `feed` takes what came and returns what may go on now.

    `started`: a real event was seen (the commit point). `failure`: what came instead of one, or an error event among
    them. `ended`: the stream said that it is over. `farewell`: bytes to be sent once the settlement is durable.
    `usage`: what the upstream said. `output_bytes`: UTF-8 bytes of generated text so far, for an estimate. `mid_event`:
    the client has the beginning of an event and not its end.
    """

    started: bool
    ended: bool
    failure: UpstreamFailure | None
    usage: Usage | None
    farewell: bytes
    output_bytes: int

    @property
    def mid_event(self) -> bool: ...

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes:
        """The upstream is at its end: what was kept of an unfinished event."""
        ...


class Answer(NamedTuple):
    """A whole answer, read: `usage` is None where the upstream did not say; `output_bytes` of generated text."""

    usage: Usage | None
    output_bytes: int


class Ask(Protocol):
    """A parsed request body."""

    model: str | None
    stream: bool

    def worst_tokens(self, model: Model, parts: PartTokens) -> tuple[int, int]:
        """The most input and output tokens that this model can consume for the request."""
        ...

    def body_for(self, model: str) -> bytes:
        """The body to send upstream for this model: the client's bytes save what must change."""
        ...

    def read(self, body: bytes) -> Answer:
        """A whole 200 answer. Raises UpstreamBadResponse (ambiguous) or UpstreamErrorAnswer (costs nothing)."""
        ...

    def meter(self) -> StreamMeter: ...

    def likely_usage(self, parts: PartTokens, output_bytes: int) -> Usage:
        """What was probably consumed, where the upstream did not say; never zero."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One modality. `units`: prices without which it cannot be charged."""

    name: str
    path: str
    units: frozenset[str]
    max_body_bytes: int
    parse: Callable[[bytes], Ask]


def target(ask: Ask, model: Model, parts: PartTokens) -> Target:
    """The model as a target of this request, with its worst case."""
    tokens_in, tokens_out = ask.worst_tokens(model, parts)
    return Target(model, worst_nusd(tokens_in, tokens_out, model.prices), tokens_in + tokens_out)


def optional_int(members: dict[str, Any], name: str, *, least: int, most: int = MAX_INT) -> int | None:
    """The integer member `name`, None where absent or null. Raises InvalidValue."""
    value = members.get(name)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= most:
        raise InvalidValue(f"'{name}' must be an integer from {least} to {most}.", param=name)
    return value


def optional(members: dict[str, Any], name: str, kind: type | tuple[type, ...], noun: str) -> Any:
    """The member `name` if it has the right type, None where absent or null. Raises InvalidValue."""
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InvalidValue(f"'{name}' must be {noun}.", param=name)
    return value


def model_of(members: dict[str, Any]) -> str | None:
    """The model asked for; None where the body names none, for a policy's default. Raises InvalidValue."""
    model = optional(members, "model", str, "a string")
    if model == "":
        raise InvalidValue("'model' is empty. Name one of the models that GET /v1/models lists.", param="model")
    return model  # type: ignore[no-any-return]


def read_object(body: bytes) -> dict[str, Any]:
    """A 200 answer as an object. Raises UpstreamBadResponse; UpstreamErrorAnswer where the object is an error."""
    answer = read_json(body)
    if not isinstance(answer, dict):
        raise UpstreamBadResponse("The upstream's answer was not a JSON object. Retry.")
    if answer.get("error"):
        raise error_answer(answer["error"])
    return answer


def read_json(data: bytes) -> Any:
    """JSON as upstreams write it; None where it is not JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # Models are cut in the middle of a surrogate pair, and log-probabilities may be -Infinity: orjson refuses
        # both, and the clients' parsers do not.
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None


def error_answer(error: object) -> UpstreamErrorAnswer:
    """The failure for an error that came with status 200."""
    said = error.get("message") if isinstance(error, dict) else error
    return UpstreamErrorAnswer(f"The upstream answered 200 with an error: {str(said)[:200]!a}. Retry.")


def usage_of(usage: object) -> Usage | None:
    """The `usage` member of a chat or embeddings answer; None where it does not say (absent, malformed or all zero)."""
    if not isinstance(usage, dict):
        return None
    tokens_in, tokens_out = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if tokens_out is None:
        total = _count(usage, "total_tokens")
        tokens_out = None if total is None or tokens_in is None else max(0, total - tokens_in)
    if tokens_in is None or tokens_out is None or tokens_in + tokens_out == 0:
        return None
    details_in, details_out = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return Usage(
        input_tokens=tokens_in,
        cached_input_tokens=_count(details_in, "cached_tokens") or 0,
        audio_input_tokens=_count(details_in, "audio_tokens") or 0,
        output_tokens=tokens_out,
        audio_output_tokens=_count(details_out, "audio_tokens") or 0,
    )


def _count(of: object, name: str) -> int | None:
    value = of.get(name) if isinstance(of, dict) else None
    return value if type(value) is int and 0 <= value <= MAX_INT else None
