"""POST /v1/chat/completions: JSON or server-sent events, priced by tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from oxyy_proxy.endpoints.base import (
    Answer,
    Ask,
    Endpoint,
    StreamMeter,
    error_answer,
    model_of,
    optional,
    optional_int,
    read_json,
    read_object,
    usage_of,
)
from oxyy_proxy.endpoints.chattext import Shape, is_plain, shape_of, skim_all, skim_each, text_bytes_of
from oxyy_proxy.errors import InvalidValue, UpstreamBadResponse
from oxyy_proxy.rules.jsonbody import JsonBody
from oxyy_proxy.rules.price import held_tokens, likely_tokens, worst_tokens_nusd
from oxyy_proxy.rules.sse import DONE, Framer, data_of, is_one_event
from oxyy_proxy.rules.types import Model, PartTokens, Target, Usage

DEFAULT_MAX_TOKENS = 4096
"""What the upstream generates at most when the body does not say (its documentation, "Chat Completions")."""

MAX_TOKENS = 10_000_000
"""More than any model generates. With `MAX_CHOICES`: the worst case at the dearest price that a policy may set, one
USD per token, is 1.28 * 10^18 nano-USD and fits a 64-bit column."""

MAX_CHOICES = 128
"""The most that `n` may be with OpenAI."""

_MEDIA: dict[str, tuple[str, str, str]] = {
    "image_url": ("image", "image_url", "url"),
    "image": ("image", "source", "data"),
    "input_audio": ("audio", "input_audio", "data"),
    "file": ("file", "file", "file_data"),
}
"""Type of a part that is not text -> its figure in PartTokens; the member, and the member of that, with its data."""

_SHOWN_CHARS = 64
"""Of a name that a client made up, in an error."""

_HAS_CHOICE = re.compile(rb'"choices"\s*:\s*\[\s*[^\s\]]').search
"""Tells a content chunk, of which not all has come yet, from the usage chunk, whose `choices` are empty."""

LESSONS = 8
"""From how many events of a stream a shape is learned: where each has its own, that costs more than it spares."""

_HEAD_BYTES = 4096
"""How far into an unfinished event its `choices` are looked for: the whole of it, each time, would be quadratic."""


class ChatAsk(Ask):
    """A chat request. `stream` and the members that bound its cost are checked; all else passes untouched."""

    __slots__ = ("_body", "_choices", "_max_tokens", "_parts", "_text_bytes", "_wants_usage", "model", "stream", "urls")

    def __init__(self, raw: bytes) -> None:
        """Raises InvalidJson or InvalidValue."""
        self._body = JsonBody(raw)
        members = self._body.members
        self.model = model_of(members)
        self.stream = bool(optional(members, "stream", bool, "true or false"))
        older = optional_int(members, "max_tokens", 0, MAX_TOKENS)
        newer = optional_int(members, "max_completion_tokens", 0, MAX_TOKENS)
        self._max_tokens = newer if older is None else older if newer is None else max(older, newer)
        self._choices = optional_int(members, "n", 1, MAX_CHOICES) or 1
        optional(members, "temperature", (int, float), "a number")
        options = optional(members, "stream_options", dict, "an object")
        self._wants_usage = bool(options and optional(options, "include_usage", bool, "true or false"))
        self._parts: list[str] = []
        self._text_bytes = len(raw)
        self.urls = ()
        in_parts = _in_parts(members)
        if in_parts:
            self._parts, media_bytes, self.urls = _media(in_parts)
            self._text_bytes = max(0, self._text_bytes - media_bytes)
            if self._parts or self.urls:
                self._body.require_unique()  # a URL that is there twice could be two

    def target(self, model: Model, parts: PartTokens) -> Target:
        tokens_in, tokens_out = self._worst_tokens(model, parts)
        return Target(model, worst_tokens_nusd(tokens_in, tokens_out, model.prices), tokens_in + tokens_out)

    def worst(self, model: Model, parts: PartTokens) -> Usage:
        tokens_in, tokens_out = self._worst_tokens(model, parts)
        return Usage(input_tokens=tokens_in, output_tokens=tokens_out)

    def _worst_tokens(self, model: Model, parts: PartTokens) -> tuple[int, int]:
        per_choice = self._max_tokens
        if per_choice is None:
            per_choice = min(DEFAULT_MAX_TOKENS, model.max_output_tokens or DEFAULT_MAX_TOKENS)
        tokens_in = held_tokens(self._text_bytes)
        if self._parts:
            tokens_in += self._part_tokens(parts)
        return tokens_in, per_choice * self._choices

    def body_for(self, model: Model) -> bytes:
        changes: dict[str, Any] = {}
        if model.name != self.model:
            changes["model"] = model.name
        if self.stream and not self._wants_usage:
            options = self._body.members.get("stream_options") or {}
            changes["stream_options"] = {**options, "include_usage": True}
        return self._body.replaced(changes) if changes else self._body.raw

    def let_go(self) -> None:
        del self._body

    def read(self, body: bytes, model: Model, parts: PartTokens) -> Answer:
        answer = read_object(body)
        usage = usage_of(answer.get("usage"))
        # The text matters only where there is no usage to go by.
        return Answer(usage, 0 if usage else text_bytes_of(answer, "message"))

    def meter(self, content_type: str, model: Model) -> ChatMeter | None:
        if self.stream and content_type.startswith("text/event-stream"):
            return ChatMeter(keep_usage=self._wants_usage)
        return None

    def likely_usage(self, model: Model, parts: PartTokens, output_bytes: int) -> Usage:
        tokens_in = likely_tokens(self._text_bytes) + self._part_tokens(parts)
        return Usage(input_tokens=tokens_in, output_tokens=likely_tokens(output_bytes), source="estimated")

    def _part_tokens(self, parts: PartTokens) -> int:
        return sum([getattr(parts, kind) for kind in self._parts])


class ChatMeter(StreamMeter):
    """A chat stream on its way to the client (see `StreamMeter`).

    Bytes pass as they come, save two things: the usage chunk that only we asked for is kept back, and `[DONE]` waits
    in `farewell` for the settlement. An event that has not come whole is passed on as soon as it cannot be either.

    Most events differ from the one before in their text alone: of those nothing else is read.
    """

    __slots__ = ("_expected", "_framer", "_keep_usage", "_lessons", "_passed", "_shape")

    def __init__(self, *, keep_usage: bool) -> None:
        super().__init__()
        self._framer = Framer()
        self._keep_usage = keep_usage
        self._passed = 0  # bytes of the unfinished event that the client already has
        self._shape: Shape | None = None
        self._expected: Shape | None = None  # the same, where an event may begin with the next byte
        self._lessons = LESSONS

    def feed(self, data: bytes) -> bytes:
        shape = self._expected
        if shape is not None:  # most pieces are one such event
            text = data.removeprefix(shape.prefix).removesuffix(shape.suffix)
            size = len(text)
            if size + shape.around_bytes == len(data) and is_plain(text):
                self.output_bytes += size + shape.more_bytes
                return data
        out: list[bytes] = []
        passed, at, tried = 0, 0, False  # what lies between `passed` and `at` passes as it is
        while at < len(data):
            if self._expected is not None:
                at, size_bytes = (skim_each if tried else skim_all)(self._expected, data, at)
                self.output_bytes += size_bytes
                tried = True
                if at == len(data):
                    break
            start, at = at, data.find(b"\n\n", at) + 2  # no cut changes what is read: this lets what follows be skimmed
            if at == 1:  # not found
                at = len(data)
            piece = data[start:at]
            now = self._read(piece)
            if now != piece:
                out += data[passed:start], now
                passed = at
        if not out:
            return data
        out = [piece for piece in (*out, data[passed:]) if piece]
        return out[0] if len(out) == 1 else b"".join(out)

    def _read(self, data: bytes) -> bytes:
        """Read these bytes, whatever they are; what the client gets now."""
        if not self._framer.tail and not self.ended and is_one_event(data):
            return data if self._learns(data) else b""
        out = []
        for event in self._framer.feed(data):
            if self._passes(event, data_of(event)):
                out.append(event[self._passed :] if self._passed else event)
            self._passed = 0
        tail = self._framer.tail
        if tail and not self.ended and (self._passed or _is_content(tail)):
            self.started = self.started or self.failure is None
            out.append(bytes(tail[self._passed :]))
            self._passed = len(tail)
        self._expected = None if tail or self.ended else self._shape
        return out[0] if len(out) == 1 else b"".join(out)

    @property
    def mid_event(self) -> bool:  # type: ignore[override]
        return self._passed > 0

    def finish(self) -> bytes:
        tail = bytes(self._framer.tail)
        self._framer = Framer()
        if not tail or not self._passes(tail, data_of(tail)):
            return b""
        rest, self._passed = tail[self._passed :], len(tail)
        return rest

    def _learns(self, event: bytes) -> bool:
        """Read one event of one line, and its shape; whether the client gets it now."""
        counted = self.output_bytes
        passes = self._passes(event, event[6:-2])
        if self._lessons and self.started and self.output_bytes > counted:
            self._lessons -= 1
            self._shape = shape_of(event, self.output_bytes - counted) or self._shape
        self._expected = None if self.ended else self._shape
        return passes

    def _passes(self, event: bytes, data: bytes) -> bool:
        """Read one event, and its data; whether the client gets it now."""
        if self.ended or data.strip() == DONE:
            self.ended = True
            self.farewell += event
            return False
        return not data or self._reads(data)  # a comment has no data, and keeps the connection alive

    def _reads(self, data: bytes) -> bool:
        """Read the data of one event; whether the client gets it."""
        chunk = read_json(data)
        if not isinstance(chunk, dict):
            if not self.started:
                self.failure = UpstreamBadResponse("The upstream's stream did not begin with JSON. Retry.")
            return True  # the client has begun to read: it sees what the upstream sent
        if chunk.get("error"):
            self.failure = error_answer(chunk["error"])
            return True
        if not self.started:
            self.started = self.failure is None
        self.output_bytes += text_bytes_of(chunk, "delta")
        said = chunk.get("usage")
        if said is None:
            return True
        self.usage = usage_of(said) or self.usage
        # What the client has a part of, it gets whole.
        return self._keep_usage or bool(self._passed) or bool(chunk.get("choices"))


def _is_content(tail: bytearray) -> bool:
    """Whether an event that has not come whole is a content chunk, by what there is of it."""
    return tail.startswith(b"data:") and _HAS_CHOICE(tail, 0, _HEAD_BYTES) is not None


def _in_parts(members: dict[str, Any]) -> list[tuple[int, list[Any]]]:
    """The messages whose content is an array of parts: their places and their parts. Raises InvalidValue for what are
    no messages."""
    messages = members.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidValue("'messages' must be a non-empty array of message objects.", param="messages")
    found = []
    for at, message in enumerate(messages):
        if type(message) is not dict or type(message.get("role")) is not str:
            raise InvalidValue("Each message must be an object with a 'role'.", param=f"messages[{at}]")
        content = message.get("content")
        if type(content) is str or content is None:
            continue
        if type(content) is list:
            found.append((at, content))
        else:
            raise InvalidValue(
                "A message's 'content' must be a string or an array of parts.", param=f"messages[{at}].content"
            )
    return found


def _media(in_parts: list[tuple[int, list[Any]]]) -> tuple[list[str], int, list[tuple[str, str]]]:
    """The kinds of the parts that are not text, the bytes of the body that they are, and the URLs in them."""
    kinds: list[str] = []
    urls: list[tuple[str, str]] = []
    size = 0
    for at, content in in_parts:
        for n, part in enumerate(content):
            if not isinstance(part, dict) or (named := part.get("type")) == "text":
                continue
            urls += (
                (url, f"messages[{at}].content[{n}].{_shown(name)}")
                for name, value in part.items()
                for url in _urls(name, value)
            )
            media = _MEDIA.get(named) if isinstance(named, str) else None
            if media:
                kinds.append(media[0])
                size += _media_size(part, *media[1:])
    return kinds, size, urls


def _media_size(part: dict[str, Any], name: str, member: str) -> int:
    """Bytes of a part that are its data or its URL, ASCII both; whatever else it holds counts as text."""
    value = part.get(name)
    if isinstance(value, dict):
        value = value.get(member)
    return len(value) if isinstance(value, str) else 0


def _urls(name: str, value: object) -> Iterator[str]:
    """What the upstream may fetch for a member of a part: `image_url`, in either of its shapes, and its like, however
    deep they stand. Data that is inline (`data:`) is fetched from nowhere."""
    if isinstance(value, str):
        if name.lower().endswith("url") and value[:5].lower() != "data:":
            yield value
    elif isinstance(value, dict):
        for member, inner in value.items():
            yield from _urls(member, inner)
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, (str, dict, list)):  # there may be millions of numbers
                yield from _urls(name, inner)


def _shown(name: str) -> str:
    """A member's name as an error can tell it: the client made it up, surrogates, length and all."""
    return ascii(name[:_SHOWN_CHARS])[1:-1]


ENDPOINT = Endpoint(
    name="chat",
    path="/chat/completions",
    bases=(frozenset({"input", "output"}),),
    parse=ChatAsk,
)
