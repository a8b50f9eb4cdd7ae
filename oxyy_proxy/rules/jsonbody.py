"""A JSON request body: its members, and the bytes with some of them changed in place.

The body goes upstream byte for byte save for what must change. No top-level key may be there twice, in any spelling: a
second `model`, or a `mod\\u0065l`, could be one model to us and another to the upstream.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import orjson

from oxyy_proxy.errors import InvalidJson

MAX_DEPTH = 128
"""Nesting that is refused beyond; parsers upstream differ above it."""

_SPACE = re.compile(r"[ \t\n\r]*")
_STRINGS_AND_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidJson(f"The body contains {name}, which is not JSON. Send a finite number or null.")


_value_at = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
"""(text, index) -> (value, index after it), at C speed."""

_dumps = json.JSONEncoder(separators=(",", ":")).encode
"""As `json.dumps`, which makes an encoder for each call that wants no spaces."""

_WORD_AS_KEY = re.compile(rb'"([A-Za-z_][A-Za-z0-9_]*)"[ \t\n\r]*:')
"""In valid JSON: every key that is a word, at any depth. A quote within a string has a backslash before it."""

_FEW_MEMBERS = 64
"""More are walked, in one pass: counting each among all keys would take quadratic time, and hold up everybody."""


class JsonBody:
    """A JSON object: `members` holds the decoded top-level values; `replaced` gives the bytes with some changed."""

    __slots__ = ("_plain", "members", "raw")

    def __init__(self, raw: bytes) -> None:
        """Parse `raw`. Raises InvalidJson: not UTF-8, not one JSON object, NaN, too deep, a top-level key twice."""
        self.raw = raw
        try:
            members = orjson.loads(raw)
        except orjson.JSONDecodeError:
            # Half a surrogate pair, which orjson refuses and clients send; or an error, which the walk words well.
            members = _walk(raw)[0]
        if not isinstance(members, dict):
            raise InvalidJson('The body must be one JSON object, such as {"model": …}.')
        self.members: dict[str, Any] = members
        self._plain = _is_plain(raw, members)
        if not self._plain and not _plainly_unique(raw, members):
            _walk(raw)
        if _may_be_too_deep(raw) and _depth(raw) > MAX_DEPTH:
            raise _too_deep()

    def require_unique(self) -> None:
        """No key may be there twice in any object, at any depth: of two values another parser may take the other one.
        Raises InvalidJson."""
        if not self._plain:
            json.loads(self.raw, object_pairs_hook=_unique, parse_int=str, parse_float=str)

    def replaced(self, changes: Mapping[str, Any]) -> bytes:
        """The body with these top-level members set; every other byte stays as it came."""
        close = self.raw.rindex(b"}")
        last = len(self.raw[:close].rstrip(b" \t\r\n"))
        head, tail = self.raw[:last], self.raw[last:]
        present = [key for key in changes if key in self.members]
        if present:
            text, pieces, at = head.decode(), [], 0
            spans = _walk(self.raw)[1]
            for (start, end), key in sorted((spans[key], key) for key in present):
                pieces += [text[at:start], _dumps(changes[key])]
                at = end
            head = "".join([*pieces, text[at:]]).encode()
        added = [f"{_dumps(key)}:{_dumps(value)}" for key, value in changes.items() if key not in self.members]
        if added and self.members:
            added[0] = "," + added[0]
        return head + ",".join(added).encode() + tail


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidJson(f"The body has the key {twice[:64]!a} twice in one object. Keep one of them.")
    return found


def _is_plain(raw: bytes, members: Mapping[str, Any]) -> bool:
    """Whether the body is, byte for byte, how `orjson` writes what it read, as it is from most clients: then no key
    can have been there twice, at any depth. One with spaces is not, which its beginning shows."""
    if raw[raw.find(b":") + 1] in b" \n":
        return False
    try:
        return orjson.dumps(members) == raw
    except TypeError:  # half a surrogate pair, or too deep
        return False


def _plainly_unique(raw: bytes, members: Mapping[str, Any]) -> bool:
    """Whether it is plain that no top-level key is there twice: each is a word that is a key once in the whole body,
    and nothing in the body is spelled with an escape that a word could hide behind."""
    if b"\\u" in raw or len(members) > _FEW_MEMBERS:
        return False
    keys = _WORD_AS_KEY.findall(raw)
    return all(keys.count(key.encode("utf-8", "surrogatepass")) == 1 for key in members)


_Spans = dict[str, tuple[int, int]]


def _walk(raw: bytes) -> tuple[dict[str, Any], _Spans]:
    """The top-level members and where each value stands, in characters. Raises InvalidJson."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidJson(f"The body is not UTF-8 (byte {error.start}). Send JSON encoded as UTF-8.") from None
    try:
        return _members(text)
    except json.JSONDecodeError as error:
        raise InvalidJson(f"The body is not valid JSON: {error}. Check it with a JSON parser.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # a number of more digits than Python converts
        raise InvalidJson(f"The body holds a number that cannot be read: {error}") from None


def _members(text: str) -> tuple[dict[str, Any], _Spans]:
    """Walk the top level; each value is decoded by the C scanner, which also says where it ends."""
    members: dict[str, Any] = {}
    spans: _Spans = {}
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise InvalidJson('The body must be one JSON object, such as {"model": …}.')
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        _require_end(text, at + 1)
        return members, spans
    while True:
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting a property name in double quotes", text, at)
        key, at = _value_at(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise json.JSONDecodeError("Expecting ':'", text, at)
        start = _skip(text, at + 1)
        value, end = _value_at(text, start)
        if key in members:
            raise InvalidJson(f"The body has the key {key!a} twice. Keep one of them.")
        members[key] = value
        spans[key] = (start, end)
        at = _skip(text, end)
        delimiter = text[at : at + 1]
        if delimiter == "}":
            _require_end(text, at + 1)
            return members, spans
        if delimiter != ",":
            raise json.JSONDecodeError("Expecting ',' or '}'", text, at)
        at = _skip(text, at + 1)


def _require_end(text: str, at: int) -> None:
    if _skip(text, at) != len(text):
        raise json.JSONDecodeError("Extra data after the object", text, at)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _too_deep() -> InvalidJson:
    return InvalidJson(f"The body is nested deeper than {MAX_DEPTH} levels. Flatten it.")


def _may_be_too_deep(raw: bytes) -> bool:
    """Whether there are so many brackets. What is left without them tells it several times as fast as `count`."""
    most = MAX_DEPTH + 1
    return len(raw) - len(raw.replace(b"[", b"", most).replace(b"{", b"", most)) > MAX_DEPTH


def _depth(raw: bytes) -> int:
    """The deepest nesting of `raw`, which is known to be valid JSON."""
    depth = deepest = 0
    for match in _STRINGS_AND_BRACKETS.finditer(raw):
        byte = raw[match.start()]
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
