"""What every endpoint provides, and the checks they share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import orjson

from oxyy_proxy.errors import InvalidValue, UpstreamBadResponse, UpstreamErrorAnswer, UpstreamFailure
from oxyy_proxy.rules.multipart import Form, Pieces, Span
from oxyy_proxy.rules.price import worst_nusd
from oxyy_proxy.rules.types import Model, PartTokens, Target, Usage

MAX_JSON_BYTES = 32 * 1024 * 1024
"""The largest JSON body that is taken."""

FORM_BYTES = 1024 * 1024
"""What a form may be larger than the files in it: its text fields, and the delimiters."""

JSON = "application/json"

MAX_INT = 2**31 - 1
"""The most that a count may be, asked for or consumed, so that no sum or cost overflows a 64-bit column."""


class StreamMeter(ABC):
    """Reads a stream on its way to the client: `feed` takes what came and returns what may go on now.

    `started`: a real event was seen (the commit point). `failure`: what came instead of one, or an error event among
    them. `ended`: the stream said that it is over. `farewell`: bytes to be sent once the settlement is durable.
    `usage`: what the upstream said. `output_bytes`: UTF-8 bytes of generated text so far, for an estimate. `mid_event`:
    the client has the beginning of an event and not its end. `events`: it is a stream of server-sent events, in which a
    failure can be told; else of bytes, which can only be broken off. `promised`: what it will have cost if it comes
    whole, None where that is not known before.
    """

    __slots__ = ("ended", "failure", "farewell", "output_bytes", "started", "usage")

    events: bool = True
    promised: Usage | None = None
    mid_event: bool = False

    def __init__(self) -> None:
        self.started = False
        self.ended = False
        self.failure: UpstreamFailure | None = None
        self.usage: Usage | None = None
        self.farewell = b""
        self.output_bytes = 0

    @abstractmethod
    def feed(self, data: bytes) -> bytes: ...

    @abstractmethod
    def finish(self) -> bytes:
        """The upstream is at its end: what was kept of an unfinished event."""


class BytesMeter(StreamMeter):
    """Passes on all bytes but the last, which waits for the settlement, so that nobody has the whole of what is not yet
    charged."""

    __slots__ = ()

    events = False

    def feed(self, data: bytes) -> bytes:
        if not data:
            return b""
        self.started = True
        kept, self.farewell = self.farewell, data[-1:]
        return kept + data[:-1]


class JobSeen(NamedTuple):
    """A video job as the upstream tells of it. `video_ms` and `size` (the resolution): of what was made, None and empty
    where it does not say."""

    job_id: str
    state: Literal["running", "completed", "failed"]
    video_ms: int | None = None
    size: str = ""


@dataclass(slots=True)
class Answer:
    """A whole answer, read: `usage` is None where the upstream did not say; `output_bytes` of generated text. `job`:
    what was asked for is being made, and will be charged when it is."""

    usage: Usage | None
    output_bytes: int = 0
    job: JobSeen | None = None


class Ask(ABC):
    """A parsed request body. `stream`: the answer is relayed as it comes. `content_type`: of the body."""

    __slots__ = ()

    model: str | None
    stream: bool = False
    content_type: str = JSON
    urls: Sequence[tuple[str, str]] = ()
    """URLs that the upstream is asked to fetch, each with the field it stands in."""
    recording: Span | str | None = None
    """Audio whose length decides the price: where it stands in the body, or as base64."""

    holds_back: bool = False
    """Nothing of an answer may go out before all of it was read, however large it is."""

    def measured(self, audio_ms: int | None) -> None:
        """The length of `recording`; None where it cannot be read."""
        raise AssertionError("nothing to be measured")

    @abstractmethod
    def worst(self, model: Model, parts: PartTokens) -> Usage:
        """The most that this model can consume for the request. Raises InvalidValue for what the model cannot do."""

    def target(self, model: Model, parts: PartTokens) -> Target:
        """The model as a target of this request, with its worst case. Raises as `worst` does."""
        worst = self.worst(model, parts)
        return Target(model, worst_nusd(worst, model.prices), worst.input_tokens + worst.output_tokens)

    @abstractmethod
    def body_for(self, model: Model) -> bytes | Pieces:
        """The body to send upstream for this model: the client's bytes save what must change."""

    def let_go(self) -> None:  # noqa: B027  # most answers end soon after
        """The body will not be sent again: it need not be kept as long as a stream runs."""

    def read(self, body: bytes, model: Model, parts: PartTokens) -> Answer:
        """A whole 200 answer. Raises UpstreamBadResponse (ambiguous) or UpstreamErrorAnswer (costs nothing)."""
        raise AssertionError("an answer that is never whole")

    def meter(self, content_type: str, model: Model) -> StreamMeter | None:
        """What reads a 200 answer of this type on its way to the client; None where it is read whole first."""
        return None

    @abstractmethod
    def likely_usage(self, model: Model, parts: PartTokens, output_bytes: int) -> Usage:
        """What was probably consumed, where the upstream did not say; never zero."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One modality. `bases`: sets of price units by any of which it can be charged. `parse` takes a JSON body,
    `parse_form` a multipart form and its Content-Type, where one is taken. `after_ambiguous`: how many attempts may
    follow one of unknown outcome, None for as many as the chain has."""

    name: str
    path: str
    bases: tuple[frozenset[str], ...]
    parse: Callable[[bytes], Ask]
    max_body_bytes: int = MAX_JSON_BYTES
    parse_form: Callable[[Form, str], Ask] | None = None
    max_form_bytes: int = 0
    after_ambiguous: int | None = None


def optional_int(members: dict[str, Any], name: str, least: int, most: int = MAX_INT) -> int | None:
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


def read_object(body: bytes, *, may_tell_error: bool = False) -> dict[str, Any]:
    """A 200 answer as an object. Raises UpstreamBadResponse; UpstreamErrorAnswer where the object is an error, unless
    it `may_tell_error` of something else."""
    answer = read_json(body)
    if not isinstance(answer, dict):
        raise UpstreamBadResponse("The upstream's answer was not a JSON object. Retry.")
    if answer.get("error") and not may_tell_error:
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
    tokens_in, tokens_out = count_of(usage, "prompt_tokens"), count_of(usage, "completion_tokens")
    if tokens_out is None:
        total = count_of(usage, "total_tokens")
        tokens_out = None if total is None or tokens_in is None else max(0, total - tokens_in)
    if tokens_in is None or tokens_out is None or tokens_in + tokens_out == 0:
        return None
    details_in, details_out = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    cached = audio_in = audio_out = 0
    if isinstance(details_in, dict) and (details_in.get("cached_tokens") or details_in.get("audio_tokens")):
        cached, audio_in = count_of(details_in, "cached_tokens") or 0, count_of(details_in, "audio_tokens") or 0
    if isinstance(details_out, dict) and details_out.get("audio_tokens"):
        audio_out = count_of(details_out, "audio_tokens") or 0
    return Usage(tokens_in, cached, audio_in, tokens_out, audio_out)


def tokens_of(said: object) -> Usage | None:
    """The tokens in the `usage` member of an answer of images or of a transcript; None where it does not say."""
    tokens_in, tokens_out = count_of(said, "input_tokens"), count_of(said, "output_tokens")
    if tokens_in is None or tokens_out is None or tokens_in + tokens_out == 0:
        return None
    return Usage(input_tokens=tokens_in, output_tokens=tokens_out)


def utf8_size(text: str) -> int:
    """Bytes of a text, in which there may be half a surrogate pair."""
    return len(text) if text.isascii() else len(utf8(text))


def utf8(text: str) -> bytes:
    """The bytes of a text, in which there may be half a surrogate pair."""
    return text.encode("utf-8", "surrogatepass")


def count_of(of: object, name: str) -> int | None:
    """A member that is a count; None where there is none that makes sense."""
    value = of.get(name) if isinstance(of, dict) else None
    return value if type(value) is int and 0 <= value <= MAX_INT else None
